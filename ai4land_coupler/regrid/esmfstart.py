"""Starts the plugin's own copy of ESMF on a communicator that the plugin chooses.

esmpy would start ESMF on MPI_COMM_WORLD, where it waits for the ranks that never call the plugin, and would share the
copy of a host that uses ESMF too. So the library is loaded here first, apart from the host's symbols, and started
through ESMF's Fortran interface; esmpy then finds it started. It is never finalised: that would end MPI in some
versions, and a process that ends takes it along.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ai4land_coupler.errors import RegridError
from ai4land_coupler.regrid import mpiconstants
from ai4land_coupler.regrid.esmfmk import MakeFile, Problem, mapped

SHIM = "libai4land_esmf.so"

APART = os.RTLD_NOW | os.RTLD_LOCAL | getattr(os, "RTLD_DEEPBIND", 0)
"""How the library is loaded: it asks its own symbols first, and nobody else asks it."""

_SYMBOL = "__esmf_initmod_MOD_esmf_initialize"
_NO_LOG = 4
_RELEASES: dict[tuple[int, ...], tuple[int, int, int, int]] = {
    (8, 4): (17, 8, 9, 3), (8, 5): (19, 10, 11, 4), (8, 6): (20, 11, 12, 4), (8, 7): (21, 11, 12, 4),
    (8, 8): (21, 11, 12, 4), (8, 9): (21, 11, 12, 4),
}  # fmt: skip
"""ESMF_Initialize of a release: arguments, places of logKindFlag and mpiCommunicator, character lengths at the end."""
_BETAS: dict[tuple[int, ...], tuple[int, int, int, int]] = {(8, 9): (21, 11, 12, 4), (9, 0): (21, 11, 12, 4)}


def load(makefile: MakeFile) -> ctypes.CDLL:
    """The ESMF library, apart from whatever ESMF the host has.

    Raises RegridError where it cannot be loaded, or is already in use in this process by somebody else.
    """
    if _is_mapped(makefile.library):
        raise RegridError(
            f"{makefile.library} is already in use in this process, by the host or another package: both would be one "
            "ESMF (mend: copy that file into another folder, and name that folder as ESMF_LIBSDIR in a copy of "
            f"{makefile.path} that ESMFMKFILE names; or use regrid.engine yac)"
        )
    try:
        library = ctypes.CDLL(str(makefile.library), mode=APART)
    except OSError as reason:
        raise RegridError(f"{makefile.library} cannot be loaded: {reason}") from reason
    mpiconstants.share(library, makefile.library)
    return library


def start(makefile: MakeFile, library: ctypes.CDLL, comm: int) -> str:
    """Start ESMF without log files on the communicator with this Fortran handle; how it was done, for the log.

    Collective over the communicator. Raises RegridError where no way to start this version is known, or ESMF refuses.
    """
    handle = None if makefile.serial else ctypes.byref(ctypes.c_int(comm))
    shim, layout = _shim(makefile, library), _layout(makefile)
    with _no_settings_of_the_host():
        if shim is not None:
            how, status = f"by {SHIM}", int(shim.ai4land_esmf_start(handle))
        elif layout is not None:
            how, status = "by its symbol", _by_symbol(library, layout, handle)
        else:
            raise RegridError(str(unknown(makefile)))
    if status != 0:
        raise RegridError(f"ESMF {makefile.version} did not start ({how}): its error code is {status}")
    return how


def startable(makefile: MakeFile) -> bool:
    """Whether a way to start this version is known; the shim may still turn out to be for another ESMF."""
    return _shim_path() is not None or _layout(makefile) is not None


def unknown(makefile: MakeFile) -> Problem:
    """What to say where no way is known."""
    return Problem(
        f"how ESMF {makefile.version} is started on a communicator is not known to this plugin",
        f"build libai4land_coupler with ESMFMKFILE={makefile.path}, which adds {SHIM}",
    )


def _layout(makefile: MakeFile) -> tuple[int, int, int, int] | None:
    return (_BETAS if makefile.beta else _RELEASES).get(makefile.number[:2])


def _by_symbol(library: ctypes.CDLL, layout: tuple[int, int, int, int], handle: object) -> int:
    """Call Fortran's ESMF_Initialize as gfortran compiles it: every argument an address, absent ones null."""
    count, log_kind, communicator, lengths = layout
    status = ctypes.c_int(-1)
    arguments: list[object] = [None] * count
    arguments[log_kind] = ctypes.byref(ctypes.c_int(_NO_LOG))
    arguments[communicator] = handle
    arguments[-1] = ctypes.byref(status)
    initialize = library[_SYMBOL]
    initialize.argtypes = [ctypes.c_void_p] * count + [ctypes.c_size_t] * lengths
    initialize.restype = None
    initialize(*arguments, *[0] * lengths)
    return status.value


def _shim(makefile: MakeFile, library: ctypes.CDLL) -> ctypes.CDLL | None:
    """The shim, if it was built for exactly this ESMF and not for a copy elsewhere."""
    path = _shim_path()
    if path is None:
        return None
    try:
        shim = ctypes.CDLL(str(path), mode=APART)
    except OSError:  # built for an ESMF that is gone
        return None
    numbers = (ctypes.c_int * 3)()
    shim.ai4land_esmf_version.restype = None
    shim.ai4land_esmf_version(numbers)
    same = _address(shim) == _address(library) and tuple(numbers) == makefile.number
    return shim if same else None


def _shim_path() -> Path | None:
    """Beside libai4land_coupler where the host has loaded that, else in the environment."""
    beside = [path.parent for path in mapped() if path.name == "libai4land_coupler.so"]
    found = (folder / SHIM for folder in (*beside, Path(sys.prefix, "lib")))
    return next((path for path in found if path.is_file()), None)


def _address(library: ctypes.CDLL) -> int | None:
    """Where the library finds ESMF's start: another copy of ESMF has it elsewhere."""
    return ctypes.cast(library[_SYMBOL], ctypes.c_void_p).value


def _is_mapped(library: Path) -> bool:
    """Whether the file, under whatever name, is part of this process: the loader would not load it twice."""
    file = library.stat()
    for path in mapped():
        try:
            other = path.stat()
        except OSError:
            continue
        if (other.st_dev, other.st_ino) == (file.st_dev, file.st_ino):
            return True
    return False


@contextmanager
def _no_settings_of_the_host() -> Iterator[None]:
    """Profiles, traces and aborts that ESMF_RUNTIME_* asks for are meant for the host's own ESMF."""
    settings = {name: value for name, value in os.environ.items() if name.startswith("ESMF_RUNTIME_")}
    for name in settings:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(settings)
