# make demo    a coupled run on real data: Fortran model, MPI, ten years; results in output/demo
# make bench   what a step costs on this machine; report in output/bench
# make test    linter, type checker and every test
# make help    the rest
RANKS  ?= 2
YEARS  ?= 10
PYTHON ?= python3
TORCH  ?=
FTORCH ?=
TESTS  ?= tests

VENV  := .venv
BUILD := build
DEMO  := output/demo
BENCH := output/bench
BIN   := $(VENV)/bin
SUDO  := $(if $(filter-out 0,$(shell id -u)),sudo)

# What the system must have, as command:Debian package:conda-forge package; tests want the second list too.
NEEDS_system := mpirun:openmpi-bin:openmpi mpicc:libopenmpi-dev:openmpi-mpicc mpifort:libopenmpi-dev:openmpi-mpifort \
                gcc:gcc:c-compiler gfortran:gfortran:fortran-compiler cmake:cmake:cmake pkg-config:pkg-config:pkg-config \
                nc-config:libnetcdf-dev:libnetcdf nf-config:libnetcdff-dev:netcdf-fortran \
                Python.h:python3-dev:python ensurepip:python3-venv:python libc.so:libc6-dev:sysroot_linux-64
NEEDS_system-test := g++:g++:gxx cdo:cdo:cdo valgrind:valgrind:valgrind

# Root may run mpirun (containers), and more ranks than cores may run; for Open MPI 4 and 5.
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
export OMPI_MCA_rmaps_base_oversubscribe := 1
export PRTE_MCA_rmaps_default_mapping_policy := :oversubscribe
MPIRUN := mpirun --bind-to none -n

# $(call logged,NAME): run quietly into a log; where it fails show the log's end.
logged = >$(BUILD)/logs/$(1).log 2>&1 || { tail -n 30 $(BUILD)/logs/$(1).log; echo "failed; all of it: $(BUILD)/logs/$(1).log"; exit 1; }

# esmpy is on no package index: where the interpreter has it, as in a conda environment, the environment looks there too.
ESMPY := import importlib.util as u; raise SystemExit(u.find_spec('esmpy') is None)

.PHONY: demo bench test long hosts help clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo $(VENV)/.library $(BUILD)/fortran_host
	@rm -rf $(DEMO)
	@echo "== $(YEARS) model years on $(RANKS) ranks"
	@$(BIN)/python examples/prepare_demo.py $(DEMO) --years $(YEARS)
	@$(MPIRUN) $(RANKS) $(BUILD)/fortran_host $(DEMO)/host.nml
	@$(BIN)/python examples/check_demo.py $(DEMO)

bench: $(VENV)/.demo $(VENV)/.library $(BUILD)/bench_host $(if $(FTORCH),$(BUILD)/ftorch_host)
	@$(BIN)/ai4land bench --host $(BUILD)/bench_host $(if $(FTORCH),--ftorch $(BUILD)/ftorch_host) --out $(BENCH) \
	  $(BENCH_OPTIONS)

test: $(BUILD)/.system-test $(VENV)/.test $(VENV)/.library hosts
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest $(TESTS)

long: $(BUILD)/.system-test $(VENV)/.test $(VENV)/.library hosts
	$(BIN)/pytest -m long $(TESTS)

hosts: $(BUILD)/fortran_host $(BUILD)/c_host $(BUILD)/bench_host

help:
	@echo "make demo   [RANKS=2] [YEARS=10]   coupled run on real data, results in $(DEMO)"
	@echo "make bench  [BENCH_OPTIONS=--quick]   what a step costs here, report and page in $(BENCH)"
	@echo "            [FTORCH=PREFIX]        beside the same U-Net through the FTorch installed there"
	@echo "make test   [TESTS=tests/unit]     linter, type checker, tests"
	@echo "make long   [TESTS=tests]          tests that take long: many kills, many years, much fuzz"
	@echo "make hosts                         compile the example hosts into $(BUILD)"
	@echo "make clean                         remove $(VENV), $(BUILD) and output"
	@echo "TORCH=...   a requirement or wheel to install in place of the pinned torch; PYTHON=... another interpreter"

clean:
	rm -rf $(VENV) $(BUILD) output

# --- stages; each leaves a stamp and is skipped the next time -------------------------------------------------------

