"""A stranger's build: find_package, pkg-config, and the flags of `ai4land config`, each compiled, linked and run."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from building import run
from mpi import mpirun

from ai4land_coupler import buildinfo, doctor, kernel
from ai4land_coupler.errors import UsageError

C_HOST = """
#include <mpi.h>
#include <ai4land_coupler.h>
int main(int argc, char **argv)
{
    int handle = 0, status;
    MPI_Init(&argc, &argv);
    status = ai4land_init(argv[1], MPI_Comm_c2f(MPI_COMM_WORLD), &handle);
    if (status == 0) status = ai4land_finalize(handle);
    MPI_Finalize();
    return status;
}
"""
FORTRAN_HOST = """
program host
    use mpi
    use ai4land_coupler
    type(ai4land_component) :: land
    character(len=1024) :: config
    integer :: ierr
    call MPI_Init(ierr)
    call get_command_argument(1, config)
    call land%init(config, MPI_COMM_WORLD, ierr)
    if (ierr == AI4LAND_OK) call land%finalize(ierr)
    if (ierr /= AI4LAND_OK) stop 1
    call MPI_Finalize(ierr)
end program host
"""
CMAKE = """
cmake_minimum_required(VERSION 3.18)
project(stranger LANGUAGES C Fortran)
find_package(MPI REQUIRED COMPONENTS C Fortran)
find_package(ai4land_coupler 0.1 REQUIRED)
add_executable(c_host host.c)
target_link_libraries(c_host ai4land_coupler::c MPI::MPI_C)
add_executable(fortran_host host.f90)
target_link_libraries(fortran_host ai4land_coupler::fortran MPI::MPI_Fortran)
"""


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A folder with a C host and a Fortran host."""
    (tmp_path / "host.c").write_text(C_HOST)
    (tmp_path / "host.f90").write_text(FORTRAN_HOST)
    return tmp_path


def runs(program: Path, config: Path) -> None:
    """The host starts and ends a component."""
    done = mpirun(1, program, config)
    assert done.returncode == 0, done.stderr


def compile_both(folder: Path, cflags: list[str], fflags: list[str], libs: list[str]) -> tuple[Path, Path]:
    """With the MPI compilers and nothing but these flags."""
    run("mpicc", *cflags, folder / "host.c", *libs, "-o", folder / "c_host")
    run("mpifort", *fflags, folder / "host.f90", *libs, "-o", folder / "fortran_host")
    return folder / "c_host", folder / "fortran_host"


def test_find_package(prefix: Path, stranger: Path, config: Path) -> None:
    """Imported targets for both languages."""
    (stranger / "CMakeLists.txt").write_text(CMAKE)
    run("cmake", "-S", stranger, "-B", stranger / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", stranger / "build")
    runs(stranger / "build" / "c_host", config)
    runs(stranger / "build" / "fortran_host", config)


def test_pkg_config(prefix: Path, stranger: Path, config: Path) -> None:
    """One file for both languages."""
    where = {**os.environ, "PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig")}
    cflags, libs = (run("pkg-config", flag, "ai4land_coupler", env=where).split() for flag in ("--cflags", "--libs"))
    for program in compile_both(stranger, cflags, cflags, libs):
        runs(program, config)


def test_flags(prefix: Path, stranger: Path, config: Path) -> None:
    """What `ai4land config` prints for an environment is all a compiler needs."""
    cflags = buildinfo.flags(cflags=True, prefix=prefix).split()
    fflags = buildinfo.flags(fflags=True, prefix=prefix).split()
    libs = buildinfo.flags(libs=True, prefix=prefix).split()
    for program in compile_both(stranger, cflags, fflags, libs):
        runs(program, config)
    assert buildinfo.flags(cflags=True, libs=True, prefix=prefix).split() == cflags + libs


def test_an_environment_that_was_moved_or_removed(prefix: Path, stranger: Path, config: Path) -> None:
    """The installed tree works from another folder: nothing but the interpreter is remembered."""
    moved = stranger / "moved"
    shutil.copytree(prefix, moved)
    libs = buildinfo.flags(libs=True, prefix=moved).split()
    host, _ = compile_both(stranger, [f"-I{moved / 'include'}"], [f"-I{moved / 'include' / 'ai4land_coupler'}"], libs)
    runs(host, config)


def test_flags_of_an_environment_without_the_library(tmp_path: Path) -> None:
    """The error says how to build it; asking for nothing is an error too."""
    with pytest.raises(UsageError, match=r"not built in .*cmake -S fortran_shim"):
        buildinfo.flags(libs=True, prefix=tmp_path)


def test_doctor(prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor finds the library where it is built, misses it where it is not, and survives a check that fails."""
    monkeypatch.setattr(sys, "prefix", str(prefix))
    found = {finding.name: finding for finding in doctor.examine()}
    assert found["library"].ok
    assert "ABI 1" in found["library"].found
    assert found["MPI"].ok, found["MPI"].found
    assert found["packages"].ok
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert not doctor.library().ok
    assert "cmake -S fortran_shim" in doctor.library().mend

    def broken(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(1, "mpicc")

    monkeypatch.setattr(subprocess, "run", broken)
    assert not {finding.name: finding for finding in doctor.examine()}["mpi"].ok


@pytest.mark.parametrize("compiler", [None, "/nonexistent/cc"])
def test_wheel_carries_the_kernel_where_it_can_be_compiled(tmp_path: Path, compiler: str | None) -> None:
    """From a copy of the checkout; without a compiler the wheel is made all the same, and numpy serves."""
    if int(version("setuptools").partition(".")[0]) < 77:
        pytest.skip("setuptools is older than 77")
    root = Path(kernel.__file__).parent.parent
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE", "MANIFEST.in"):
        shutil.copy(root / name, tmp_path)
    shutil.copytree(root / "bindings", tmp_path / "bindings")
    skipped = shutil.ignore_patterns("*.so", "emulators", "training", "__pycache__")
    shutil.copytree(root / "ai4land_coupler", tmp_path / "ai4land_coupler", ignore=skipped)
    pip = sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "made", "."
    env = {**os.environ, **({"CC": compiler} if compiler else {})}
    subprocess.run(pip, cwd=tmp_path, env=env, check=True, capture_output=True, text=True)
    (wheel,) = (tmp_path / "made").glob("*.whl")
    carried = any(name.startswith("ai4land_coupler/_kernel.") for name in zipfile.ZipFile(wheel).namelist())
    assert carried == (compiler is None)
