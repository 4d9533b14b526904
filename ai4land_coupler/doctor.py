"""What works on this machine, what is missing, and how to mend it: `ai4land doctor`."""

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ai4land_coupler import __version__, buildinfo, kernel
from ai4land_coupler.errors import UsageError
from ai4land_coupler.regrid import esmfmk, esmfstart

LIMIT = 60.0
"""Seconds that a program the doctor tries may take."""

MPI_VERSION_OF_C = r"""
#include <mpi.h>
#include <stdio.h>
int main(void)
{
    char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;
    MPI_Get_library_version(text, &length);
    puts(text);
    return 0;
}
"""
MPI_VERSION_OF_PYTHON = """
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print(MPI.Get_library_version())
"""


@dataclass(frozen=True)
class Finding:
    """One thing looked at: whether it is well, what was found, and how to mend it; `needed` by every run or not."""

    name: str
    ok: bool
    found: str
    mend: str = ""
    needed: bool = True


def examine() -> list[Finding]:
    """Look at everything the plugin uses; what cannot even be looked at is a finding that is not ok."""
    return [_tried(check) for check in CHECKS]


def python() -> Finding:
    """The interpreter."""
    version = sys.version.split()[0]
    return Finding("python", sys.version_info >= (3, 11), f"{version}, {sys.executable}", "use Python 3.11 or later")


def packages() -> Finding:
    """The Python packages every run needs."""
    names = ("numpy", "torch", "mpi4py", "netCDF4", "cffi", "pydantic", "PyYAML", "safetensors", "typer", "rich")
    versions = {name: _version(name) for name in names}
    missing = " ".join(name for name, version in versions.items() if version is None)
    found = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return Finding("packages", not missing, found, f"pip install {missing}")


def processor() -> Finding:
    """What the network runs on."""
    import mpi4py
    import torch

    mpi4py.rc.initialize = False  # what follows imports MPI, and a look needs none running

    from ai4land_coupler.device import FAST_BFLOAT16
    from ai4land_coupler.provenance import processor as model
    from ai4land_coupler.provenance import processor_flags

    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in processor_flags()]
    found = f"{model()}, {os.cpu_count()} cores, {' '.join(known)}; torch {torch.__version__}"
    fast = not FAST_BFLOAT16.isdisjoint(known)
    remedy = "none needed: the network runs in float32, slower than bfloat16 on processors with avx512_bf16 or amx_bf16"
    return Finding("processor", fast, found, remedy, False)


def gpu() -> Finding:
    """CUDA devices, for `device: cuda`."""
    import mpi4py
    import torch

    mpi4py.rc.initialize = False

    from ai4land_coupler.device import visible

    models = [model for _, model in visible()]
    found = (
        f"{len(models)} CUDA devices: {', '.join(models)}" if models else f"none that torch {torch.__version__} sees"
    )
    return Finding("GPU", bool(models), found, "none needed: the network runs on the processor", False)


def mpi() -> Finding:
    """mpi4py and mpicc are of one MPI."""
    of_python = _first_line(sys.executable, "-c", MPI_VERSION_OF_PYTHON)
    compiler = shutil.which("mpicc")
    if compiler is None:
        mend = "to couple a C or Fortran host install an MPI with its compilers (Debian: libopenmpi-dev openmpi-bin)"
        return Finding("MPI", False, f"mpi4py: {of_python}; no mpicc", mend, False)
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "version.c"), Path(folder, "version")
        source.write_text(MPI_VERSION_OF_C)
        subprocess.run([compiler, source, "-o", program], check=True, capture_output=True, timeout=LIMIT)
        of_c = _first_line(str(program))
    found = f"{of_c} for both" if of_c == of_python else f"mpi4py: {of_python}; {compiler}: {of_c}"
    mend = (
        f"make mpi4py use the MPI of the host: MPICC={compiler} pip install --no-binary mpi4py --force-reinstall mpi4py"
    )
    return Finding("MPI", of_c == of_python, found, mend)


def library() -> Finding:
    """libai4land_coupler, for C and Fortran hosts, is built and loads."""
    try:
        buildinfo.flags(libs=True)
    except UsageError as error:
        found, _, mend = str(error).partition("; ")
        return Finding("library", False, found, mend, False)
    path = Path(sys.prefix, "lib", "libai4land_coupler.so")
    version = ctypes.CDLL(str(path)).ai4land_abi_version()
    return Finding("library", True, f"{path}, ABI {version}", needed=False)


def compiled() -> Finding:
    """The compiled kernel for coarse cells; numpy does the same, slower."""
    mend = "install a C compiler and Python's headers (Debian: gcc python3-dev), then ai4land_coupler again with pip"
    return Finding("kernel", kernel.ready(), f"totals and maps by {kernel.name()}", mend, False)


def fortran() -> Finding:
    """Compilers to build the library and a Fortran host."""
    programs = {name: shutil.which(name) for name in ("mpifort", "gfortran", "cmake", "pkg-config")}
    missing = [name for name, path in programs.items() if path is None]
    found = ", ".join(path for path in programs.values() if path) or "none"
    packages = (
        "Debian: libopenmpi-dev gfortran cmake pkg-config; conda-forge: openmpi-mpifort gfortran cmake pkg-config"
    )
    return Finding("compilers", not missing, found, f"install {' '.join(missing)} ({packages})", False)


def yac() -> Finding:
    """The engine for hosts that are no latitude-longitude grids."""
    version = _version("yac")
    return Finding("YAC", version is not None, f"yac {version}", "pip install yac, or give regrid.file", False)


def esmf() -> Finding:
    """ESMF through esmpy, for hosts that are no latitude-longitude grids: what it lacks here, without starting it."""
    problems, path, version = esmfmk.preflight(), esmfmk.find(), esmfmk.esmpy_version()
    found = [f"esmpy {version}"] if version else []
    with contextlib.suppress(OSError):  # which is one of the problems then
        makefile = esmfmk.MakeFile.read(path or Path())
        mpi, compiler = (makefile.options.get(name, "unknown") for name in ("ESMF_COMM", "ESMF_COMPILER"))
        found.append(f"ESMF {makefile.version or 'of no version'} ({mpi}, {compiler}) of {path}")
        if not (problems or esmfstart.startable(makefile)):
            problems = [esmfstart.unknown(makefile)]
    if not problems:
        return Finding("ESMF", True, ", ".join(found), needed=False)
    mend = "; ".join(dict.fromkeys(problem.mend for problem in problems))
    return Finding("ESMF", False, "; ".join([*(problem.found for problem in problems), *found]), mend, False)


def emulators() -> Finding:
    """The emulators of the package, loaded and their hashes checked."""
    from ai4land_coupler.emulator import Emulator, shipped_names

    found = [f"{name} {Emulator.load(name).hash[:12]}" for name in shipped_names()]
    mend = f"the package ai4land_coupler {__version__} is not complete: install it again"
    return Finding("emulators", bool(found), ", ".join(found) or "none", mend)


CHECKS: tuple[Callable[[], Finding], ...] = (
    python, packages, processor, gpu, mpi, library, compiled, fortran, yac, esmf, emulators,
)  # fmt: skip


def _tried(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:  # a machine so broken that a look at it fails is what the doctor is for
        return Finding(check.__name__, False, f"{type(error).__name__}: {error}", "mend what the text names first")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _first_line(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT)
    return done.stdout.strip("\0 \n").splitlines()[0]
