"""The sparse matrix of overlap areas between two sets of cells, and its ordered sums."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ai4land_coupler import kernel
from ai4land_coupler.errors import RegridError
from ai4land_coupler.shelf import Shelf

Triplets = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
Indices = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]

_SLOTS = 8
"""Entries of a row that are added one by one, for all rows at once; `reduceat` takes the rest of longer rows."""


@dataclass(frozen=True, eq=False)
class Overlap:
    """Areas shared by target cells (rows) and source cells (columns).

    row, col (nnz,) int64, strictly ascending by (row, col); area (nnz,) float64, m2, finite and above 0.
    Sums run over the entries of a row in the order of col, whatever other rows there are, so a row's result never
    depends on which process holds it. Raises RegridError where the arrays are no such matrix.
    """

    row: NDArray[np.int64]
    col: NDArray[np.int64]
    area: NDArray[np.float64]
    n_row: int
    n_col: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "row", np.ascontiguousarray(self.row, dtype=np.int64))
        object.__setattr__(self, "col", np.ascontiguousarray(self.col, dtype=np.int64))
        object.__setattr__(self, "area", np.ascontiguousarray(self.area, dtype=np.float64))
        _check_shapes(self.row, self.col, self.area)
        if not _is_matrix(self.row, self.col, self.area, self.n_row, self.n_col):
            _check_triplets(self.row, self.col, self.area, self.n_row, self.n_col)
            if not (self.area > 0).all():
                raise RegridError(f"overlap areas must be above 0, got {self.area.min()}")
            raise RegridError("overlap entries must be sorted by (row, col) without repetition; use from_triplets")

    @classmethod
    def from_triplets(cls, rows: ArrayLike, cols: ArrayLike, areas: ArrayLike, n_row: int, n_col: int) -> "Overlap":
        """Entries in any order: sorted here, repeated ones summed in the order given, zeros dropped."""
        row = np.asarray(rows, dtype=np.int64)
        col = np.asarray(cols, dtype=np.int64)
        area = np.asarray(areas, dtype=np.float64)
        _check_triplets(row, col, area, n_row, n_col)
        key = row * n_col + col
        if key.size and not (np.diff(key) > 0).all():
            order = np.argsort(key, kind="stable")
            key, first = np.unique(key[order], return_index=True)
            area = np.add.reduceat(area[order], first)
        kept = area != 0
        key, area = key[kept], area[kept]
        row, col = np.divmod(key, max(n_col, 1))
        return cls(row, col, area, n_row, n_col)

    @classmethod
    def from_blocks(cls, blocks: Sequence[Triplets], n_row: int, n_col: int) -> "Overlap":
        """Entries given as any number of (row, col, area), otherwise as `from_triplets`."""
        if not blocks:
            return cls.from_triplets([], [], [], n_row, n_col)
        row = np.concatenate([block[0] for block in blocks])
        col = np.concatenate([block[1] for block in blocks])
        area = np.concatenate([block[2] for block in blocks])
        return cls.from_triplets(row, col, area, n_row, n_col)

    @cached_property
    def _slots(self) -> list[Triplets]:
        """The first entry of every row that has one, then the second ones and so on: (row, col, area) of each."""
        first = np.flatnonzero(np.diff(self.row, prepend=-1))
        count = np.diff(first, append=self.row.size)
        slots = []
        for slot in range(min(int(count.max(initial=0)), _SLOTS)):
            at = first[count > slot] + slot
            slots.append((self.row[at], self.col[at], self.area[at]))
        return slots

    @cached_property
    def _rest(self) -> Indices:
        """The entries of long rows that the slots leave: (row, where its entries start, position of each entry)."""
        first = np.flatnonzero(np.diff(self.row, prepend=-1))
        count = np.diff(first, append=self.row.size)
        left = np.maximum(count - _SLOTS, 0)
        start = np.cumsum(left) - left
        position = np.repeat(first + _SLOTS - start, left) + np.arange(left.sum())
        return self.row[first[left > 0]], start[left > 0], position

    @cached_property
    def _compiled(self) -> kernel.Rows:
        first = np.zeros(self.n_row + 1, np.int64)
        np.cumsum(np.bincount(self.row, minlength=self.n_row), out=first[1:])
        return kernel.Rows(first, self.col, self.area, self.n_col)

    @cached_property
    def _shelf(self) -> Shelf:
        return Shelf(2)  # a year may be regridded twice, as where hosts share out what the network says

    def apply(self, x: NDArray[np.float64], out: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Sum of area times x over each row: x (K, n_col) -> (K, n_row), float64, in units of x times m2.

        out: contiguous memory for the result, returned; without it the result lies where an earlier one lay that nobody
        holds any more, as the system's fresh pages would take longer. Raises RegridError for other shapes.
        """
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.n_col:
            raise RegridError(f"expected fields of shape (K, {self.n_col}), got {x.shape}")
        if out is not None and (out.shape != (len(x), self.n_row) or out.dtype != x.dtype):
            raise RegridError(f"expected room of shape ({len(x)}, {self.n_row}) float64, got {out.shape} {out.dtype}")
        y = self._shelf.lend([(x.shape[0], self.n_row)])[0] if out is None else out
        if kernel.ready() and self.n_col < np.iinfo(np.int32).max:
            kernel.apply(self._compiled, np.ascontiguousarray(x), y)
            return y
        y[...] = 0.0
        long_rows, start, position = self._rest
        col, area = self.col[position], self.area[position]
        for field, out in zip(x, y, strict=True):
            for slot, (rows, cols, areas) in enumerate(self._slots):
                if slot:
                    out[rows] += field[cols] * areas
                elif rows.size == self.n_row:
                    np.multiply(field.take(cols, out=out, mode="clip"), areas, out=out)
                else:
                    out[rows] = field[cols] * areas
            if long_rows.size:
                out[long_rows] += np.add.reduceat(field[col] * area, start)
        return y

    def row_sum(self) -> NDArray[np.float64]:
        """Area of each row's cell that is covered, shape (n_row,), m2."""
        return self.apply(np.ones((1, self.n_col)))[0]

    def col_sum(self) -> NDArray[np.float64]:
        """Area of each column's cell that is covered, shape (n_col,), m2, summed in the order of row."""
        return np.bincount(self.col, weights=self.area, minlength=self.n_col).astype(np.float64)


