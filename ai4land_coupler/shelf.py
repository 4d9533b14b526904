"""Memory for the fields of a year, taken from the system once and used again from year to year."""

import weakref
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


class _Lent:
    """A block as something that is no array: arrays on it refer to this, and to the block by this alone."""

    def __init__(self, block: Float) -> None:
        self.block = block
        self.__array_interface__ = block.__array_interface__


class Shelf:
    """Lends blocks of memory; a block is back once no array on it is left, and waits for the next year of its size.

    A block is one piece, so that the system may give it in large pages: those of single tiles are too small for that.
    """

    def __init__(self, most: int = 1) -> None:
        """most: blocks that wait at a time; one will do where a year is served while the next one is made."""
        self._free, self._most = list[Float](), most

    def lend(self, shapes: Sequence[tuple[int, int]]) -> list[Float]:
        """Arrays of these shapes, float64, one behind another; what is in them is anything."""
        ends = np.cumsum([0, *(rows * columns for rows, columns in shapes)]).tolist()
        while self._free and self._free[-1].size != ends[-1]:
            self._free.pop()
        block = self._free.pop() if self._free else np.empty(ends[-1])
        lent = _Lent(block)
        weakref.finalize(lent, self._take_back, block).atexit = False
        whole = np.asarray(lent)
        return [whole[at:end].reshape(shape) for at, end, shape in zip(ends, ends[1:], shapes, strict=False)]

    def _take_back(self, block: Float) -> None:
        if len(self._free) < self._most:
            self._free.append(block)
