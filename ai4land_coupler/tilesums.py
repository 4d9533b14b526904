"""Areas of a tile's fields: of each class, and of each class under each host cell."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler import kernel
from ai4land_coupler.regrid import Overlap
from ai4land_coupler.tiles import TileCells

Float = NDArray[np.float64]
Index = NDArray[np.int64]

ROUNDING = 1e-15
"""By how much the area of an overlap may differ from that of its cell where it is all of the cell."""


@dataclass(frozen=True, eq=False)
class TileSums:
    """Sums over the delivered cells of one tile, m2, from fractions (K, n) of them.

    area_rows: area of a fine cell by row; hosts (h,): the host cells over the tile. cell, host and area of each
    overlap: its fine cell, position in `hosts` and m2, in ascending order of fine cell. Where each cell lies in one
    host cell alone, as in those of a grid it nests in, host (n,) is that of each, and cell and area are None.
    """

    cells: TileCells
    area_rows: Float
    hosts: Index
    host: NDArray[np.int32]
    cell: NDArray[np.int32] | None = None
    area: Float | None = None

    @classmethod
    def of(cls, overlap: Overlap, cells: TileCells, area_rows: Float, hosts: Index) -> "TileSums":
        """From overlaps of the tile's cells in ascending order (rows) with host cells (columns) counted as `hosts`."""
        met = np.bincount(overlap.col, minlength=overlap.n_col) > 0
        host = (np.cumsum(met, dtype=np.int32) - np.int32(1))[overlap.col]
        cell = cells.ascending[overlap.row].astype(np.int32)
        alone = np.array_equal(overlap.row, np.arange(cells.size))
        if alone and np.allclose(overlap.area, area_rows[cells.rows[cell]], rtol=ROUNDING, atol=0.0):
            of_cell = np.empty_like(host)
            of_cell[cell] = host
            return cls(cells, area_rows, hosts[met], of_cell)
        return cls(cells, area_rows, hosts[met], host, cell, overlap.area)

    def __call__(self, fractions: Float, some: NDArray[np.bool_]) -> tuple[Float, Float, Float]:
        """By host cell (h, K), of the whole tile (K,) and of its coarse cells with `some` (m,) alone (K,)."""
        x, alone = np.ascontiguousarray(fractions), self.host if self.cell is None else None
        if kernel.ready():
            tile = self.cells.for_kernel(self.area_rows)
            by_host, whole, part = kernel.areas(tile, x, some.view(np.uint8), alone, self.hosts.size)
        else:
            area = x * self.area_rows[self.cells.rows]
            by_host, whole = np.zeros((self.hosts.size, len(x))), area.sum(axis=1)
            part = (area * some[self.cells.coarse_of_cell]).sum(axis=1)
            if alone is not None:
                by_host = self._by_host(alone, area)
        if self.cell is not None and self.area is not None:
            if kernel.ready():
                by_host = kernel.gather(self.cell, self.host, self.area, x, self.hosts.size)
            else:
                by_host = self._by_host(self.host, x[:, self.cell] * self.area)
        return by_host, whole, part

    def _by_host(self, host: NDArray[np.int32], area: Float) -> Float:
        sums = [np.bincount(host, weights=of_class, minlength=self.hosts.size) for of_class in area]
        return np.stack(sums, axis=1)
