"""The host's process is left as it was, whatever the host brought with it and whoever loaded it."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import netCDF4
import numpy as np
import pytest
from building import HOSTS, Compile, run
from mpi import environment, mpirun


@pytest.mark.parametrize(("ranks", "lag"), [(1, 0), (2, 0), (2, 1)])
def test_process_is_left_as_found(compiled: Compile, config: Path, tmp_path: Path, ranks: int, lag: int) -> None:
    """A host that traps floating-point exceptions and flushes denormals all through its run, failing hooks included.

    Compared after every hook: traps, flags, rounding, signal handlers and mask, timer, OpenMP threads, folder, locale,
    environment, umask, limits, processors, the sequence of rand, MPI error handlers; and nothing is on stdout.
    """
    config.write_text(config.read_text() + f"lag: {lag}\n")
    done = mpirun(ranks, compiled("neutral.c", more=("-fopenmp",)), config, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("ranks", [1, 3])
def test_host_with_its_own_netcdf_and_openmp(compiled: Compile, config: Path, tmp_path: Path, ranks: int) -> None:
    """A netCDF-4 file of the system's library, open across every hook, holds what was written between them."""
    compile_flags, link_flags = (run("nf-config", flag).split() for flag in ("--fflags", "--flibs"))
    before = (*compile_flags, "-fopenmp", "-ffpe-trap=invalid,zero,overflow", str(HOSTS / "check_host.f90"))
    done = mpirun(ranks, compiled("netcdf_openmp.f90", before=before, more=tuple(link_flags)), config, tmp_path)
    assert done.returncode == 0, done.stderr
    for rank in range(ranks):
        with netCDF4.Dataset(tmp_path / f"history{rank}.nc") as file:
            forest = file["forest"][:]
        rows = np.arange(rank + 1, 17, ranks)
        cell = (rows[:, None] - 1) * 32 + np.arange(1, 33)
        expected = [_forest(cell, year) for year in range(1999, 2003)]
        np.testing.assert_allclose(forest, expected, rtol=0, atol=1e-12)


def _forest(cell: np.ndarray, year: int) -> np.ndarray:
    weight = [1 + (cell * (m + 2) + 5 * m * m + year) % 13 for m in range(1, 5)]
    return weight[0] / np.sum(weight, axis=0)


@pytest.mark.parametrize("lock", ["held", "released"])
def test_another_python_runs_already(compiled: Compile, config: Path, lock: str) -> None:
    """The plugin joins an interpreter that the host started, and leaves it running."""
    read = sysconfig.get_config_var
    more = (f"-L{read('LIBDIR')}", f"-lpython{read('LDVERSION')}", f"-Wl,-rpath,{read('LIBDIR')}")
    program = compiled("other_python.c", before=(f"-I{sysconfig.get_path('include')}",), more=more)
    done = mpirun(1, program, config, lock, env={"PYTHONHOME": sys.base_prefix})
    assert done.returncode == 0, done.stderr


def test_host_loaded_by_dlopen(compiled: Compile, config: Path, tmp_path: Path) -> None:
    """A model in a library whose symbols stay local still gets a Python whose extension modules load."""
    model = compiled("cycle.c", before=("-shared", "-fPIC", "-Dmain=model_main"))
    loader = tmp_path / "loader"
    run("gcc", "-Wall", "-Werror", HOSTS / "loader.c", "-o", loader, "-ldl")
    needed = subprocess.run(["readelf", "-d", loader], capture_output=True, text=True, check=True).stdout
    assert "python" not in needed
    assert "mpi" not in needed
    done = mpirun(1, loader, model, config, tmp_path, env=environment())
    assert done.returncode == 0, done.stderr
