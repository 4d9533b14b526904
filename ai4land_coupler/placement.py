"""Where the host's land lies on the coarse grid, which coarse cells have a state, and where the rest get theirs."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.comm import Communicator
from ai4land_coupler.errors import GridError
from ai4land_coupler.exchange import HostExchange, HostSums, Route, sum_areas
from ai4land_coupler.grids import EARTH_RADIUS, RegularGrid
from ai4land_coupler.regrid import Overlap

Float = NDArray[np.float64]
Index = NDArray[np.int64]

COVERED = 1e-6
"""A coarse cell is overlapped, and has a state, from this share of its area on."""

OPEN = 1e-4
"""Share of a coarse cell that host cells may leave open where they are to cover the globe."""

REACH = 300_000.0
"""Distance in m up to which fine land without a state takes the nearest one."""

OWN, NEAREST, BASE = 0, 1, 2
"""Values of `filled`: the cell's own state, the nearest one, the emulator's base map."""


@dataclass(frozen=True, eq=False)
class Placement:
    """The host's land on this rank's coarse cells, and the state each of them and of those around them uses.

    cells (m,): the coarse cells of this rank's tiles, tile after tile; land: their overlaps (rows) with the host cells
    that reach them (columns), rescaled so that over all ranks each host cell's sum to its land area; host_area (n,):
    area of this rank's host cells, m2, by the engine; delivered (m,) bool: fine land that host cells overlap; filled
    (m,) uint8.
    Over the w known cells, which are `cells` and then those around them: fine_land (w,): area of the emulator's land,
    m2; base (K, w): fractions of the base map; origin (w,): whose state is used, a position among `cells` and then what
    `fetch` brings from other ranks, -1 for the base map.
    """

    cells: Index
    land: Overlap
    host_area: Float
    delivered: NDArray[np.bool_]
    filled: NDArray[np.uint8]
    fine_land: Float
    base: Float
    origin: Index
    fetch: Route

    @classmethod
    def build(
        cls,
        comm: Communicator,
        hosts: HostExchange,
        coarse: RegularGrid,
        plot: "Plot",
        overlap: Overlap,
        base: Float,
        fine_land: Float,
        borrow: bool = True,
    ) -> "Placement":
        """From the overlaps (m, h) of this rank's coarse cells, and base map and land of the known ones. Collective.

        borrow: land without a state takes the nearest one, else the base map.
        """
        area = coarse.area_rows[plot.cells // coarse.nlon]
        own_land = fine_land[: plot.cells.size]
        land, host_area = _on_land(comm, hosts, overlap, plot.tile, own_land / area)
        state = land.row_sum() >= COVERED * area
        delivered = (overlap.row_sum() > COVERED * area) & (own_land > 0)
        source = np.where(state, plot.cells, -1)
        if borrow:
            needy = np.flatnonzero(delivered & ~state)
            needy = needy[np.argsort(plot.cells[needy])]
            everywhere = np.zeros(coarse.size, dtype=bool)
            everywhere[plot.cells[state]] = True
            source[needy] = nearest(coarse, np.flatnonzero(comm.any(everywhere)), plot.cells[needy])
        origin, fetch = _origins(comm, plot, source, coarse.size)
        filled = np.where(source < 0, BASE, np.where(state, OWN, NEAREST)).astype(np.uint8)
        return cls(plot.cells, land, host_area, delivered, filled, fine_land, base, origin, fetch)

    @property
    def own_land(self) -> Float:
        """Area of the emulator's land in each of this rank's coarse cells, (m,), m2."""
        return self.fine_land[: self.cells.size]

    def totals(self, comm: Communicator, regridded: Float) -> Float:
        """Coarse totals F (K, w) of the known cells, fractions of land, 0 where there is no fine land. Collective.

        regridded (K, m): areas of each class on `cells`, m2. A cell uses its own state, the nearest or the base map.
        """
        out, base = self._taken(comm, regridded, self._of_land), self._on_base
        out /= np.maximum(out.sum(axis=0), np.finfo(float).tiny)
        out[:, base] = self.base[:, base]
        return out

    def brought(self, comm: Communicator, own: Float) -> Float:
        """Values (K, m) on `cells` to the known cells (K, w) that use them, 0 on those of the base map. Collective."""
        return self._taken(comm, own, self._of_any)

    def _taken(self, comm: Communicator, own: Float, source: Overlap) -> Float:
        """Values (K, m) on `cells`, and what is fetched, on the known cells (K, w) that `source` gives one. Collective.

        An overlap of area 1 is the value itself, none is 0.
        """
        fetched = self.fetch(comm, own.T).T
        given = np.concatenate([own, fetched], axis=1) if fetched.shape[1] else own
        return source.apply(given)

    @functools.cached_property
    def _of_any(self) -> Overlap:
        return self._source(self.origin >= 0)

    @functools.cached_property
    def _of_land(self) -> Overlap:
        return self._source((self.origin >= 0) & (self.fine_land > 0))

    def _source(self, some: NDArray[np.bool_]) -> Overlap:
        row = np.flatnonzero(some)
        columns = self.cells.size + self.fetch.order.size
        return Overlap(row, self.origin[row], np.ones(row.size), self.origin.size, columns)

    @functools.cached_property
    def _on_base(self) -> Index:
        return np.flatnonzero((self.fine_land > 0) & (self.origin < 0))


@dataclass(frozen=True, eq=False)
class Plot:
    """The coarse cells a rank works on.

    cells (m,) of its tiles, tile after tile, with the index of the tile of each (tile); around (r,) ascending: cells in
    the halos that are not its own; owner_of: ranks of coarse cells, -1 for those no host cell comes near.
    """

    cells: Index
    tile: Index
    around: Index
    owner_of: Callable[[Index], Index]

    @property
    def known(self) -> Index:
        """Its own cells, then those around them, (w,)."""
        return np.concatenate([self.cells, self.around])


def check_coverage(comm: Communicator, coarse: RegularGrid, cells: Index, covered: Float, area: Float) -> None:
    """GridError on every rank where host cells leave coarse cells open.

    covered (m,): area of `cells`, those of this rank's tiles, that host cells cover; area (m,): all of it; m2, both by
    the engine.
    """
    closed = np.zeros(coarse.size, dtype=bool)
    closed[cells] = covered >= (1 - OPEN) * area
    gap = np.flatnonzero(~comm.any(closed))
    if gap.size:
        raise GridError(
            f"regrid.coverage is `global`, but host cells leave {gap.size} of {coarse.size} coarse cells open, the "
            f"first at {coarse.lat[gap[0] // coarse.nlon]:.2f} N {coarse.lon[gap[0] % coarse.nlon]:.2f} E; "
            "give the missing cells or set coverage to `any`"
        )


@dataclass(frozen=True, eq=False)
class Budget:
    """Areas of a year in m2, each (K,): host = delivered - filled + unplaced + coast_gap.

    cut: of the change asked for, what the base map could not make (`change` mode); unplaced_cells: coarse cells where
    the host has land and the emulator none.
    """

    host: Float
    delivered: Float
    filled: Float
    unplaced: Float
    coast_gap: Float
    cut: Float
    unplaced_cells: int

    @classmethod
    def of(
        cls,
        comm: Communicator,
        place: Placement,
        host: Float,
        regridded: Float,
        totals: Float,
        delivered: Float,
        filled: Float,
        cut: Float | None = None,
    ) -> "Budget":
        """From areas in m2 of this rank: host (K, n) by host cell, regridded and cut (K, m) by coarse cell, delivered
        and filled (K, tiles), and the totals (K, w). Collective."""  # fmt: skip
        on_land = place.own_land > 0
        land = np.flatnonzero(on_land)
        placed = np.where(place.delivered & (place.filled == OWN), place.own_land, 0.0)[land]
        unplaced = regridded[:, ~on_land & regridded.any(axis=0)]
        gap = regridded.take(land, axis=1) - totals.take(land, axis=1) * placed
        cells = int(comm.sum(np.array([unplaced.shape[1]]))[0])
        cut = np.zeros((len(host), 0)) if cut is None else cut
        of_host, of_fine, of_filled, lost, gained, missed = sum_areas(comm, host, delivered, filled, unplaced, gap, cut)
        return cls(of_host, of_fine, of_filled, lost, gained, missed, cells)

    @property
    def closure(self) -> float:
        """Largest |host - (delivered - filled + unplaced + coast_gap)| of a class, over the host's land area."""
        gap = self.host - (self.delivered - self.filled + self.unplaced + self.coast_gap)
        return float(np.abs(gap).max() / max(self.host.sum(), np.finfo(float).tiny))


