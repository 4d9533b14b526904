"""Which tiles the host's cells may touch, and which rank works on each and on the coarse cells in it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.comm import Communicator
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.placement import Plot
from ai4land_coupler.regrid.bounds import Bounds
from ai4land_coupler.tiles import Tile, TileCells, all_tiles, coarse_around, deal

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Layout:
    """The deal of tiles, the same on every rank, and what of it is this rank's.

    grid: the tiles as cells of a regular grid; owner (n_tiles,): rank of each tile, -1 where no host cell comes near;
    own: this rank's tiles, ascending; sending: (position of host cell, rank) for every rank a cell has to reach; plot:
    the coarse cells of own tiles and around them; windows: for each own tile where the coarse cells of the tile and its
    halo stand among plot.known, (ny, nx), -1 past a pole.
    """

    emulator: Emulator
    grid: RegularGrid
    owner: Index
    own: tuple[Tile, ...]
    sending: tuple[Index, Index]
    plot: Plot
    windows: tuple[Index, ...]

    @classmethod
    def build(
        cls, comm: Communicator, emulator: Emulator, bounds: Bounds, workers: Sequence[int] | None = None
    ) -> "Layout":
        """From the boxes around this rank's host cells. Collective.

        workers: the ranks that take tiles, None for all.
        """
        tiles = all_tiles(emulator.fine, emulator.coarse, emulator.tile)
        grid = RegularGrid(emulator.fine.nlat // emulator.tile, emulator.fine.nlon // emulator.tile)
        tile, cell = bounds.touched(grid)
        touched = np.zeros(grid.size, dtype=bool)
        touched[tile] = True
        has_land = np.array([(emulator.base_map()[t.rows, t.cols] > 0).any() for t in tiles])
        owner = owners(comm.any(touched), has_land, range(comm.size) if workers is None else workers)
        own = tuple(t for t in tiles if owner[t.index] == comm.rank)
        sending = np.unique(np.stack([cell, owner[tile]]), axis=1)
        plot, windows = _plot(emulator, grid, owner, own)
        return cls(emulator, grid, owner, own, (sending[0], sending[1]), plot, windows)

    def split(self, values: NDArray) -> list[NDArray]:
        """Values (m,) on the coarse cells of this rank's tiles, tile by tile."""
        return np.split(values, len(self.own)) if self.own else []

    def cells_of(self, tile: Tile, wanted: NDArray[np.bool_]) -> TileCells:
        """The emulator's land in the wanted coarse cells of a tile, (side^2,)."""
        ratio = self.emulator.coarse.ratio_to(self.emulator.fine)
        side = tile.size // ratio
        mask = np.repeat(np.repeat(wanted.reshape(side, side), ratio, axis=0), ratio, axis=1)
        mask &= self.emulator.base_map()[tile.rows, tile.cols] > 0
        return TileCells.of(tile, mask, self.emulator.fine, ratio)

    def inner(self, i: int, cells: TileCells) -> Index:
        """Where the coarse cells of `cells`, of this rank's i-th tile, stand among plot.known."""
        return i * (cells.tile.size // cells.ratio) ** 2 + cells.blocks

    def where(self, comm: Communicator, own: list[int]) -> tuple[Tile, ...]:
        """The tiles of all ranks that name them, ascending, on every rank. Collective."""
        flags = np.zeros(self.grid.size, dtype=bool)
        flags[own] = True
        tiles = all_tiles(self.emulator.fine, self.emulator.coarse, self.emulator.tile)
        return tuple(tiles[index] for index in np.flatnonzero(comm.any(flags)))


def owners(touched: NDArray[np.bool_], has_land: NDArray[np.bool_], workers: Sequence[int]) -> Index:
    """Tiles with land are dealt first, then those of the sea, where only unplaced land is to be counted."""
    wanted = np.concatenate([np.flatnonzero(touched & has_land), np.flatnonzero(touched & ~has_land)])
    owner = np.full(touched.size, -1, dtype=np.int64)
    owner[wanted] = np.asarray(workers, np.int64)[deal(wanted.size, len(workers))]
    return owner


def _plot(emulator: Emulator, grid: RegularGrid, owner: Index, own: tuple[Tile, ...]) -> tuple[Plot, tuple[Index, ...]]:
    coarse, ratio = emulator.coarse, emulator.coarse.ratio_to(emulator.fine)
    side = emulator.tile // ratio
    windows = [coarse_around(tile, coarse, ratio, emulator.halo) for tile in own]
    empty = np.empty(0, dtype=np.int64)
    cells = np.concatenate([empty, *(coarse_around(tile, coarse, ratio, 0).ravel() for tile in own)])
    met = np.zeros(coarse.size, dtype=bool)
    for window in windows:
        met[window[window >= 0]] = True
    met[cells] = False

    def owner_of(coarse_cells: Index) -> Index:
        row, column = np.divmod(coarse_cells, coarse.nlon)
        return owner[row // side * grid.nlon + column // side]

    plot = Plot(cells, np.repeat([tile.index for tile in own], side**2).astype(np.int64), np.flatnonzero(met), owner_of)
    return plot, tuple(_positions(plot.known, windows))


def _positions(known: Index, windows: list[Index]) -> Iterator[Index]:
    """Where the cells of each window stand in a list that holds them all, -1 for -1."""
    sorter = np.argsort(known)
    ranked = known[sorter]
    for window in windows:
        at = np.full(window.shape, -1, dtype=np.int64)
        at[window >= 0] = sorter[np.searchsorted(ranked, window[window >= 0])]
        yield at