def _check_shapes(row: NDArray[np.int64], col: NDArray[np.int64], area: NDArray[np.float64]) -> None:
    if row.ndim != 1 or row.shape != col.shape or row.shape != area.shape:
        raise RegridError(f"row, col and area must be vectors of one length, got {row.shape} {col.shape} {area.shape}")


def _is_matrix(
    row: NDArray[np.int64], col: NDArray[np.int64], area: NDArray[np.float64], n_row: int, n_col: int
) -> bool:
    """Whether all that an Overlap promises holds, in as few passes as can be (a negative index is a huge unsigned)."""
    if not row.size:
        return True
    if not (area.min() > 0 and area.max() < np.inf):
        return False
    if row.view(np.uint64).max() >= n_row or col.view(np.uint64).max() >= n_col:
        return False
    key = row * n_col
    key += col
    return bool((key[1:] > key[:-1]).all())


def _check_triplets(
    row: NDArray[np.int64], col: NDArray[np.int64], area: NDArray[np.float64], n_row: int, n_col: int
) -> None:
    _check_shapes(row, col, area)
    for name, index, n in (("row", row, n_row), ("col", col, n_col)):
        if index.size and not (index.min() >= 0 and index.max() < n):
            raise RegridError(f"overlap {name} must be in 0..{n - 1}, got {index.min()}..{index.max()}")
    if not np.isfinite(area).all() or (area < 0).any():
        raise RegridError("overlap areas must be finite and not negative")