def _on_land(
    comm: Communicator, hosts: HostExchange, overlap: Overlap, tile: Index, emulator_land: Float
) -> tuple[Overlap, Float]:
    """Overlaps weighted by the emulator's land fraction and rescaled to each host cell's land area, and its area.

    Host land that meets no land of the emulator keeps its plain overlaps: it is reported as unplaced. A host cell may
    lie over tiles of several ranks; its owner adds them up, tile by tile, and says how to rescale.
    """
    pair, of = np.unique(tile[overlap.row] * max(overlap.n_col, 1) + overlap.col, return_inverse=True)
    over_tiles = HostSums.build(comm, hosts, *np.divmod(pair, max(overlap.n_col, 1)))
    weighted = overlap.area * emulator_land[overlap.row]
    sums = [np.bincount(of, weights=values, minlength=pair.size) for values in (overlap.area, weighted)]
    sums = [part.astype(np.float64) for part in sums]  # of nothing, on a rank without tiles, bincount makes integers
    whole, reached = over_tiles(comm, np.stack(sums, axis=1))
    plain = reached == 0
    scale = whole * hosts.own.land_fraction / np.maximum(np.where(plain, whole, reached), np.finfo(float).tiny)
    scale, unreached = hosts.to_tiles(comm, np.stack([scale, plain.astype(np.float64)]))
    scaled = np.where(unreached[overlap.col] > 0, overlap.area, weighted) * scale[overlap.col]
    keep = scaled > 0
    return Overlap(overlap.row[keep], overlap.col[keep], scaled[keep], overlap.n_row, overlap.n_col), whole


