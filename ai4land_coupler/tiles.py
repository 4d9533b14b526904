"""Tiles: blocks of whole coarse cells, the unit of work, and which rank runs which."""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler import kernel
from ai4land_coupler.errors import GridError
from ai4land_coupler.grids import RegularGrid


@dataclass(frozen=True)
class Tile:
    """The fine cells [row0, row0 + size) x [col0, col0 + size); tiles count west to east, then south to north."""

    index: int
    row0: int
    col0: int
    size: int

    @property
    def rows(self) -> slice:
        """Rows of the fine grid."""
        return slice(self.row0, self.row0 + self.size)

    @property
    def cols(self) -> slice:
        """Columns of the fine grid."""
        return slice(self.col0, self.col0 + self.size)


def all_tiles(fine: RegularGrid, coarse: RegularGrid, size: int) -> tuple[Tile, ...]:
    """The tiles that cover the fine grid once; `size` must divide it and hold whole coarse cells."""
    ratio = coarse.ratio_to(fine)
    if size % ratio or fine.nlat % size or fine.nlon % size:
        raise GridError(
            f"tiles of {size} cells do not divide {fine.nlat} x {fine.nlon} cells into whole coarse cells of {ratio}"
        )
    across = fine.nlon // size
    return tuple(
        Tile(j * across + i, j * size, i * size, size) for j in range(fine.nlat // size) for i in range(across)
    )


def coarse_around(tile: Tile, coarse: RegularGrid, ratio: int, halo: int) -> NDArray[np.int64]:
    """Coarse cells of a tile and of the halo of fine cells around it, (ny, nx); columns wrap, -1 past a pole."""
    rim, side = -(-halo // ratio), tile.size // ratio
    row = np.arange(-rim, side + rim)[:, None] + tile.row0 // ratio
    column = (np.arange(-rim, side + rim) + tile.col0 // ratio) % coarse.nlon
    return np.where((row >= 0) & (row < coarse.nlat), row * coarse.nlon + column, -1)


def deal(count: int, ranks: int) -> NDArray[np.int64]:
    """Owner of each of `count` tiles: one rank after another, so that neighbours, which cost alike, are spread."""
    return np.arange(count, dtype=np.int64) % ranks


@dataclass(frozen=True, eq=False)
class TileCells:
    """The n delivered land cells of one tile, coarse cell after coarse cell, row by row within each.

    nlon: columns of the fine grid; inside (n,) int32: index in the flattened tile; coarse (m,): index in the coarse
    grid of the coarse cells they lie in, ascending; blocks (m,): the same counted within the tile, row by row; first
    (m + 1,): where those of each coarse cell begin.
    """

    tile: Tile
    ratio: int
    nlon: int
    inside: NDArray[np.int32]
    coarse: NDArray[np.int64]
    blocks: NDArray[np.int64]
    first: NDArray[np.int64]

    @classmethod
    def of(cls, tile: Tile, delivered: NDArray[np.bool_], fine: RegularGrid, ratio: int) -> "TileCells":
        """From the mask of the delivered cells of the tile, (size, size)."""
        side, each = tile.size // ratio, ratio**2
        blocks = to_blocks(delivered, ratio)
        used = np.flatnonzero(blocks.any(axis=1))
        block, offset = np.nonzero(blocks)
        first = np.zeros(used.size + 1, dtype=np.int64)
        np.cumsum(np.count_nonzero(blocks[used], axis=1), out=first[1:])
        inside = _order(tile.size, ratio)[block * each + offset]
        coarse = (tile.row0 // ratio + used // side) * (fine.nlon // ratio) + tile.col0 // ratio + used % side
        return cls(tile, ratio, fine.nlon, inside, coarse, used, first)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row of each cell in the fine grid, (n,)."""
        return self.tile.row0 + (self.inside // np.int32(self.tile.size)).astype(np.int64)

    @property
    def cells(self) -> NDArray[np.int64]:
        """Index of each cell in the fine grid, (n,)."""
        row, column = divide(self.inside, self.tile.size)
        return (row + self.tile.row0) * self.nlon + column + self.tile.col0

    @property
    def slot(self) -> NDArray[np.int64]:
        """Position of each cell in a flattened (m, ratio^2) array, (n,)."""
        row, column = divide(self.inside, self.tile.size)
        return self.coarse_of_cell * self.ratio**2 + row % self.ratio * self.ratio + column % self.ratio

    @property
    def size(self) -> int:
        """Number of delivered cells."""
        return int(self.inside.size)

    @property
    def coarse_of_cell(self) -> NDArray[np.int64]:
        """Position in `coarse` of the coarse cell each delivered cell lies in, (n,)."""
        return np.repeat(np.arange(self.coarse.size), np.diff(self.first))

    @property
    def ascending(self) -> NDArray[np.int64]:
        """Positions of the cells in ascending order of `cells`, (n,)."""
        at = np.full(self.tile.size**2, -1, dtype=np.int64)
        at[self.inside] = np.arange(self.inside.size)
        return at[at >= 0]

    def for_kernel(self, area_rows: NDArray[np.float64]) -> kernel.Tile:
        """The cells as the compiled kernel takes them; area_rows: area of a fine cell by row, m2."""
        tile = self.tile
        return kernel.Tile(self.first, self.inside, tile.size, (tile.row0, tile.col0), area_rows, self.nlon)

    def block(self, values: NDArray) -> NDArray:
        """Cell values (..., n) as (m, ..., ratio^2) coarse cell by coarse cell, 0 where no cell is delivered."""
        out = np.zeros((*values.shape[:-1], self.coarse.size * self.ratio**2), dtype=values.dtype)
        out[..., self.slot] = values
        return np.moveaxis(out.reshape(*values.shape[:-1], self.coarse.size, self.ratio**2), -2, 0)

    def unblock(self, blocks: NDArray) -> NDArray:
        """The reverse of `block`: (m, ..., ratio^2) to (..., n)."""
        flat = np.moveaxis(blocks, 0, -2)
        return np.take(flat.reshape(*flat.shape[:-2], -1), self.slot, axis=-1)

    def grid(self, values: NDArray, fill: float) -> NDArray:
        """Cell values (n,) on the tile, (size, size), `fill` where no cell is delivered."""
        out = np.full(self.tile.size**2, fill, dtype=values.dtype)
        out[self.inside] = values
        return out.reshape(self.tile.size, self.tile.size)


@functools.lru_cache(maxsize=4)
def _order(size: int, ratio: int) -> NDArray[np.int32]:
    """Index in the tile of its cells, coarse cell after coarse cell."""
    return to_blocks(np.arange(size**2, dtype=np.int32).reshape(size, size), ratio).ravel()


def divide(inside: NDArray[np.int32], size: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Rows and columns of indices in a flattened square."""
    row = inside // np.int32(size)
    return row.astype(np.int64), inside - row * np.int32(size)


def to_blocks(window: NDArray, ratio: int) -> NDArray:
    """A window (ny, nx) of whole coarse cells as (coarse cells, ratio^2), row by row."""
    ny, nx = window.shape[0] // ratio, window.shape[1] // ratio
    return window.reshape(ny, ratio, nx, ratio).swapaxes(1, 2).reshape(ny * nx, ratio * ratio)
