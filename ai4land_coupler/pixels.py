"""Closing and class maps of coarse cells that hold different numbers of land pixels, given as one list of them.

What `constraint` does in blocks of one width, without making blocks where the compiled kernel is there: logits are read
where the network left them, fractions are put where they are served from.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler import constraint, kernel
from ai4land_coupler.constraint import CellError

Floats = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pixels:
    """The land of C coarse cells, cell after cell: the pixels of cell c stand from first[c] to first[c + 1].

    which (n,): position of each among all pixels of the tile, `whole` of them; area (n,) float64, m2; cell_id (n,)
    int64, global; side: fine cells along a coarse cell; nlon: columns of the fine grid.
    """

    first: Index
    which: Index
    area: Floats
    cell_id: Index
    whole: int
    side: int
    nlon: int

    @property
    def width(self) -> int:
        """Fine cells of a coarse cell."""
        return self.side**2

    @property
    def offset(self) -> Index:
        """Where each pixel lies within its coarse cell, row by row, (n,)."""
        row, column = np.divmod(self.cell_id - 1, self.nlon)
        return row % self.side * self.side + column % self.side

    @property
    def cell(self) -> Index:
        """The cell of each pixel, (n,)."""
        return np.repeat(np.arange(self.first.size - 1), np.diff(self.first))

    def block(self, values: NDArray) -> NDArray:
        """Values (..., n) as (C, ..., width), 0 where no pixel is."""
        out = np.zeros((self.first.size - 1, *values.shape[:-1], self.width), values.dtype)
        np.moveaxis(out, 0, -2)[..., self.cell, self.offset] = values
        return out

    def unblock(self, blocks: NDArray) -> NDArray:
        """The reverse of `block`."""
        return np.moveaxis(blocks, 0, -2)[..., self.cell, self.offset]


@dataclass(frozen=True, eq=False)
class Logits:
    """The network's answer for n pixels: that of class k is values[k, at[i]], values (K, cells) float32 contiguous."""

    values: NDArray[np.float32]
    at: Index

    def of_pixels(self) -> NDArray[np.float32]:
        """(K, n)."""
        return kernel.pick(self.values, self.at) if kernel.ready() else np.take(self.values, self.at, axis=1)


Answer = Callable[[Pixels], Logits]
"""What the network said of a tile, for some of its pixels."""


def fill(pixels: Pixels, label: NDArray[np.uint8], fractions: Floats, classes: NDArray[np.uint8]) -> None:
    """Put pixels (n,) of one class each, 1..K, into fractions (K, whole) and classes (whole,)."""
    if kernel.ready():
        kernel.fill(pixels.which, label, fractions, classes)
        return
    classes[pixels.which] = label
    fractions[:, pixels.which] = label == np.arange(1, len(fractions) + 1, dtype=np.uint8)[:, None]


def means(pixels: Pixels, logits: Logits) -> Floats:
    """Area-weighted means (C, K) of the network's fractions over coarse cells, all of which have land."""
    values = logits.values
    if not kernel.ready():
        return constraint.means(pixels.block(logits.of_pixels()), pixels.block(pixels.area))
    return kernel.means(pixels.first, pixels.area, values, logits.at, values.shape[1], len(values))


def close(pixels: Pixels, logits: Logits, totals: Floats, out: Floats) -> Floats:
    """Put the fractions closest to the network's that meet `totals` (C, K) into out (K, whole); the residual (C, K).

    As `constraint.close`; every cell has land. Raises CellError.
    """
    if not kernel.ready():
        blocks = pixels.block(logits.of_pixels()), pixels.block(pixels.area)
        fractions, residual = constraint.close(*blocks, totals)
        out[:, pixels.which] = pixels.unblock(fractions)
        return residual
    constraint.refuse_totals(totals)
    given = np.ascontiguousarray(totals)
    residual, bad = kernel.close(
        pixels.first, pixels.area, logits.values, logits.at, logits.values.shape[1], None, given, out, pixels.which,
        out.shape[1],
    )  # fmt: skip
    if bad is not None:
        of_cell = logits.values[:, logits.at[pixels.first[bad] : pixels.first[bad + 1]]]
        klass, pixel = (int(i) for i in np.argwhere(~np.isfinite(of_cell))[0])
        raise CellError(bad, klass, f"the network gave a logit that is not finite: {of_cell[klass, pixel]}")
    constraint.refuse_stuck(residual, totals)
    return residual


def quota(pixels: Pixels, fractions: Floats, totals: Floats) -> NDArray[np.uint8]:
    """Class map (n,), 1..K, of fractions (K, whole), with the counts `totals` (C, K) ask for; as `constraint.quota`."""
    if not kernel.ready():
        blocks = pixels.block(fractions[:, pixels.which]), pixels.block(np.ones(pixels.which.size, bool))
        classes: NDArray[np.uint8] = constraint.quota(*blocks, pixels.block(pixels.cell_id), totals)
        return pixels.unblock(classes)
    counts = constraint._counts(totals, np.diff(pixels.first))
    return kernel.quota(pixels.first, fractions, pixels.which, fractions.shape[1], pixels.cell_id, counts)
