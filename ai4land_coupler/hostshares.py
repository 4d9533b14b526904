"""What the ranks tell each other where host cells are larger than coarse cells; the rule is in `coarsehosts`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.coarsehosts import HostCellError, spread
from ai4land_coupler.comm import Communicator
from ai4land_coupler.errors import ConstraintError
from ai4land_coupler.exchange import HostExchange, Route
from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.placement import OWN, Placement
from ai4land_coupler.regrid import Overlap

Float = NDArray[np.float64]
Index = NDArray[np.int64]

LARGER = 1.01
"""A host cell is coarse where it is so many times as large as the largest coarse cell in the rows around its centre."""


@dataclass(frozen=True, eq=False)
class HostShares:
    """Shares the states of coarse host cells out over the coarse cells below, as `coarsehosts` says.

    The owner of a host cell solves for it: `there` brings it the coarse means of its overlaps, from whichever rank's
    tiles they lie in, `back` returns their shares. rows: coarse cells of this rank that meet a coarse host cell;
    all_overlaps: of each of these (rows) with the overlaps (columns) of host cell `source` it has; mine (e,): which of
    these belong to coarse host cells, in coarse cell `row` with area (e,), m2. host, coarse (g,): the host cell, by
    position, and the coarse cell of each overlap that reaches this rank as an owner.
    """

    rows: NDArray[np.bool_]
    all_overlaps: Overlap
    source: Index
    mine: Index
    row: Index
    area: Float
    there: Route
    back: Route
    host: Index
    coarse: Index

    @classmethod
    def build(cls, comm: Communicator, hosts: HostExchange, grid: RegularGrid, place: Placement) -> "HostShares | None":
        """None, on every rank alike, where no host cell is larger than the coarse cells. Collective."""
        large = are_large(grid, hosts.own.centre[1], place.host_area)
        if not comm.any(np.array([large.any()])).any():
            return None
        land, n = place.land, grid.size
        of_large = hosts.to_tiles(comm, large[None].astype(np.float64))[0] > 0
        has_state = place.delivered & (place.filled == OWN)
        ours = np.flatnonzero(of_large[land.col] & has_state[land.row])
        rows = np.zeros(land.n_row, dtype=bool)
        rows[land.row[ours]] = True
        kept = np.flatnonzero(rows[land.row])
        mine = np.searchsorted(kept, ours)
        row, col = land.row[ours], land.col[ours]
        key = hosts.at[col] * n + place.cells[row]
        there = Route.push(comm, np.arange(ours.size), hosts.owner[col], key)
        held = there(comm, key)
        back = Route.pull(comm, key, hosts.owner[col], held)
        overlaps = Overlap(land.row[kept], np.arange(kept.size), land.area[kept], land.n_row, kept.size)
        return cls(rows, overlaps, land.col[kept], mine, row, land.area[ours], there, back, held // n, held % n)

    def __call__(
        self, comm: Communicator, cell_id: Index, state: Float, reaching: Float, regridded: Float, means: Float
    ) -> Float:
        """Areas (K, m) in m2 of each class on this rank's coarse cells, once coarse hosts have shared theirs out.

        state (K, n) of this rank's host cells, whose ids are cell_id, and reaching (K, h) of those that reach its
        tiles; regridded (K, m): the plain regrid; means (K, m): of the network's fractions, NaN in coarse cells it was
        not run for, which keep the state of their hosts. ConstraintError names the host cell it fails for. Collective.
        """
        given = self.there(comm, comm.together(lambda: self._asked(means)))
        back = self.back(comm, comm.together(lambda: self._solved(given.T, cell_id, state)))
        return comm.together(lambda: self._summed(back.T, reaching, regridded))

    def _asked(self, means: Float) -> Float:
        """Rows (e, K + 1) of means and area for each overlap; what the network was not run for has no area."""
        known = ~np.isnan(means[0, self.row])
        return np.vstack([np.where(known, means.take(self.row, axis=1), 0.0), np.where(known, self.area, 0.0)]).T

    def _summed(self, back: Float, reaching: Float, regridded: Float) -> Float:
        shares = reaching.take(self.source, axis=1)
        shares[:, self.mine] = back
        summed = self.all_overlaps.apply(shares)
        np.copyto(summed, regridded, where=~self.rows)
        return summed

    def _solved(self, given: Float, cell_id: Index, state: Float) -> Float:
        try:
            return np.ascontiguousarray(spread(given[:-1], self.host, self.coarse, given[-1], state).T)
        except HostCellError as error:
            raise ConstraintError(f"host cell {cell_id[error.host]}: {error}") from error


def are_large(grid: RegularGrid, lat: Float, area: Float) -> NDArray[np.bool_]:
    """Whether host cells with centres at `lat`, degrees, and of `area`, m2, are larger than the coarse cells there."""
    row = np.clip(np.floor((lat + 90) / (180 / grid.nlat)).astype(np.int64), 0, grid.nlat - 1)
    around = np.stack([np.clip(row + step, 0, grid.nlat - 1) for step in (-1, 0, 1)])
    return np.asarray(area > LARGER * grid.area_rows[around].max(axis=0))
