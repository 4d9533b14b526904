"""Open MPI's constants, where the host program holds them in itself.

MPI_INT and the like are variables of Open MPI. A program that is not compiled with -fPIC, as C code mostly, gets copies
of those it uses, and Open MPI itself then works with the copies. A library loaded with RTLD_DEEPBIND finds the
originals, which nobody has ever filled, and crashes. So its references are pointed at the copies, before it is called.
Other MPIs have numbers for constants.
"""

import ctypes
import mmap
from pathlib import Path

from ai4land_coupler.errors import RegridError
from ai4land_coupler.regrid import elf
from ai4land_coupler.regrid.esmfmk import mapped

_PREFIX = "ompi_mpi_"
_ANY = "ompi_mpi_comm_world"
_LINK_MAP = 2
_READ, _WRITE = 1, 2


def share(library: ctypes.CDLL, path: Path) -> list[str]:
    """Have a library that was just loaded use the constants that MPI uses; the names of those that it did not.

    Raises RegridError where its references are not what they should be; nothing is changed then.
    """
    program = ctypes.CDLL(None)
    if not hasattr(program, _ANY):
        return []
    originals = [ctypes.CDLL(str(file)) for file in mapped() if file.name.startswith("libmpi.so")]
    base = _base(library)
    changes: dict[int, int] = {}
    names: dict[str, None] = {}
    for slot in elf.slots(path, _PREFIX):
        used = _place(program, slot.name)
        held = ctypes.c_uint64.from_address(base + slot.offset).value - slot.addend
        if used is None or held == used:
            continue
        if held not in [_place(original, slot.name) for original in originals]:
            raise RegridError(f"{path} has a {slot.name} that is not of the MPI in this process")
        changes[base + slot.offset] = used + slot.addend
        names[slot.name] = None
    for place, address in changes.items():
        _write(place, address)
    return list(names)


def _place(library: ctypes.CDLL, name: str) -> int | None:
    """Where a library has a name, or the program: its own, else the first of its libraries that has it."""
    return ctypes.cast(library[name], ctypes.c_void_p).value if hasattr(library, name) else None


def _base(library: ctypes.CDLL) -> int:
    """The address that a library's offsets count from."""
    found = ctypes.POINTER(ctypes.c_size_t)()
    dlinfo = ctypes.CDLL(None).dlinfo
    dlinfo.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
    if dlinfo(library._handle, _LINK_MAP, ctypes.byref(found)) != 0:
        raise RegridError(f"{library._name} is loaded, but the system does not say where")
    return int(found[0])


def _write(place: int, address: int) -> None:
    """Change eight aligned bytes, on a page that may be read-only since the library was loaded, and is so after."""
    page = place - place % mmap.PAGESIZE
    protection = _protection(place)
    mprotect = ctypes.CDLL(None).mprotect
    mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if not protection & _WRITE and mprotect(page, mmap.PAGESIZE, _READ | _WRITE) != 0:
        raise RegridError("the system does not let the plugin's ESMF be pointed at the host's MPI constants")
    ctypes.c_uint64.from_address(place).value = address
    if not protection & _WRITE:
        mprotect(page, mmap.PAGESIZE, protection)


def _protection(place: int) -> int:
    """What may be done with the memory at an address."""
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        span, allowed = line.split(maxsplit=2)[:2]
        first, last = (int(end, 16) for end in span.split("-"))
        if first <= place < last:
            return _READ * (allowed[0] == "r") | _WRITE * (allowed[1] == "w")
    raise RegridError(f"no memory is mapped at {place:#x}")
