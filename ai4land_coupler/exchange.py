"""What crosses ranks: host cells and states gathered in order of cell id, sums over tiles added in order of tile."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.comm import Communicator
from ai4land_coupler.errors import GridError
from ai4land_coupler.grids import HostGrid

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, eq=False)
class HostExchange:
    """Brings this rank's host cells and their values together with those of all ranks.

    own: this rank's cells, as the host gave them; everyone: the cells of all ranks in ascending order of id;
    order (n_host,): where in the gathered array each of those stood; mine (n,): where this rank's cells are in it.
    """

    own: HostGrid
    everyone: HostGrid
    order: NDArray[np.int64]
    mine: NDArray[np.int64]

    @classmethod
    def gather(cls, comm: Communicator, own: HostGrid) -> "HostExchange":
        """Gather the cells of all ranks; raises GridError on every rank where an id repeats. Collective."""
        nvertex = int(comm.max(own.nvertex))
        ids = comm.gather_concatenated(own.cell_id)
        order = np.argsort(ids, kind="stable")
        repeated = np.flatnonzero(np.diff(ids[order]) == 0)
        if repeated.size:
            raise GridError(
                f"cell id {ids[order][repeated[0]]} is given more than once ({repeated.size} such ids); "
                "every host cell needs an id of its own, over all ranks"
            )
        everyone = HostGrid(
            ids[order],
            comm.gather_concatenated(_padded(own.vertex_lon, nvertex))[order],
            comm.gather_concatenated(_padded(own.vertex_lat, nvertex))[order],
            comm.gather_concatenated(own.land_fraction)[order],
        )
        return cls(own, everyone, order, np.searchsorted(everyone.cell_id, own.cell_id))

    def state(self, comm: Communicator, own: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values (K, n) of this rank's cells to (K, n_host) of all cells in order of id. Collective."""
        return np.ascontiguousarray(comm.gather_concatenated(own.T)[self.order].T)

    def columns(self, everyone: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values (K, n_host) of all cells to (K, n) of this rank's, in the order the host gave them."""
        return np.ascontiguousarray(everyone[:, self.mine])


def sum_by_host(
    comm: Communicator,
    own: Sequence[int],
    partial: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]],
    nclass: int,
    nhost: int,
) -> NDArray[np.float64]:
    """Add the tiles' sums over host cells, (nclass, nhost), in order of tile whatever rank ran it. Collective.

    own: the indices of this rank's tiles; partial: for each of them the host cells (m,) it lies under, and sums
    (nclass, m).
    """
    tile = np.repeat(np.asarray(own, dtype=np.int64), [hosts.size for hosts, _ in partial])
    hosts = np.concatenate([np.empty(0, np.int64), *(hosts for hosts, _ in partial)])
    sums = np.concatenate([np.empty((nclass, 0)), *(sums for _, sums in partial)], axis=1)
    order = np.argsort(comm.gather_concatenated(tile), kind="stable")
    hosts, values = comm.gather_concatenated(hosts)[order], comm.gather_concatenated(sums.T)[order]
    return np.stack([np.bincount(hosts, weights=values[:, k], minlength=nhost) for k in range(nclass)])


def gather_tiles(comm: Communicator, own: Sequence[int], values: NDArray[T]) -> NDArray[T]:
    """Values of this rank's tiles, (tiles, ...), to those of the tiles of all ranks, in order of tile. Collective."""
    order = np.argsort(comm.gather_concatenated(np.asarray(own, dtype=np.int64)), kind="stable")
    return comm.gather_concatenated(values)[order]


def sum_tiles(comm: Communicator, own: Sequence[int], partial: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add the tiles' values (tiles of this rank, ...) over the tiles of all ranks, in order of tile. Collective."""
    everyone = gather_tiles(comm, own, partial)
    return np.add.accumulate(everyone)[-1] if len(everyone) else np.zeros(everyone.shape[1:])


def _padded(corners: NDArray[np.float64], nvertex: int) -> NDArray[np.float64]:
    if corners.shape[0] == 0:
        return np.empty((0, nvertex))
    return np.pad(corners, ((0, 0), (0, nvertex - corners.shape[1])), mode="edge")
