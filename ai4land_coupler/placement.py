"""Where the host's land lies on the coarse grid, which coarse cells have a state, and where the rest get theirs."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import GridError
from ai4land_coupler.grids import EARTH_RADIUS, RegularGrid
from ai4land_coupler.regrid import Overlap

COVERED = 1e-6
"""A coarse cell is overlapped, and has a state, from this share of its area on."""

REACH = 300_000.0
"""Distance in m up to which fine land without a state takes the nearest one."""

OWN, NEAREST, BASE = 0, 1, 2
"""Values of `filled`: the cell's own state, the nearest one, the emulator's base map."""


@dataclass(frozen=True, eq=False)
class Placement:
    """The host's land on the coarse grid; the same on every rank.

    land: overlaps of coarse cells (rows) with host cells (columns), rescaled so that each column sums to the host
    cell's land area; fine_land (n_coarse,): area of the emulator's land in each coarse cell, m2; delivered (n_coarse,)
    bool: fine land that host cells overlap; filled (n_coarse,) uint8; source (n_coarse,): coarse cell whose state is
    used, -1 where the base map is; host_area (n_host,): area of the host cells, m2.
    """

    land: Overlap
    fine_land: NDArray[np.float64]
    delivered: NDArray[np.bool_]
    filled: NDArray[np.uint8]
    source: NDArray[np.int64]
    host_area: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        overlap: Overlap,
        land_fraction: NDArray[np.float64],
        fine_land: NDArray[np.float64],
        coarse: RegularGrid,
        coverage: str = "any",
    ) -> "Placement":
        """From overlap areas, the host's land fractions (n_host,) and the emulator's land area (n_coarse,) in m2."""
        area = np.repeat(coarse.area_rows, coarse.nlon)
        covered = overlap.row_sum()
        if coverage == "global" and (gap := np.flatnonzero(covered < (1 - 1e-4) * area)).size:
            raise GridError(
                f"regrid.coverage is `global`, but host cells leave {gap.size} of {area.size} coarse cells open, the "
                f"first at {coarse.lat[gap[0] // coarse.nlon]:.2f} N {coarse.lon[gap[0] % coarse.nlon]:.2f} E; "
                "give the missing cells or set coverage to `any`"
            )
        land = _on_land(overlap, land_fraction, fine_land / area)
        state = land.row_sum() >= COVERED * area
        delivered = (covered > COVERED * area) & (fine_land > 0)
        source = np.where(state, np.arange(area.size), -1)
        needy = np.flatnonzero(delivered & ~state)
        source[needy] = nearest(coarse, np.flatnonzero(state), needy)
        filled = np.where(source < 0, BASE, np.where(state, OWN, NEAREST)).astype(np.uint8)
        return cls(land, fine_land, delivered, filled, source, overlap.col_sum())

    @cached_property
    def land_area(self) -> NDArray[np.float64]:
        """Regridded land area of the host, (n_coarse,), m2."""
        return self.land.row_sum()

    def totals(self, state: NDArray[np.float64], base: NDArray[np.float64]) -> NDArray[np.float64]:
        """Coarse totals F (K, n_coarse), fractions of land: the state's where there is one, else nearest, else `base`.

        state (K, n_host); base (K, n_coarse), 0 where there is no fine land. 0 where there is no fine land.
        """
        area = self.land.apply(state)
        own = area / np.maximum(area.sum(axis=0), np.finfo(float).tiny)
        out = np.where(self.source >= 0, own[:, np.maximum(self.source, 0)], base)
        return np.where(self.fine_land > 0, out, 0.0)


@dataclass(frozen=True, eq=False)
class Budget:
    """Areas of a year in m2, each (K,): host = delivered - filled + unplaced + coast_gap."""

    host: NDArray[np.float64]
    delivered: NDArray[np.float64]
    filled: NDArray[np.float64]
    unplaced: NDArray[np.float64]
    coast_gap: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        place: Placement,
        state: NDArray[np.float64],
        land_fraction: NDArray[np.float64],
        totals: NDArray[np.float64],
        delivered: NDArray[np.float64],
        filled: NDArray[np.float64],
    ) -> "Budget":
        """From the state (K, n_host), the totals (K, n_coarse) and the sums (K,) over delivered and filled cells."""
        regridded = place.land.apply(state)
        placed = np.where(place.delivered & (place.filled == OWN), place.fine_land, 0.0)
        on_land = place.fine_land > 0
        return cls(
            host=(state * (place.host_area * land_fraction)).sum(axis=1),
            delivered=delivered,
            filled=filled,
            unplaced=regridded[:, ~on_land].sum(axis=1),
            coast_gap=(regridded - totals * placed)[:, on_land].sum(axis=1),
        )

    @property
    def closure(self) -> float:
        """Largest |host - (delivered - filled + unplaced + coast_gap)| of a class, over the host's land area."""
        gap = self.host - (self.delivered - self.filled + self.unplaced + self.coast_gap)
        return float(np.abs(gap).max() / max(self.host.sum(), np.finfo(float).tiny))


def _on_land(overlap: Overlap, land_fraction: NDArray[np.float64], emulator_land: NDArray[np.float64]) -> Overlap:
    """Overlaps weighted by the emulator's land fraction and rescaled to each host cell's land area.

    Host land that meets no land of the emulator keeps its plain overlaps: it is reported as unplaced.
    """
    weighted = overlap.area * emulator_land[overlap.row]
    reached = np.bincount(overlap.col, weights=weighted, minlength=overlap.n_col)
    weighted = np.where(reached[overlap.col] > 0, weighted, overlap.area)
    reached = np.bincount(overlap.col, weights=weighted, minlength=overlap.n_col)
    wanted = overlap.col_sum() * land_fraction
    scaled = weighted * (wanted / np.maximum(reached, np.finfo(float).tiny))[overlap.col]
    keep = scaled > 0
    return Overlap(overlap.row[keep], overlap.col[keep], scaled[keep], overlap.n_row, overlap.n_col)


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
