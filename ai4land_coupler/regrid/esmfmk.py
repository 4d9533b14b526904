"""What stands between this process and ESMF, found without loading either ESMF or esmpy: esmf.mk and what it names."""

import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ai4land_coupler.regrid import elf

LIBRARY = "libesmf_fullylinked.so"

_MPI = re.compile(r"libmpi(ch|_gnu\w*|_cray\w*|_intel\w*)?\.so")
_INSTALL = "conda install -c conda-forge esmpy; it is not on PyPI, from source: pip install ESMF/src/addon/esmpy"


@dataclass(frozen=True)
class Problem:
    """Something that keeps ESMF from being used here, and how to mend it."""

    found: str
    mend: str

    def __str__(self) -> str:
        return f"{self.found} (mend: {self.mend})"


@dataclass(frozen=True)
class MakeFile:
    """An esmf.mk: `values` of its NAME=value lines, `options` of the `# NAME: value` lines at its end."""

    path: Path
    values: dict[str, str]
    options: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> "MakeFile":
        """Raises OSError where the file cannot be read."""
        text = path.read_text(errors="replace")
        values = {name: value.strip() for name, value in re.findall(r"^(ESMF_\w+) *=(.*)$", text, re.MULTILINE)}
        options = {name: value.strip() for name, value in re.findall(r"^# *(ESMF_\w+):(.*)$", text, re.MULTILINE)}
        return cls(path, values, options)

    @property
    def version(self) -> str:
        """As "8.9.0"; of a beta with the number of its snapshot where that is known: "9.0.0b01"."""
        git = re.match(r"v(\d+\.\d+\.\d+b\d+)", self.values.get("ESMF_VERSION_STRING_GIT", ""))
        return git.group(1) if git and self.beta else self.values.get("ESMF_VERSION_STRING", "")

    @property
    def beta(self) -> bool:
        """Not a release."""
        return "beta" in self.values.get("ESMF_VERSION_STRING", "")

    @property
    def number(self) -> tuple[int, ...]:
        """Major, minor and patch number."""
        return triplet(self.version)

    @property
    def library(self) -> Path:
        """The shared library that esmpy loads."""
        return Path(self.values.get("ESMF_LIBSDIR", ""), LIBRARY)

    @property
    def serial(self) -> bool:
        """Built without MPI: every process is an ESMF of its own."""
        return "mpiuni" in self.options.get("ESMF_COMM", "")


def triplet(version: str) -> tuple[int, ...]:
    """The first three numbers of a version."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def default_path() -> Path:
    """Where a conda environment has its esmf.mk."""
    return Path(sys.prefix, "lib", "esmf.mk")


def find() -> Path | None:
    """The esmf.mk that esmpy will read: ESMFMKFILE, else the environment's; None where neither is a file."""
    given = os.environ.get("ESMFMKFILE")
    path = default_path() if given is None else Path(given)
    return path if path.is_file() else None


def esmpy_version() -> str | None:
    """The version of esmpy, without importing it; None where it is not installed."""
    try:
        found = importlib.util.find_spec("esmpy") is not None
        return importlib.metadata.version("esmpy") if found else None
    except (ImportError, ValueError):
        return None


def preflight() -> list[Problem]:
    """Everything that keeps ESMF from being used in this process; no problem does not promise that it starts."""
    return list(_problems())


def _problems() -> Iterator[Problem]:
    if not hasattr(os, "RTLD_DEEPBIND"):
        yield Problem(
            "this system's C library is not glibc: without RTLD_DEEPBIND the plugin's ESMF and the host's would mix",
            "use regrid.engine yac or latlon, or a weight file",
        )
    esmpy = esmpy_version()
    if esmpy is None:
        yield Problem(f"esmpy is not installed for {sys.prefix}", _INSTALL)
    path = find()
    if path is None:
        yield _no_makefile()
        return
    try:
        makefile = MakeFile.read(path)
    except OSError as reason:
        yield Problem(f"{path} cannot be read: {reason}", f"make it readable, or {_INSTALL}")
        return
    if esmpy is not None:
        yield from _versions(makefile, esmpy)
    yield from _build(makefile)


