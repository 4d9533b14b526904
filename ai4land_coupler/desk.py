"""What C hosts put and get by a copy alone: memory of the component, laid out for bindings/desk.c."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


class Desk:
    """The desk of one handle. Keeps the memory that C copies to and from alive as long as C knows of it."""

    def __init__(self, ffi: Any, lib: Any, handle: int) -> None:
        self._ffi, self._lib, self._handle = ffi, lib, handle
        self._room: dict[str, Float] = {}
        self._full = np.zeros(0, np.uint8)
        self._offered: list[Float] = []

    def take(self, names: Sequence[str], n: int) -> None:
        """Make room for n values of each class that the host may put."""
        self.clear()
        self._room = {name: np.empty(n) for name in names}
        self._full = np.zeros(len(names), np.uint8)
        for i, (name, room) in enumerate(self._room.items()):
            values, full = self._double(room), self._ffi.cast("unsigned char *", self._full[i:].ctypes.data)
            self._had(self._lib.desk_take(self._handle, name.encode(), n, values, full))

    def taken(self) -> dict[str, Float]:
        """What was put since the last call, by class."""
        full = dict(zip(self._room, self._full, strict=True))
        return {name: room for name, room in self._room.items() if full[name]}

    def empty(self) -> None:
        """What was put is taken."""
        self._full[:] = 0

    def offer(self, fields: Mapping[tuple[str, str], Sequence[Float]]) -> None:
        """Let the host get these fields of (grid, name), each in contiguous pieces, in place of those before."""
        self._lib.desk_clear(self._handle, 0)
        self._offered = [part for pieces in fields.values() for part in pieces]
        for (grid, name), pieces in fields.items():
            at = self._ffi.new("double *[]", [self._double(part) for part in pieces])
            length = self._ffi.new("int64_t[]", [part.size for part in pieces])
            self._had(self._lib.desk_offer(self._handle, grid.encode(), name.encode(), len(pieces), at, length))

    def clear(self) -> None:
        """C forgets the handle."""
        self._lib.desk_clear(self._handle, 1)
        self._offered, self._room, self._full = [], {}, np.zeros(0, np.uint8)

    def _double(self, values: Float) -> Any:
        if values.dtype != np.float64 or not values.flags.c_contiguous:
            raise TypeError(f"expected contiguous float64, got {values.dtype} with strides {values.strides}")
        return self._ffi.cast("double *", values.ctypes.data)

    @staticmethod
    def _had(memory: int) -> None:
        if memory != 0:
            raise MemoryError("no memory for the desk of a handle")
