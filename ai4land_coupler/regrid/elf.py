"""The two lines of a shared library that say what it is and what it needs, read without loading it."""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

_LOAD, _DYNAMIC = 1, 2
_NEEDED, _STRTAB, _SONAME = 1, 5, 14


@dataclass(frozen=True)
class Library:
    """Names of the libraries it needs, in order, and the name it goes by: "" where it has none."""

    needed: tuple[str, ...]
    soname: str


def read(path: Path) -> Library:
    """DT_NEEDED and DT_SONAME of a 64-bit little-endian ELF file.

    Raises OSError where the file cannot be read, ValueError where it is no such library.
    """
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _dynamic(data)
        except (struct.error, StopIteration, ValueError) as reason:
            raise ValueError(f"{path} is no 64-bit little-endian shared library: {reason}") from reason


def _dynamic(data: mmap.mmap) -> Library:
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("other first bytes")
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
