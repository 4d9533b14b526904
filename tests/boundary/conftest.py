"""Builds the library once, as a user does, and compiles hosts against it."""

import functools
import sys
import tempfile
from pathlib import Path

import pytest
import small_emulator
from building import HOSTS, Compile, run
from mpi import ROOT


@pytest.fixture(scope="session")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the library of this checkout is installed, built for the running interpreter."""
    build, prefix = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("prefix")
    source = ROOT / "fortran_shim"
    run("cmake", "-S", source, "-B", build, f"-DCMAKE_INSTALL_PREFIX={prefix}", f"-DPython={sys.executable}")
    built = run("cmake", "--build", build)
    assert "warning" not in built.lower()
    run("cmake", "--install", build)
    return prefix


@pytest.fixture(scope="session")
def compiled(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """compiled("name.c") -> the host program, made by the MPI compiler of its language with all warnings on."""
    out = tmp_path_factory.mktemp("hosts")
    include, lib = prefix / "include", prefix / "lib"
    link = [f"-L{lib}", "-lai4land_coupler_fortran", "-lai4land_coupler", f"-Wl,-rpath,{lib}"]

    @functools.cache
    def compiled(source: str, before: tuple[str, ...] = (), more: tuple[str, ...] = ()) -> Path:
        program = Path(tempfile.mkdtemp(dir=out)) / "host"
        fortran = ["mpifort", "-std=f2008", "-Wno-compare-reals", f"-J{program.parent}"]
        compiler = fortran if source.endswith(".f90") else ["mpicc", "-std=gnu99"]
        flags = ["-Wall", "-Wextra", "-Werror", "-g", f"-I{include}", f"-I{include / 'ai4land_coupler'}"]
        run(*compiler, *flags, *before, HOSTS / source, "-o", program, *link, "-lm", *more)
        return program

    return compiled


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small emulator."""
    return small_emulator.build(tmp_path_factory.mktemp("emulator"))


@pytest.fixture
def config(emulator: Path, tmp_path: Path) -> Path:
    """A configuration that names the small emulator and nothing else."""
    path = tmp_path / "ai4land.yaml"
    path.write_text(f"emulator: {emulator}\n")
    return path
