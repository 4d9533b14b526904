"""What a shared library is called, what it needs, and the names it brings and asks for, read without loading it."""

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_LOAD, _DYNAMIC = 1, 2
_DYNSYM, _GLOBAL = 11, 1
_NEEDED, _STRTAB, _SONAME = 1, 5, 14


@dataclass(frozen=True)
class Library:
    """Names of the libraries it needs, in order, and the name it goes by: "" where it has none."""

    needed: tuple[str, ...]
    soname: str


@dataclass(frozen=True)
class Symbols:
    """Dynamic symbols: names that the library asks others for, and those it brings, weak ones aside."""

    asked: tuple[str, ...]
    brought: tuple[str, ...]


def read(path: Path) -> Library:
    """DT_NEEDED and DT_SONAME of a 64-bit little-endian ELF file.

    Raises OSError where the file cannot be read, ValueError where it is no such library.
    """
    return _read(path, _dynamic)


def symbols(path: Path) -> Symbols:
    """The dynamic symbol table of such a file; errors as of `read`."""
    return _read(path, _symbols)


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


def _symbols(data: mmap.mmap) -> Symbols:
    (start,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, start + number * size) for number in range(count)]
    table = next(section for section in sections if section[1] == _DYNSYM)
    _, _, _, _, first, length, *_ = sections[table[6]]
    names = data[first : first + length]
    asked, brought = [], []
    for place, info, _, section, _, _ in struct.iter_unpack("<IBBHQQ", data[table[4] : table[4] + table[5]]):
        if section == 0:
            asked.append(place)
        elif info >> 4 == _GLOBAL:
            brought.append(place)

    def text(place: int) -> str:
        return names[place : names.index(b"\0", place)].decode(errors="replace")

    return Symbols(tuple(map(text, asked)), tuple(map(text, brought)))
