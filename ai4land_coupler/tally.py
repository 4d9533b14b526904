"""What the rest of a step needs of a tile's fields: areas by host cell and by class, and a digest of their bits."""

import hashlib
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
MOST = np.iinfo(np.uint16).max + 1
"""Host cells over a tile that are told apart in two bytes."""
STEP, FACTOR = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9
"""Of `mark`: odd, with bits set in no order (Steele et al. 2014, SplitMix)."""


@dataclass(frozen=True, eq=False)
class Tally:
    """Of one tile, areas in m2.

    by_host (h, K): fractions times overlap for the h host cells over the tile; delivered (K,): of each class, and
    filled (K,): of that, where the state is not the coarse cell's own; bits: SHA-256 of the fields.
    """

    by_host: Float
    delivered: Float
    filled: Float
    bits: bytes


@dataclass(frozen=True, eq=False)
class TileSums:
    """How the n delivered cells of one tile are tallied.

    area_rows: area of a fine cell by row, m2; hosts (h,): the host cells over the tile; borrowed (m,): coarse cells
    whose state is not their own. cell, host and area of each overlap: its fine cell, position in `hosts` and m2, in
    ascending order of fine cell. Where each cell lies in one host cell alone, as in those of a grid it nests in, host
    (n,) uint16 is that of each, and cell and area are None; a tile with more hosts than that counts has overlaps.
    """

    cells: TileCells
    area_rows: Float
    hosts: Index
    borrowed: NDArray[np.bool_]
    host: NDArray[np.integer]
    cell: NDArray[np.int32] | None = None
    area: Float | None = None

    @classmethod
    def of(
        cls, overlap: Overlap, cells: TileCells, area_rows: Float, hosts: Index, borrowed: NDArray[np.bool_]
    ) -> "TileSums":
        """From overlaps of the tile's cells in ascending order (rows) with host cells (columns) counted as `hosts`."""
        met = np.bincount(overlap.col, minlength=overlap.n_col) > 0
        host = (np.cumsum(met, dtype=np.int32) - np.int32(1))[overlap.col]
        cell = cells.ascending[overlap.row].astype(np.int32)
        alone = np.array_equal(overlap.row, np.arange(cells.size)) and np.count_nonzero(met) <= MOST
        if alone and np.allclose(overlap.area, area_rows[cells.rows[cell]], rtol=ROUNDING, atol=0.0):
            of_cell = np.empty(host.size, np.uint16)
            of_cell[cell] = host
            return cls(cells, area_rows, hosts[met], borrowed, of_cell)
        return cls(cells, area_rows, hosts[met], borrowed, host, cell, overlap.area)

    def __call__(self, fractions: Float, classes: NDArray[np.uint8]) -> Tally:
        """Of fractions (K, n) and classes (n,)."""
        x, alone = np.ascontiguousarray(fractions), np.asarray(self.host, np.uint16) if self.cell is None else None
        if kernel.ready():
            tile = self.cells.for_kernel(self.area_rows)
            by_host, whole, part, marked = kernel.tally(tile, x, self.borrowed.view(np.uint8), alone, self.hosts.size)
        else:
            area = x * self.area_rows[self.cells.rows]
            by_host, whole = np.zeros((self.hosts.size, len(x))), area.sum(axis=1)
            part = (area * self.borrowed[self.cells.coarse_of_cell]).sum(axis=1)
            if alone is not None:
                by_host = self._by_host(alone, area)
            marked = mark(x.reshape(-1).view(np.uint64))
        if self.cell is not None and self.area is not None:
            if kernel.ready():
                by_host = kernel.gather(self.cell, np.asarray(self.host, np.int32), self.area, x, self.hosts.size)
            else:
                by_host = self._by_host(self.host, x[:, self.cell] * self.area)
        return Tally(by_host, whole, part, self.bits(marked, classes))

    def bits(self, marked: int, classes: NDArray[np.uint8]) -> bytes:
        """SHA-256 of the tile's fields, of which `mark` says `marked` of the fractions."""
        of_tile = self.cells.tile.index.to_bytes(8, "little")
        return hashlib.sha256(of_tile + marked.to_bytes(8, "little") + classes.tobytes()).digest()

    def _by_host(self, host: NDArray[np.integer], area: Float) -> Float:
        sums = [np.bincount(host, weights=of_class, minlength=self.hosts.size) for of_class in area]
        return np.stack(sums, axis=1)


def mark(words: NDArray[np.uint64]) -> int:
    """What tells words (n,) from any others that are not made to look alike: 64 bits, at the pace of memory.

    The sum, modulo 2^64, of every word mixed with its place, in whatever order it is made. Mixing is one to one, so
    that one word that differs always shows.
    """
    x = words + np.arange(1, words.size + 1, dtype=np.uint64) * np.uint64(STEP)
    x ^= x >> np.uint64(32)
    x *= np.uint64(FACTOR)
    x ^= x >> np.uint64(29)
    return int(x.sum(dtype=np.uint64))
