"""What a shared library is called, what it needs, and where it keeps addresses of others, read without loading it."""

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_LOAD, _DYNAMIC = 1, 2
_RELA, _DYNSYM = 4, 11
_ADDRESS = {62: (1, 6), 183: (257, 1025)}
"""Relocations to the address of a name: R_X86_64_64 and _GLOB_DAT, R_AARCH64_ABS64 and _GLOB_DAT."""
_NEEDED, _STRTAB, _SONAME = 1, 5, 14


@dataclass(frozen=True)
class Library:
    """Names of the libraries it needs, in order, and the name it goes by: "" where it has none."""

    needed: tuple[str, ...]
    soname: str


@dataclass(frozen=True)
class Slot:
    """A place in a library that the loader fills with the address of a name: its offset from where the library lies."""

    name: str
    offset: int
    addend: int


def read(path: Path) -> Library:
    """DT_NEEDED and DT_SONAME of a 64-bit little-endian ELF file.

    Raises OSError where the file cannot be read, ValueError where it is no such library.
    """
    return _read(path, _dynamic)


def slots(path: Path, prefix: str) -> list[Slot]:
    """The places of such a file that take the address of a name that starts with this; errors as of `read`."""
    return _read(path, lambda data: _slots(data, prefix))


def _read(path: Path, part: Callable[[mmap.mmap], T]) -> T:
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if data[:6] != b"\x7fELF\x02\x01":
                    raise ValueError("other first bytes")
                return part(data)
        except (struct.error, StopIteration, ValueError) as reason:
            raise ValueError(f"{path} is no 64-bit little-endian shared library: {reason}") from reason


def _dynamic(data: mmap.mmap) -> Library:
    (start,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    loaded: list[tuple[int, int, int]] = []
    entries: list[tuple[int, int]] = []
    for header in range(count):
        kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", data, start + header * size)
        if kind == _LOAD:
            loaded.append((address, offset, length))
        elif kind == _DYNAMIC:
            entries = [struct.unpack_from("<qQ", data, offset + place) for place in range(0, length, 16)]
    tables = [value for tag, value in entries if tag == _STRTAB]
    if not tables:
        raise ValueError("no dynamic section")
    names = next(
        tables[0] - address + offset for address, offset, length in loaded if 0 <= tables[0] - address < length
    )

    def text(place: int) -> str:
        return data[names + place : data.find(b"\0", names + place)].decode(errors="replace")

    sonames = [text(value) for tag, value in entries if tag == _SONAME]
    return Library(tuple(text(value) for tag, value in entries if tag == _NEEDED), sonames[0] if sonames else "")


def _slots(data: mmap.mmap, prefix: str) -> list[Slot]:
    (machine,) = struct.unpack_from("<H", data, 18)
    (start,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, start + number * size) for number in range(count)]
    _, _, _, _, symbols, length, strings, *_ = next(section for section in sections if section[1] == _DYNSYM)
    names = sections[strings][4]
    wanted: dict[int, str] = {}
    for number, place in enumerate(range(symbols, symbols + length, 24)):
        name = names + struct.unpack_from("<I", data, place)[0]
        if data[name : name + len(prefix)] == prefix.encode():
            wanted[number] = data[name : data.find(b"\0", name)].decode()
    found = []
    for _, kind, _, _, first, length, *_ in sections:
        if kind == _RELA:
            for offset, info, addend in struct.iter_unpack("<QQq", data[first : first + length]):
                if info >> 32 in wanted and info & 0xFFFFFFFF in _ADDRESS.get(machine, ()):
                    found.append(Slot(wanted[info >> 32], offset, addend))
    return found
