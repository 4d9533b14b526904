"""Everything that follows from the host's grid: who holds what, what overlaps what, and which tiles run where."""

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.comm import Communicator
from ai4land_coupler.config import RegridConfig
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import RegridError
from ai4land_coupler.exchange import HostExchange, HostSums
from ai4land_coupler.grids import HostGrid, RegularGrid, refuse_radians
from ai4land_coupler.hostshares import HostShares
from ai4land_coupler.layout import Layout
from ai4land_coupler.placement import BASE, OWN, Placement, check_coverage
from ai4land_coupler.regrid import Engine, Overlap, Patch, esmf_wanted, is_rectangle, make_engine
from ai4land_coupler.regrid.cache import CachedEngine
from ai4land_coupler.shelf import Shelf
from ai4land_coupler.tally import TileSums
from ai4land_coupler.tiles import Tile, TileCells
from ai4land_coupler.tilework import TileWork

log = logging.getLogger(__package__)

Float = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Domain:
    """The host's grid as the emulator sees it; built once by `set_grid`.

    tiles: those with delivered cells, and owner, the rank of each, are the same on every rank; own holds the cells of
    this rank's, inner (m,) where their coarse cells and window (ny, nx) where the coarse cells of the tile and its halo
    stand among the known cells of `placement` (-1 past a pole); to_host sums them by host cell, columns over all tiles;
    shares: how host cells larger than coarse cells share out their states, None where there are none.
    """

    engine: str
    hosts: HostExchange
    placement: Placement
    tiles: tuple[Tile, ...]
    owner: Index
    own: tuple[TileCells, ...]
    inner: tuple[Index, ...]
    window: tuple[Index, ...]
    to_host: tuple[TileSums, ...]
    columns: HostSums
    shares: HostShares | None

    @classmethod
    def build(
        cls,
        comm: Communicator,
        emulator: Emulator,
        config: RegridConfig,
        host: HostGrid,
        borrow: bool = True,
        workers: Sequence[int] | None = None,
    ) -> "Domain":
        """From this rank's host cells; raises GridError or RegridError on every rank alike. Collective.

        borrow: see `Placement.build`; workers: see `Layout.build`.
        """
        cells = int(comm.sum(np.array([host.size]))[0])
        largest = comm.max(float(np.abs([host.vertex_lon, host.vertex_lat]).max(initial=0.0)))
        refuse_radians(cells, largest)
        engine = agree_engine(comm, config, host)
        comm.together(lambda: engine.check(host))
        layout = Layout.build(comm, emulator, engine.bounds(host, emulator.coarse), workers)
        hosts = HostExchange.build(comm, host, *layout.sending)
        patches, members = _patches(engine, layout, hosts.reaching)
        made = comm.together(lambda: engine.coarse(emulator.coarse, patches))
        overlap = _joined(made, patches, members, hosts.reaching.size)
        if config.coverage == "global":
            whole = engine.area(_as_hosts(emulator.coarse, layout.plot.cells))
            check_coverage(comm, emulator.coarse, layout.plot.cells, overlap.row_sum(), whole)
        base, fine_land = base_state(emulator, layout.plot.known)
        placement = Placement.build(comm, hosts, emulator.coarse, layout.plot, overlap, base, fine_land, borrow)
        comm.together(lambda: _refuse_lost(engine, host, placement.host_area))

        delivered = layout.split(placement.delivered)
        used = [i for i, wanted in enumerate(delivered) if wanted.any()]
        own = {i: layout.cells_of(layout.own[i], delivered[i]) for i in used}
        tiles = layout.where(comm, [layout.own[i].index for i in used])
        inner = {i: layout.inner(i, own[i]) for i in used}
        borrowed = placement.filled != OWN
        to_host = comm.together(
            lambda: [_to_host(engine, emulator, own[i], patches[i].hosts, members[i], borrowed[inner[i]]) for i in used]
        )
        tile = np.repeat([own[i].tile.index for i in used], [sums.hosts.size for sums in to_host])
        pairs = np.concatenate([np.empty(0, np.int64), *(sums.hosts for sums in to_host)])
        columns = HostSums.build(comm, hosts, tile.astype(np.int64), pairs)
        shares = HostShares.build(comm, hosts, emulator.coarse, placement)
        _say(comm, engine, cells, emulator, tiles)
        return cls(
            engine=engine.name, hosts=hosts, placement=placement,
            tiles=tiles, owner=layout.owner[[tile.index for tile in tiles]],
            own=tuple(own[i] for i in used), inner=tuple(inner[i] for i in used),
            window=tuple(layout.windows[i] for i in used), to_host=tuple(to_host), columns=columns,
            shares=shares,
        )  # fmt: skip

    @property
    def fine_size(self) -> int:
        """Delivered fine cells of this rank."""
        return sum(part.size for part in self.own)

    def cells(self) -> Index:
        """Fine grid indices of this rank's delivered cells, tile after tile, (n_fine,)."""
        return np.concatenate([np.empty(0, np.int64), *(part.cells for part in self.own)])

    def work(
        self, totals: Float, change: bool = False, priors: Sequence[NDArray[np.uint8]] | None = None
    ) -> Iterator[TileWork]:
        """What each of this rank's tiles is refined from, given the totals (K, w) of the known coarse cells.

        priors: the map of the year made before around each tile, for networks that are given it.
        """
        place = self.placement
        for i, (cells, inner, window) in enumerate(zip(self.own, self.inner, self.window, strict=True)):
            before = np.ascontiguousarray(place.base[:, inner].T) if change else None
            prior = None if priors is None else priors[i]
            yield TileWork(cells, totals, window, place.filled[inner] == BASE, before, prior, self.to_host[i])

    @functools.cached_property
    def _shelf(self) -> Shelf:
        return Shelf()

    def of_coarse(self, parts: Sequence[Float], n_classes: int) -> Float:
        """Values (K, m) on the coarse cells of this rank's tiles, NaN where nothing is delivered.

        parts: those of each tile, on the coarse cells of its TileCells.
        """
        (out,) = self._shelf.lend([(n_classes, self.placement.cells.size)])
        out.fill(np.nan)
        for inner, part in zip(self.inner, parts, strict=True):
            out[:, inner] = part
        return out

    def filled_of(self, i: int) -> NDArray[np.uint8]:
        """Where the state of each delivered cell of this rank's i-th tile comes from, (n,): see placement."""
        return self.placement.filled[self.inner[i][self.own[i].coarse_of_cell]]

    def filled(self) -> NDArray[np.uint8]:
        """The same for all of this rank's delivered cells, (n_fine,)."""
        return np.concatenate([np.empty(0, np.uint8), *(self.filled_of(i) for i in range(len(self.own)))])


