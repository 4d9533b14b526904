"""A look at the one part of an HDF5 file in which the library reads for ever when it is damaged.

netCDF-4 keeps its lists of dimensions and its texts in global heaps, which have no checksum. An entry of length 0 that
is marked as free makes HDF5 2.2 and earlier stay where it is; one whose length wraps around 64 bits sends it back.
"""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HEAP = b"GCOL\x01\0\0\0"
_ENTRY = struct.Struct("<HH4xQ")
LARGEST = 1 << 28
"""Bytes of a file up to which all of it is looked through."""


def endless(path: Path) -> bool:
    """Whether HDF5 would never come back from this file. False for files of other formats. Raises OSError."""
    with path.open("rb") as file:
        if file.read(len(_SIGNATURE)) != _SIGNATURE or path.stat().st_size > LARGEST:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return any(_stuck(content, start) for start in _heaps(content))


def _heaps(content: mmap.mmap) -> Iterator[int]:
    at = content.find(_HEAP)
    while at >= 0:
        yield at
        at = content.find(_HEAP, at + 1)


def _stuck(content: mmap.mmap, start: int) -> bool:
    """Whether an entry of the heap leads to itself, or back."""
    if start + 16 > len(content):
        return False
    end = min(start + int.from_bytes(content[start + 8 : start + 16], "little"), len(content))
    at = start + 16
    while at + _ENTRY.size <= end:
        index, _, length = _ENTRY.unpack_from(content, at)
        step = (length if index == 0 else _ENTRY.size + -(-length // 8) * 8) % 2**64
        if step == 0 or step >= 2**63:
            return True
        at += step
    return False
