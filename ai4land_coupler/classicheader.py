"""A look at the header of a netCDF file of the classic formats, whose lists say how many entries they have.

Where one says more than the file could hold, the library takes memory for all of them and, once it finds that they are
not there, gives back what it never filled: it then ends the process, or not, as the memory happens to be.
"""

from pathlib import Path
from typing import BinaryIO

_FORMATS = {b"CDF\x01": (4, 4), b"CDF\x02": (4, 8), b"CDF\x05": (8, 8)}
"""Bytes of a count and of a place in the file."""
_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}
"""Bytes of a value, by type."""


class _Overfull(Exception):
    """A list has more entries than the file has bytes."""


class _Cut(Exception):
    """The file ends here."""


def overfull(path: Path) -> bool:
    """Whether a list of the header counts more than the file has bytes. False for other formats. Raises OSError."""
    with path.open("rb") as file:
        widths = _FORMATS.get(file.read(4))
        if widths is None:
            return False
        try:
            _Header(file, path.stat().st_size, *widths).walk()
        except _Overfull:
            return True
        except _Cut:
            pass
        return False


class _Header:
    def __init__(self, file: BinaryIO, size: int, count: int, place: int) -> None:
        self._file, self._size, self._of_count, self._of_place = file, size, count, place

    def walk(self) -> None:
        self._skip(self._of_count)  # records
        for _ in range(self._list()):
            self._name()
            self._skip(self._of_count)  # length of a dimension
        self._attributes()
        for _ in range(self._list()):
            self._name()
            self._skip(self._count() * self._of_count)  # its dimensions
            self._attributes()
            self._skip(4 + self._of_count + self._of_place)  # type, size and place

    def _attributes(self) -> None:
        for _ in range(self._list()):
            self._name()
            width = _WIDTHS.get(self._number(4), 1)
            self._skip(-(-self._count() * width // 4) * 4)

    def _list(self) -> int:
        self._skip(4)  # what it is a list of
        return self._count()

    def _name(self) -> None:
        self._skip(-(-self._count() // 4) * 4)

    def _count(self) -> int:
        count = self._number(self._of_count)
        if count > self._size:
            raise _Overfull
        return count

    def _number(self, width: int) -> int:
        content = self._file.read(width)
        if len(content) < width:
            raise _Cut
        return int.from_bytes(content, "big")

    def _skip(self, size: int) -> None:
        self._file.seek(size, 1)