def agree_engine(comm: Communicator, config: RegridConfig, host: HostGrid) -> Engine:
    """The engine that serves the host cells of all ranks, on every rank the same. Collective."""
    odd = host.cell_id[~is_rectangle(host.vertex_lon, host.vertex_lat)]
    first_odd = comm.min(int(odd.min()) if odd.size else None)
    lacks = comm.together(_lacks_esmf) if esmf_wanted(config, first_odd) else None
    poorest = comm.min(None if lacks is None else comm.rank)
    reason = None if poorest is None else comm.bcast(lacks, root=poorest)
    return comm.together(lambda: make_engine(config, first_odd, reason))


def _lacks_esmf() -> str | None:
    from ai4land_coupler.regrid import esmf

    return esmf.lacks()


def base_state(emulator: Emulator, cells: Index) -> tuple[Float, Float]:
    """Fractions (K, m) of each class in the base map's land of coarse cells (m,), and that land's area (m,), m2."""
    ratio, step = emulator.coarse.ratio_to(emulator.fine), 4096
    blocks = emulator.base_map().reshape(emulator.coarse.nlat, ratio, emulator.coarse.nlon, ratio)
    kinds = len(emulator.legend) + 1
    area = np.zeros((kinds, cells.size))
    on_land = np.flatnonzero((blocks > 0).any(axis=(1, 3)).ravel()[cells])
    for first in range(0, on_land.size, step):
        some = on_land[first : first + step]
        row, column = np.divmod(cells[some], emulator.coarse.nlon)
        kind = np.arange(row.size)[:, None, None] * kinds + blocks[row, :, column]
        weight = emulator.fine.area_rows[row[:, None] * ratio + np.arange(ratio)]
        weight = np.broadcast_to(weight[:, :, None], kind.shape)
        sums = np.bincount(kind.ravel(), weights=weight.ravel(), minlength=row.size * kinds)
        area[:, some] = sums.reshape(-1, kinds).T
    land = area[1:].sum(axis=0)
    return area[1:] / np.where(land > 0, land, 1.0), land


