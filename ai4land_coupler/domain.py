"""Everything that follows from the host's grid: who holds what, what overlaps what, and which tiles run where."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.comm import Communicator
from ai4land_coupler.config import RegridConfig
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.exchange import HostExchange
from ai4land_coupler.grids import HostGrid, refuse_radians
from ai4land_coupler.placement import Placement
from ai4land_coupler.regrid import Overlap, make_engine
from ai4land_coupler.tiles import Tile, TileCells, all_tiles, deal

log = logging.getLogger(__package__)


@dataclass(frozen=True, eq=False)
class HostSums:
    """Sums over the cells of one tile by host cell: (K, n) fractions to area-weighted sums (K, hosts)."""

    hosts: NDArray[np.int64]
    cell: NDArray[np.int64]
    area: NDArray[np.float64]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, row: NDArray[np.int64], col: NDArray[np.int64], area: NDArray[np.float64]) -> "HostSums":
        """From overlaps of cells (row) with host cells (col)."""
        order = np.lexsort((row, col))
        hosts, starts = np.unique(col[order], return_index=True)
        return cls(hosts, row[order], area[order], starts)

    def __call__(self, fractions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add fractions times overlap area, m2, in order of cell."""
        if not self.hosts.size:
            return np.empty((fractions.shape[0], 0))
        return np.add.reduceat(fractions[:, self.cell] * self.area, self.starts, axis=1)


@dataclass(frozen=True, eq=False)
class Domain:
    """The host's grid as the emulator sees it; built once by `set_grid`.

    tiles and owner are the same on every rank; own holds the cells of this rank's tiles and to_host their sums.
    base (K, n_coarse): fractions of the emulator's base map, 0 where there is no fine land.
    """

    exchange: HostExchange
    engine: str
    placement: Placement
    tiles: tuple[Tile, ...]
    owner: NDArray[np.int64]
    own: tuple[TileCells, ...]
    to_host: tuple[HostSums, ...]
    base: NDArray[np.float64]

    @classmethod
    def build(cls, comm: Communicator, emulator: Emulator, config: RegridConfig, host: HostGrid) -> "Domain":
        """From this rank's host cells; raises GridError or RegridError on every rank alike. Collective."""
        exchange = HostExchange.gather(comm, host)
        comm.together(lambda: refuse_radians(exchange.everyone))
        engine = comm.together(lambda: make_engine(exchange.everyone, config))
        overlap = comm.together(lambda: engine.coarse(emulator.coarse) if comm.rank == 0 else None)
        overlap = comm.bcast(overlap)
        base, fine_land = base_state(emulator)
        placement = comm.together(
            lambda: Placement.of(overlap, exchange.everyone.land_fraction, fine_land, emulator.coarse, config.coverage)
        )
        tiles, delivered = _delivered(emulator, placement)
        owner = deal(len(tiles), comm.size)
        ratio = emulator.coarse.ratio_to(emulator.fine)
        own = tuple(
            TileCells.of(tile, delivered[tile.rows, tile.cols], emulator.fine, ratio)
            for tile, rank in zip(tiles, owner, strict=True)
            if rank == comm.rank
        )
        cells = np.concatenate([np.empty(0, np.int64), *(part.cells for part in own)])
        fine_overlap = comm.together(lambda: engine.fine(emulator.fine, cells))
        to_host = tuple(_by_tile(fine_overlap, own))
        if comm.rank == 0:
            log.info(
                "host grid: %d cells on %d ranks, regrid by %s, %d tiles of %d cells",
                exchange.everyone.size, comm.size, engine.name, len(tiles), emulator.tile,
            )  # fmt: skip
        return cls(exchange, engine.name, placement, tiles, owner, own, to_host, base)

    @property
    def fine_size(self) -> int:
        """Delivered fine cells of this rank."""
        return sum(part.size for part in self.own)

    @property
    def own_tiles(self) -> list[int]:
        """Indices of this rank's tiles, ascending."""
        return [part.tile.index for part in self.own]

    def cells(self) -> NDArray[np.int64]:
        """Fine grid indices of this rank's delivered cells, tile after tile, (n_fine,)."""
        return np.concatenate([np.empty(0, np.int64), *(part.cells for part in self.own)])

    def filled(self) -> NDArray[np.uint8]:
        """Where the state of each of this rank's delivered cells comes from, (n_fine,): see placement."""
        return np.concatenate([np.empty(0, np.uint8), *(self.placement.filled[p.coarse_of_cell] for p in self.own)])


def base_state(emulator: Emulator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fractions (K, n_coarse) of each class in the base map's land, and that land's area (n_coarse,), m2."""
    fine, coarse = emulator.fine, emulator.coarse
    ratio = coarse.ratio_to(fine)
    classes = emulator.base_map()
    area = np.empty((len(emulator.legend), coarse.size))
    for k in range(len(emulator.legend)):
        cells = (classes == k + 1) * fine.area_rows[:, None]
        area[k] = cells.reshape(coarse.nlat, ratio, coarse.nlon, ratio).sum(axis=(1, 3)).ravel()
    land = area.sum(axis=0)
    return area / np.where(land > 0, land, 1.0), land


def _delivered(emulator: Emulator, placement: Placement) -> tuple[tuple[Tile, ...], NDArray[np.bool_]]:
    """The tiles that hold delivered cells, and the mask of those cells (nlat, nlon)."""
    coarse, fine = emulator.coarse, emulator.fine
    ratio = coarse.ratio_to(fine)
    wanted = placement.delivered.reshape(coarse.nlat, coarse.nlon)
    mask = np.repeat(np.repeat(wanted, ratio, axis=0), ratio, axis=1) & (emulator.base_map() > 0)
    tiles = all_tiles(fine, coarse, emulator.tile)
    return tuple(tile for tile in tiles if mask[tile.rows, tile.cols].any()), mask


def _by_tile(overlap: Overlap, own: Sequence[TileCells]) -> list[HostSums]:
    """Split the overlaps of all cells of this rank, sorted by cell, into those of its tiles."""
    ends = np.cumsum([0, *(part.size for part in own)])
    cuts = np.searchsorted(overlap.row, ends)
    return [
        HostSums.of(overlap.row[a:b] - first, overlap.col[a:b], overlap.area[a:b])
        for a, b, first in zip(cuts[:-1], cuts[1:], ends[:-1], strict=True)
    ]
