"""Hosts that use ESMF themselves, linked in every way: the plugin starts a copy of its own and leaves theirs alone."""

import os
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from building import HOSTS, Compile, run
from mpi import ROOT, mpirun

from ai4land_coupler.regrid import esmfmk

LACKS = "; ".join(problem.found for problem in esmfmk.preflight())
pytestmark = pytest.mark.skipif(bool(LACKS), reason=f"ESMF cannot be used here: {LACKS}")


@pytest.fixture(scope="module")
def esmf() -> esmfmk.MakeFile:
    return esmfmk.MakeFile.read(esmfmk.find())


@pytest.fixture
def config(config: Path) -> Path:
    config.write_text(config.read_text() + "regrid:\n  engine: esmf\n")
    return config


def linked(esmf: esmfmk.MakeFile, how: str) -> tuple[str, ...]:
    """What the linker of a host gets."""
    folder, archive = esmf.library.parent, esmf.library.with_name("libesmf.a")
    if how == "shared":
        return (f"-L{folder}", f"-Wl,-rpath,{folder}", *shlex.split(esmf.values["ESMF_F90ESMFLINKLIBS"]))
    exported = ("-Wl,-export-dynamic",) if how == "archive, exported" else ()
    return (str(archive), *exported, *shlex.split(esmf.values["ESMF_F90LINKLIBS"]), "-fopenmp")


def columns(program: Path, config: Path, folder: Path, starter: str, library: str = "-", **env: str) -> np.ndarray:
    """Host columns (4 classes, 512 cells) of the land component on ranks 1 to 3 of 4, each with every third row."""
    cwd = folder / "cwd"
    cwd.mkdir(exist_ok=True)
    done = mpirun(4, program, config, folder / "columns", starter, library, env=env, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert os.listdir(cwd) == [], "no log files of ESMF"
    out = np.full((4, 16, 32), np.nan)
    for rank in range(3):
        out[:, rank::3] = np.fromfile(folder / f"columns{rank}").reshape(4, -1, 32)
    return out.reshape(4, -1)


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    """The state that the host puts."""
    cell = np.arange(1, 513)
    weight = np.array([1 + (cell * (m + 2) + 5 * m * m + 2000) % 13 for m in range(1, 5)], dtype=np.float64)
    return weight / weight.sum(0)


@pytest.fixture(scope="module")
def first() -> dict[str, np.ndarray]:
    return {}


def host(compiled: Compile, esmf: esmfmk.MakeFile, how: str) -> Path:
    include = tuple(shlex.split(esmf.values["ESMF_F90COMPILEPATHS"]))
    before = (*include, "-Wno-unused-dummy-argument", str(HOSTS / "check_host.f90"))
    return compiled("esmf_host.f90", before=before, more=linked(esmf, how))


@pytest.mark.parametrize("starter", ["model", "esmf"])
@pytest.mark.parametrize("how", ["shared", "archive, exported", "archive"])
def test_host_with_its_own_esmf(compiled, esmf, config, expected, first, tmp_path, how, starter) -> None:
    """The plugin on a component's VM; then ESMF regrids on, is finalised, and the process ends with 0."""
    found = columns(host(compiled, esmf, how), config, tmp_path, starter, esmf.library.name)
    assert np.abs(found.sum(0) - 1).max() < 1e-13
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.5  # host cells share coarse cells with neighbours
    assert first.setdefault("columns", found).tobytes() == found.tobytes()


def test_settings_for_the_host_s_esmf_stay_its_own(compiled, esmf, config, tmp_path) -> None:
    """A profile the host asks for is of the host's ESMF: one summary, of four PETs."""
    env = {"ESMF_RUNTIME_PROFILE": "ON", "ESMF_RUNTIME_PROFILE_OUTPUT": "TEXT"}
    program, cwd = host(compiled, esmf, "shared"), tmp_path / "profiles"
    cwd.mkdir()
    done = mpirun(4, program, config, tmp_path / "columns", "model", "-", env=env, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(cwd)) == [f"ESMF_Profile.{rank}" for rank in range(4)]


@pytest.fixture(scope="module")
def with_shim(prefix: Path, esmf: esmfmk.MakeFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library built where ESMFMKFILE names an ESMF."""
    build, prefix = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("prefix")
    options = (f"-DCMAKE_INSTALL_PREFIX={prefix}", f"-DPython={sys.executable}", f"-DESMFMKFILE={esmf.path}")
    run("cmake", "-S", ROOT / "fortran_shim", "-B", build, *options)
    run("cmake", "--build", build)
    run("cmake", "--install", build)
    return prefix


@pytest.mark.parametrize("how", ["shared", "archive, exported"])
def test_start_by_the_shim(compiled, esmf, config, first, with_shim, tmp_path, how) -> None:
    """The compiled start is beside the library that the host has loaded, and is taken from there."""
    program = host(compiled, esmf, how)
    found = columns(program, config, tmp_path, "model", "libai4land_esmf.so", LD_LIBRARY_PATH=str(with_shim / "lib"))
    assert first.setdefault("columns", found).tobytes() == found.tobytes()


@pytest.mark.parametrize("ranks", [1, 2])
def test_process_is_left_as_found(compiled, config, tmp_path, ranks) -> None:
    """Traps, rounding, signals, threads, folder, locale, environment and MPI error handlers, with ESMF started.

    A C program that is not compiled with -fPIC has MPI's constants in itself.
    """
    done = mpirun(ranks, compiled("neutral.c", more=("-fopenmp",)), config, tmp_path, "0.5")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("how", ["shared", "archive, exported"])
def test_c_host_with_mpi_constants_and_esmf_in_itself(compiled, esmf, config, tmp_path, how) -> None:
    """The plugin's ESMF asks its own symbols first, and yet uses the MPI_INT that MPI uses."""
    whole = ("-Wl,--whole-archive", str(esmf.library.with_name("libesmf.a")), "-Wl,--no-whole-archive")
    more = linked(esmf, how) if how == "shared" else (*whole, *linked(esmf, how), "-lgfortran")
    program = compiled("neutral.c", more=("-fopenmp", "-Wl,--no-as-needed", *more))
    assert "ompi_mpi_int" in run("nm", program)
    done = mpirun(2, program, config, tmp_path, "0.5")
    assert done.returncode == 0, done.stderr