def _no_makefile() -> Problem:
    given, default = os.environ.get("ESMFMKFILE"), default_path()
    if given is None:
        return Problem(
            f"there is no esmf.mk: ESMFMKFILE is not set and {default} is not there",
            "conda install -c conda-forge esmpy brings one; for another ESMF set ESMFMKFILE to its esmf.mk",
        )
    there = default.is_file()
    mend = f"unset ESMFMKFILE: {default} is there" if there else "set ESMFMKFILE to the esmf.mk of an installed ESMF"
    return Problem(f"ESMFMKFILE is stale: {given} is not there", mend)


def _versions(makefile: MakeFile, esmpy: str) -> Iterator[Problem]:
    esmf = makefile.values.get("ESMF_VERSION_STRING", "")
    if triplet(esmf) == triplet(esmpy) and makefile.beta == bool(re.search(r"b\d+", esmpy)):
        return
    found = f"esmpy {esmpy} does not go with ESMF {makefile.version or 'of no version'} of {makefile.path}"
    default = default_path()
    if "ESMFMKFILE" in os.environ and default.is_file() and default.resolve() != makefile.path.resolve():
        there = MakeFile.read(default).values.get("ESMF_VERSION_STRING", "")
        if triplet(there) == triplet(esmpy):
            yield Problem(f"ESMFMKFILE is stale: {found}", f"unset ESMFMKFILE: {default} is of ESMF {there}")
            return
    release = ".".join(map(str, triplet(esmpy)))
    yield Problem(found, f"set ESMFMKFILE to the esmf.mk of an ESMF {release}, or install esmpy of the version of ESMF")


def _build(makefile: MakeFile) -> Iterator[Problem]:
    compiler = makefile.options.get("ESMF_COMPILER", "unknown")
    if "gfortran" not in compiler:
        yield Problem(
            f"ESMF of {makefile.path} was compiled with {compiler}: esmpy gives no weights but of gfortran builds",
            "use an ESMF built with ESMF_COMPILER=gfortran, for the plugin alone; the host may keep its own",
        )
    try:
        needed = elf.read(makefile.library).needed
    except OSError as reason:
        yield Problem(
            f"{makefile.library}, which {makefile.path} names, cannot be read: {reason.strerror}",
            "build ESMF with shared libraries (ESMF_SHARED_LIB_BUILD=ON), or correct ESMF_LIBSDIR if it was moved",
        )
        return
    except ValueError as reason:
        yield Problem(str(reason), "use an ESMF that was built for this machine")
        return
    if not makefile.serial:
        yield from _other_mpi(makefile, {name for name in needed if _MPI.match(name)})


def _other_mpi(makefile: MakeFile, wanted: set[str]) -> Iterator[Problem]:
    here, where = loaded_mpi(), "this process has loaded"
    if not here:
        here, where = _mpi_of_mpi4py(), "mpi4py is for"
    if wanted and here and not wanted & here:
        yield Problem(
            f"ESMF of {makefile.path} is built on another MPI: it needs {_and(wanted)}, {where} {_and(here)}",
            "install the ESMF of this MPI, as conda install -c conda-forge 'esmf=*=mpi_openmpi*' or "
            "'esmf=*=mpi_mpich*', or one without MPI, 'esmf=*=nompi*'",
        )


def mapped() -> set[Path]:
    """The files mapped into this process; none where the system does not tell."""
    try:
        lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    except OSError:
        return set()
    return {Path(fields[5]) for line in lines if len(fields := line.split(maxsplit=5)) == 6 and fields[5][0] == "/"}


def loaded_mpi() -> set[str]:
    """The names of the MPI libraries in this process."""
    return {_soname(path) for path in mapped() if _MPI.match(path.name)}


def _mpi_of_mpi4py() -> set[str]:
    """The names of the MPI libraries that mpi4py's extension modules need: several where it picks one at import."""
    spec = importlib.util.find_spec("mpi4py")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [] if spec else [])]
    found: set[str] = set()
    for module in (file for folder in folders for file in folder.glob("MPI*.so")):
        try:
            found |= {name for name in elf.read(module).needed if _MPI.match(name)}
        except (OSError, ValueError):
            continue
    return found


def _soname(path: Path) -> str:
    try:
        return elf.read(path).soname or path.name
    except (OSError, ValueError):
        return path.name


def _and(names: set[str]) -> str:
    return " and ".join(sorted(names))