def _patches(engine: Engine, layout: Layout, reaching: HostGrid) -> tuple[list[Patch], list[Index]]:
    """For each of this rank's tiles its coarse cells and the host cells that may reach it, and which those are."""
    tile, cell = engine.bounds(reaching, layout.emulator.coarse).touched(layout.grid)
    order = np.argsort(tile, kind="stable")
    tile, cell = tile[order], cell[order]
    members = [cell[np.searchsorted(tile, own.index) : np.searchsorted(tile, own.index, "right")] for own in layout.own]
    cells = layout.split(layout.plot.cells)
    return [Patch(part, reaching.take(some)) for part, some in zip(cells, members, strict=True)], members


def _joined(made: Sequence[Overlap], patches: Sequence[Patch], members: Sequence[Index], n_host: int) -> Overlap:
    """The overlaps of this rank's tiles as one: rows tile after tile, columns the host cells that reach the rank."""
    first = np.cumsum([0, *(patch.cells.size for patch in patches)])
    blocks = [
        (part.row + start, some[part.col], part.area)
        for part, some, start in zip(made, members, first[:-1], strict=True)
    ]
    return Overlap.from_blocks(blocks, int(first[-1]), n_host)


def _to_host(
    engine: Engine, emulator: Emulator, cells: TileCells, hosts: HostGrid, members: Index,
    borrowed: NDArray[np.bool_],
) -> TileSums:  # fmt: skip
    overlap = engine.fine(emulator.fine, Patch(cells.cells[cells.ascending], hosts))
    return TileSums.of(overlap, cells, emulator.fine.area_rows, members, borrowed)


def _as_hosts(grid: RegularGrid, cells: Index) -> HostGrid:
    return HostGrid(cells, *grid.corners(cells), np.ones(cells.size))


def _refuse_lost(engine: Engine, host: HostGrid, placed: Float) -> None:
    """RegridError where the coarse cells did not take up the area of a host cell."""
    if not host.size:
        return
    area = engine.area(host)
    off = np.abs(placed / area - 1)
    worst = int(np.argmax(off))
    if off[worst] > engine.area_tolerance:
        raise RegridError(
            f"engine {engine.name} placed {placed[worst] / area[worst]:.9f} of the area of host cell "
            f"{int(host.cell_id[worst])}, expected all of it within {engine.area_tolerance:g}; are its corners in "
            "order around the cell, and is a weight file made for this grid?"
        )


def _say(comm: Communicator, engine: Engine, cells: int, emulator: Emulator, tiles: Sequence[Tile]) -> None:
    if isinstance(engine, CachedEngine):
        engine.report()
    if comm.rank == 0:
        log.info(
            "host grid: %d cells on %d ranks, regrid by %s, %d tiles of %d cells",
            cells, comm.size, engine.name, len(tiles), emulator.tile,
        )  # fmt: skip