$(BUILD)/.system $(BUILD)/.system-test:
	@mkdir -p $(BUILD)/logs
	@missing=""; for entry in $(NEEDS_$(@F:.%=%)); do need=$${entry%%:*}; case $$need in \
	  Python.h)  $(PYTHON) -c 'import os, sysconfig; open(os.path.join(sysconfig.get_paths()["include"], "Python.h"))';; \
	  ensurepip) $(PYTHON) -c 'import ensurepip, venv';; \
	  libc.so)   test -e "$$($${CC:-gcc} -print-file-name=libc.so)";; \
	  gcc)       command -v $${CC:-gcc};; \
	  gfortran)  command -v $${FC:-gfortran};; \
	  *)         command -v $$need;; \
	esac >/dev/null 2>&1 || missing="$$missing $$entry"; done; \
	if [ -n "$$missing" ] && command -v apt-get >/dev/null; then \
	  packages=$$(for m in $$missing; do echo $$m | cut -d: -f2; done | sort -u | tr '\n' ' '); \
	  echo "== installing with apt: $$packages"; \
	  { $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive \
	    apt-get install -qq -y --no-install-recommends $$packages; } $(call logged,$(@F:.%=%)) \
	elif [ -n "$$missing" ]; then \
	  echo "missing, and no apt-get here to install it; the conda-forge package of each:"; \
	  for m in $$missing; do echo "  $${m%%:*}: $${m##*:}"; done; \
	  echo "all of them: conda env create -f environment.yml, conda activate ai4land, make again"; exit 1; \
	fi
	@touch $@

$(BUILD)/constraints.txt: constraints.txt | $(BUILD)/.system
	@$(if $(TORCH),grep -v '^torch==',cat) $< >$@

$(VENV)/.python: constraints.txt | $(BUILD)/constraints.txt
	@echo "== Python environment $(VENV) with $(or $(TORCH),torch as pinned)"
	@{ $(PYTHON) -m venv $$($(PYTHON) -c "$(ESMPY)" && echo --system-site-packages) $(VENV) && $(BIN)/pip install -c $(BUILD)/constraints.txt $(or $(TORCH),torch); } $(call logged,torch)
	@touch $@

$(VENV)/.demo: pyproject.toml setup.py $(wildcard bindings/kernel/*) $(VENV)/.python | $(BUILD)/constraints.txt
	@echo "== ai4land_coupler and what it needs"
	@$(BIN)/pip install -c $(BUILD)/constraints.txt -e '.[plot,yac]' $(call logged,demo)
	@touch $@

$(VENV)/.test: $(VENV)/.demo | $(BUILD)/constraints.txt
	@echo "== test tools"
	@$(BIN)/pip install -c $(BUILD)/constraints.txt -e '.[test]' $(call logged,test)
	@touch $@

$(VENV)/.library: $(wildcard bindings/*.* fortran_shim/* fortran_shim/*/*) $(VENV)/.demo
	@echo "== C library and Fortran module"
	@{ cmake -S fortran_shim -B $(BUILD)/library -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX=$(abspath $(VENV)) \
	  -DPython=$(abspath $(BIN)/python) && cmake --build $(BUILD)/library && \
	  cmake --install $(BUILD)/library; } $(call logged,library)
	@touch $@

HOST := $(addprefix examples/fortran_host/host_,errors.f90 grid.f90 land_use.f90 history.f90 checks.f90) examples/fortran_host/host.f90

$(BUILD)/fortran_host: $(HOST) $(VENV)/.library
	@echo "== Fortran host"
	@mkdir -p $(BUILD)/fortran_host.modules
	@mpifort -O2 -g -fopenmp -J $(BUILD)/fortran_host.modules $$($(BIN)/ai4land config --fflags) $$(nf-config --fflags) \
	  $(HOST) $$($(BIN)/ai4land config --libs) $$(nf-config --flibs) -o $@ $(call logged,fortran_host)

$(BUILD)/bench_host: examples/bench_host/bench_host.f90 $(VENV)/.library
	@echo "== Fortran host of the bench"
	@mpifort -O2 -g $$($(BIN)/ai4land config --fflags) $< $$($(BIN)/ai4land config --libs) -o $@ $(call logged,bench_host)

# FTorch is on no package index: its own CMake installs it, against the torch of $(VENV).
$(BUILD)/ftorch_host: examples/ftorch_host/ftorch_host.f90 $(VENV)/.demo
	@echo "== Fortran host of FTorch"
	@mkdir -p $(BUILD)/logs
	@gfortran -O2 -g -I$(FTORCH)/include/ftorch $< -L$(FTORCH)/lib -lftorch \
	  -Wl,-rpath,$(FTORCH)/lib:$$($(BIN)/python -c 'import os, torch; print(os.path.join(torch.__path__[0], "lib"))') \
	  -o $@ $(call logged,ftorch_host)

$(BUILD)/c_host: examples/c_host/host.c $(VENV)/.library
	@echo "== C host"
	@mpicc -O2 -g -std=c11 $$($(BIN)/ai4land config --cflags) $$(nc-config --cflags) $< \
	  $$($(BIN)/ai4land config --libs) $$(nc-config --libs) -o $@ $(call logged,c_host)
