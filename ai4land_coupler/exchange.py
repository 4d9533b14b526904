"""What crosses ranks: fixed routes for rows, host cells brought to the tiles they touch, sums that no deal changes."""

import hashlib
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.comm import Communicator
from ai4land_coupler.errors import GridError
from ai4land_coupler.grids import HostGrid

Index = NDArray[np.int64]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Route:
    """A fixed way for rows from the ranks that hold them to those that want them.

    picks (s,): position of each row this rank sends, destination after destination; counts (size,): how many go to
    each rank; order (w,): where in what arrives, rank after rank, each wanted row stands.
    """

    picks: Index
    counts: Index
    order: Index

    @classmethod
    def push(cls, comm: Communicator, picks: Index, destination: Index, key: Index) -> "Route":
        """The holder knows who wants what: row picks[i] goes to rank destination[i], where rows are in order of key.

        Rows with one key keep the order of their ranks. Collective.
        """
        sending = np.argsort(destination, kind="stable")
        counts = np.bincount(destination, minlength=comm.size)
        arrived, _ = comm.alltoall(key[sending], counts)
        return cls(picks[sending], counts, np.argsort(arrived, kind="stable"))

    @classmethod
    def pull(cls, comm: Communicator, wanted: Index, owner: Index, held: Index) -> "Route":
        """The one who wants knows who holds: ids `wanted` (w,) of rank owner[i], which lists its rows' ids in `held`.

        Rows come in the order of `wanted`. Collective.
        """
        asking = np.argsort(owner, kind="stable")
        asked, counts = comm.alltoall(wanted[asking], np.bincount(owner, minlength=comm.size))
        sorter = np.argsort(held, kind="stable")
        order = np.empty_like(asking)
        order[asking] = np.arange(asking.size)
        return cls(sorter[np.searchsorted(held, asked, sorter=sorter)], counts, order)

    def __call__(self, comm: Communicator, rows: NDArray[T]) -> NDArray[T]:
        """Rows (n, ...) of this rank to the rows (w, ...) it wants. Collective."""
        return comm.alltoall(rows, self.counts, self.picks)[0][self.order]


