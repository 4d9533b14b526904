"""The land pixels of a tile's coarse cells: what the network says of them, and the fields that follow.

What `constraint` does in blocks of one width is done here on lists of pixels, by the compiled kernel where it is there:
a tile in one call.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler import constraint, kernel
from ai4land_coupler.constraint import CellError
from ai4land_coupler.tiles import TileCells, divide

Floats = NDArray[np.float64]
Index = NDArray[np.int64]
Logits = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Pixels:
    """The land of C coarse cells, cell after cell: the pixels of cell c stand from first[c] to first[c + 1].

    which (n,): position of each among all pixels of the tile; area (n,) float64, m2; cell_id (n,) int64, global; side:
    fine cells along a coarse cell; nlon: columns of the fine grid.
    """

    first: Index
    which: Index
    area: Floats
    cell_id: Index
    side: int
    nlon: int

    @classmethod
    def of(cls, cells: TileCells, some: Index, area_rows: Floats) -> "Pixels":
        """Of `some` (c,) ascending of a tile's coarse cells; area_rows: area of a fine cell by row, m2."""
        first = np.zeros(some.size + 1, np.int64)
        np.cumsum(np.diff(cells.first)[some], out=first[1:])
        which = np.repeat(cells.first[some] - first[:-1], np.diff(first)) + np.arange(first[-1])
        row, column = divide(cells.inside[which], cells.tile.size)
        row += cells.tile.row0
        cell_id = row * cells.nlon + column + cells.tile.col0 + 1
        return cls(first, which, area_rows[row], cell_id, cells.ratio, cells.nlon)

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


def pick(
    cells: TileCells, some: Index, area_rows: Floats, window: Logits, corner: tuple[int, int], out: Logits,
    averaged: bool,
) -> Floats | None:  # fmt: skip
    """Put the logits of the pixels of `some` (c,) of a tile's coarse cells into out (K, n); the means (c, K) over each.

    window (ny / 2, nx / 2, 4 K): logits of 2 x 2 cells each, those of a class side by side; `corner`: row and column of
    the tile at which it begins, both even. The means are those over the land's area of softmax(logits), NaN where one
    is not finite; they are only made where asked for.
    """
    if kernel.ready():
        return kernel.pick(cells.for_kernel(area_rows), some, window, corner, out, averaged)
    pixels = Pixels.of(cells, some, area_rows)
    row, column = divide(cells.inside[pixels.which], cells.tile.size)
    row, column = row - corner[0], column - corner[1]
    out[...] = window.reshape(*window.shape[:2], len(out), 2, 2)[row // 2, column // 2, :, row % 2, column % 2].T
    return constraint.means(pixels.block(out), pixels.block(pixels.area)) if averaged else None


def fields(
    cells: TileCells, kind: NDArray[np.uint8], area_rows: Floats, base: NDArray[np.uint8], logits: Logits,
    totals: Floats, fractions: Floats,
) -> tuple[NDArray[np.uint8], Floats]:  # fmt: skip
    """Put a tile's fractions into (K, n); its class map (n,), 1..K, and the residual (m, K) of its coarse cells.

    kind (m,): kernel.ONE, BASE or RUN, what each coarse cell shows: the class of its largest total alone, the base map
    (nlat, nlon), or what closes the totals (m, K) on logits (K, pixels of such cells) and is drawn from that. These may
    lie where `end_of` the fractions says, and are then lost. Raises CellError; `cell` counts the cells of kind RUN.
    """
    run = np.flatnonzero(kind == kernel.RUN)
    if not kernel.ready():
        return _fields_numpy(cells, kind, area_rows, base, logits.copy(), totals, fractions)
    constraint.refuse_totals(totals[run])
    classes = np.empty(cells.size, np.uint8)
    tile, given = cells.for_kernel(area_rows), np.ascontiguousarray(totals)
    left, bad = kernel.fields(tile, kind, logits, given, constraint.WHOLE, base, fractions, classes)
    if bad is not None:
        pixels, cell = Pixels.of(cells, run, area_rows), int(np.searchsorted(run, bad))
        of_cell = logits[:, pixels.first[cell] : pixels.first[cell + 1]]
        klass, pixel = (int(i) for i in np.argwhere(~np.isfinite(of_cell))[0])
        raise CellError(cell, klass, f"the network gave a logit that is not finite: {of_cell[klass, pixel]}")
    constraint.refuse_stuck(left[run], totals[run])
    return classes, left


def end_of(fractions: Floats, pixels: int) -> Logits:
    """The end of each row of (K, n) as so many float32: where logits may wait that `fields` makes fractions of."""
    return fractions.view(np.float32)[:, 2 * fractions.shape[1] - pixels :]


def _fields_numpy(
    cells: TileCells, kind: NDArray[np.uint8], area_rows: Floats, base: NDArray[np.uint8], logits: Logits,
    totals: Floats, fractions: Floats,
) -> tuple[NDArray[np.uint8], Floats]:  # fmt: skip
    classes = settled(cells, kind, base, totals, fractions)
    run, residual = np.flatnonzero(kind == kernel.RUN), np.zeros_like(totals)
    if run.size:
        pixels = Pixels.of(cells, run, area_rows)
        area = pixels.block(pixels.area)
        closed, residual[run] = constraint.close(pixels.block(logits), area, totals[run])
        drawn = constraint.quota(closed, area > 0, pixels.block(pixels.cell_id), totals[run])
        fractions[:, pixels.which], classes[pixels.which] = pixels.unblock(closed), pixels.unblock(drawn)
    return classes, residual


def settled(
    cells: TileCells, kind: NDArray[np.uint8], base: NDArray[np.uint8], totals: Floats, fractions: Floats
) -> NDArray[np.uint8]:
    """As `fields`, but for cells of kind RUN, which are yet to come."""
    of_cell = cells.coarse_of_cell
    classes = (totals.argmax(axis=1) + 1).astype(np.uint8)[of_cell]
    shown = (kind == kernel.BASE)[of_cell]
    classes[shown] = base.reshape(-1)[cells.cells[shown]]
    kinds = np.arange(1, totals.shape[1] + 1, dtype=np.uint8)
    np.equal(classes, kinds[:, None], out=fractions)
    return classes
