"""From the change of the host's state since the first year to the totals of the coarse cells, in `change` mode."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.change import share_out, target
from ai4land_coupler.comm import Communicator
from ai4land_coupler.exchange import HostExchange
from ai4land_coupler.hostshares import HostShares
from ai4land_coupler.placement import OWN, Placement

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HostChange:
    """Puts the change of the host's state on the base map's totals.

    A host cell no larger than the coarse cells hands its change to each it overlaps, as it is. A larger one shares it
    out as `change.share_out` says, so that it loses where the base map has something to lose; mean (K, e): what the
    base map has, over all its overlaps, for each of them that `shares.mine` lists.
    """

    hosts: HostExchange
    place: Placement
    shares: HostShares | None
    mean: Float

    @classmethod
    def build(
        cls, comm: Communicator, hosts: HostExchange, place: Placement, shares: HostShares | None
    ) -> "HostChange":
        """Collective."""
        if shares is None:
            return cls(hosts, place, None, np.empty((len(place.base), 0)))
        rows = comm.together(lambda: np.vstack([place.base[:, shares.row] * shares.area, shares.area]).T)
        given = shares.there(comm, rows)
        mean = shares.back(comm, comm.together(lambda: _means(given, shares, hosts.own.size)))
        return cls(hosts, place, shares, np.ascontiguousarray(mean.T))

    def __call__(self, comm: Communicator, state: Float, first: Float) -> tuple[Float, Float]:
        """Totals (K, w) of the known coarse cells from states (K, n) of this rank's host cells, this and the first
        year's; and cut (K, m), m2: what was asked for of this rank's coarse cells less what was made. Collective.

        Coarse cells without a state of their own keep the base map.
        """  # fmt: skip
        reaching = self.hosts.to_tiles(comm, comm.together(lambda: state - first))
        change, missed = comm.together(lambda: self._on_coarse(reaching))
        known = self.place.brought(comm, change)
        return comm.together(lambda: self._totals(known, missed))

    def _on_coarse(self, reaching: Float) -> tuple[Float, Float]:
        """Change (K, m) of the coarse cells as shares of land, and what coarse host cells could not make of theirs."""
        land, shares = self.place.land, self.shares
        area = np.maximum(land.row_sum(), np.finfo(float).tiny)
        change = land.apply(reaching) / area
        if shares is None:
            return change, np.zeros_like(change)
        each = reaching[:, shares.source]
        short = np.zeros_like(each)
        short[:, shares.mine] = target(self.mean, each[:, shares.mine])[1]
        each[:, shares.mine] = share_out(self.place.base[:, shares.row], self.mean, each[:, shares.mine])
        own = shares.all_overlaps.apply(each) / area
        return np.where(shares.rows, own, change), shares.all_overlaps.apply(short) / area

    def _totals(self, change: Float, missed: Float) -> tuple[Float, Float]:
        place, m = self.place, self.place.cells.size
        totals, cut = target(place.base, change)
        counts = np.where(place.delivered & (place.filled == OWN), place.own_land, 0.0)
        return np.where(place.fine_land > 0, totals, 0.0), (cut[:, :m] + missed) * counts


def _means(given: Float, shares: HostShares, hosts: int) -> Float:
    """Of rows (g, K + 1) of areas, classes first and the whole last: the mean of the host cell of each, (g, K)."""
    sums = np.stack([np.bincount(shares.host, weights=part, minlength=hosts) for part in given.T])
    return np.ascontiguousarray((sums[:-1] / np.where(sums[-1] > 0, sums[-1], 1.0))[:, shares.host].T)