@dataclass(frozen=True, eq=False)
class HostExchange:
    """Brings this rank's host cells, and values on them, to the ranks whose tiles they touch.

    own: this rank's cells, as the host gave them; reaching: the cells of all ranks that may touch a tile of this rank,
    ascending in id, with the rank (owner) and position there (at) each came from; fingerprint: SHA-256 of the cells of
    all ranks, the same for every deal of them.
    """

    own: HostGrid
    reaching: HostGrid
    owner: Index
    at: Index
    fingerprint: str
    route: Route

    @classmethod
    def build(cls, comm: Communicator, own: HostGrid, cell: Index, destination: Index) -> "HostExchange":
        """Cells own[cell[i]] go to rank destination[i], each pair once; raises GridError where an id repeats."""
        _refuse_repeated(comm, own.cell_id)
        nvertex = int(comm.max(own.nvertex))
        corners = np.stack([_padded(own.vertex_lon, nvertex), _padded(own.vertex_lat, nvertex)], axis=1)
        route = Route.push(comm, cell, destination, own.cell_id[cell])
        integers = np.stack([own.cell_id, np.full(own.size, comm.rank), np.arange(own.size)], axis=1)
        ids, owner, at = route(comm, integers).T
        corner, land = route(comm, corners), route(comm, own.land_fraction)
        reaching = HostGrid(ids, corner[:, 0], corner[:, 1], land)
        return cls(own, reaching, owner, at, _fingerprint(comm, own, corners), route)

    def to_tiles(self, comm: Communicator, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values (K, n) of this rank's cells to (K, h) of the cells that may touch its tiles. Collective."""
        return np.ascontiguousarray(self.route(comm, values.T).T)

    def gather(self, comm: Communicator, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values (K, n) of this rank's cells to (K, n_host) of all, in order of id, on rank 0; (K, 0) elsewhere."""
        return np.ascontiguousarray(comm.gather(values.T)[np.argsort(comm.gather(self.own.cell_id))].T)

    def scatter(self, comm: Communicator, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The reverse of `gather`: (K, n_host) of rank 0 to (K, n) of this rank's cells. Collective."""
        rank_of = np.argsort(np.argsort(comm.gather(self.own.cell_id)))
        return np.ascontiguousarray(comm.scatter(values.T[rank_of], self.own.size).T)


@dataclass(frozen=True, eq=False)
class HostSums:
    """Adds up, at the owner of each host cell, what the tiles of all ranks hold for it, in order of tile.

    route brings the tiles' rows to the owners; cells: the owner's cells that get any; starts: where the rows of each
    begin.
    """

    route: Route
    cells: Index
    starts: Index
    size: int

    @classmethod
    def build(cls, comm: Communicator, hosts: HostExchange, tile: Index, host: Index) -> "HostSums":
        """For rows of (tile, reaching host cell), each pair once, in the order they will be given. Collective."""
        turn = Route.push(comm, np.arange(tile.size), hosts.owner[host], tile)
        at = turn(comm, hosts.at[host])
        by_cell = np.argsort(at, kind="stable")
        cells, starts = np.unique(at[by_cell], return_index=True)
        return cls(Route(turn.picks, turn.counts, turn.order[by_cell]), cells, starts, hosts.own.size)

    def __call__(self, comm: Communicator, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows (p, K) of this rank's pairs to sums (K, n) of its own cells, 0 where no tile has a share. Collective."""
        arrived = self.route(comm, rows)
        out = np.zeros((self.size, *rows.shape[1:]))
        if self.starts.size:
            out[self.cells] = np.add.reduceat(arrived, self.starts, axis=0)
        return np.ascontiguousarray(out.T)


_WHOLE, _PART = 12, 30


def sum_areas(comm: Communicator, *areas: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Sums (q,) of each array of areas (q, n) in m2, over n and all ranks, the same bits for any deal. Collective.

    Each area becomes a whole number of 2^-42 m2, in two words of which neither overflows for any areas on the Earth
    (5.1e14 m2 are 2^61 units of the upper word); integers add in any order.
    """
    words = comm.sum(np.concatenate([_words(part) for part in areas], axis=1))
    exact = [(int(high) << _PART) + int(low) for high, low in words.T]
    sums = np.array([value / (1 << (_WHOLE + _PART)) for value in exact], dtype=np.float64)
    return np.split(sums, np.cumsum([len(part) for part in areas])[:-1])


def _words(areas: NDArray[np.float64]) -> Index:
    """Upper and lower word of the sum of each row, (2, q)."""
    words = np.empty((2, len(areas)), np.int64)
    for row, area in enumerate(areas):
        upper = np.rint(units := area * 2.0**_WHOLE)
        units -= upper
        units *= 2.0**_PART
        words[:, row] = [word.astype(np.int64).sum() for word in (upper, np.rint(units))]
    return words


def hash_all(comm: Communicator, digests: NDArray[np.uint8]) -> str:
    """SHA-256 over the set of digests (n, 32) of all ranks, in whatever order they are dealt. Collective.

    The sets are told apart by the sums, modulo 2^64, of four words (Clarke et al. 2003, MSet-Add-Hash).
    """
    words = np.ascontiguousarray(digests).view(np.uint64).reshape(-1, 4)
    return hashlib.sha256(comm.sum(words.sum(axis=0, dtype=np.uint64)).tobytes()).hexdigest()


def _fingerprint(comm: Communicator, own: HostGrid, corners: NDArray[np.float64]) -> str:
    parts = own.cell_id[:, None].view(np.float64), corners[:, 0], corners[:, 1], own.land_fraction[:, None]
    digests = b"".join(hashlib.sha256(row).digest() for row in np.concatenate(parts, axis=1))
    return hash_all(comm, np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32))


def _refuse_repeated(comm: Communicator, ids: Index) -> None:
    """Every id goes to one rank that sees all of its kind."""
    home = ids % comm.size
    order = np.argsort(home, kind="stable")
    met, count = np.unique(comm.alltoall(ids[order], np.bincount(home, minlength=comm.size))[0], return_counts=True)
    repeated = met[count > 1]
    first = comm.min(int(repeated[0]) if repeated.size else None)
    if first is not None:
        total = int(comm.sum(np.array([repeated.size]))[0])
        raise GridError(
            f"cell id {first} is given more than once ({total} such ids); every host cell needs an id of its own, "
            "over all ranks"
        )


def _padded(corners: NDArray[np.float64], nvertex: int) -> NDArray[np.float64]:
    if corners.shape[0] == 0:
        return np.empty((0, nvertex))
    return np.pad(corners, ((0, 0), (0, nvertex - corners.shape[1])), mode="edge")