def _origins(comm: Communicator, plot: Plot, source: Index, n_coarse: int) -> tuple[Index, Route]:
    """Where each known cell finds its state, given the coarse cell (or -1) each of this rank's takes it from."""
    owner = plot.owner_of(plot.around)
    made = np.flatnonzero(owner >= 0)
    around = np.full(plot.around.size, -1, dtype=np.int64)
    around[made] = Route.pull(comm, plot.around[made], owner[made], plot.cells)(comm, source)
    sources = np.concatenate([source, around])
    at = np.full(n_coarse, -1, dtype=np.int64)
    at[sources[sources >= 0]] = plot.cells.size
    at[plot.cells] = -1
    foreign = np.flatnonzero(at >= 0)
    fetch = Route.pull(comm, foreign, plot.owner_of(foreign), plot.cells)
    at[plot.cells] = np.arange(plot.cells.size)
    at[foreign] = plot.cells.size + np.arange(foreign.size)
    return np.where(sources >= 0, at[sources], -1), fetch


def nearest(grid: RegularGrid, states: NDArray[np.int64], needy: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each needy cell the nearest of the cells `states` within REACH, by great circle between centres, else -1.

    All are ascending indices of `grid`; equal distances go to the lowest index.
    """
    out = np.full(needy.size, -1, dtype=np.int64)
    lat, lon = np.radians(grid.lat), np.radians(grid.lon)
    rows = int(np.ceil(np.degrees(REACH / EARTH_RADIUS) / (180.0 / grid.nlat)))
    needy_row, state_row = needy // grid.nlon, states // grid.nlon
    for row in np.unique(needy_row):
        near = states[np.searchsorted(state_row, row - rows) : np.searchsorted(state_row, row + rows, "right")]
        mine = np.flatnonzero(needy_row == row)
        if near.size == 0:
            continue
        lat_near = lat[near // grid.nlon]
        cosine = np.sin(lat[row]) * np.sin(lat_near) + np.cos(lat[row]) * np.cos(lat_near) * np.cos(
            lon[needy[mine] % grid.nlon][:, None] - lon[near % grid.nlon]
        )
        # rounding must not decide between cells of equal distance
        distance = np.round(np.arccos(np.clip(cosine, -1.0, 1.0)) * EARTH_RADIUS, 2)
        best = distance.argmin(axis=1)
        found = distance[np.arange(mine.size), best] <= REACH
        out[mine[found]] = near[best[found]]
    return out
