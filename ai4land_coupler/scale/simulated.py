"""Many ranks in one process, a thread each, on a communicator made of shared memory: for plans, without MPI."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.comm import Communicator

T = TypeVar("T")

STACK = 1 << 22
"""Bytes of a thread's stack."""


class _Table:
    """Where ranks lay down what the others are to take up."""

    def __init__(self, size: int) -> None:
        self.here: list[Any] = [None] * size
        self.all_here = threading.Barrier(size)
        self.turn = threading.Lock()


class Simulated(Communicator):
    """One rank of many in this process. The collectives of Communicator, with the same results on every rank.

    Ranks take turns: between collectives one runs at a time. A rank that fails ends the others.
    """

    def __init__(self, table: _Table, rank: int) -> None:
        self.rank, self.size, self.received, self._table = rank, len(table.here), 0, table

    def _met(self, mine: Any, taken: Callable[[list[Any]], T]) -> T:
        """What is taken from the values of all ranks."""
        table = self._table
        table.here[self.rank] = mine
        self._meet()
        out = taken(table.here)
        self._meet()
        return out

    def _meet(self) -> None:
        self._table.turn.release()
        try:
            self._table.all_here.wait()
        finally:
            self._table.turn.acquire()

    @contextmanager
    def hook(self) -> Iterator[None]:
        """See Communicator; errors end all ranks."""
        yield

    @contextmanager
    def whole(self) -> Iterator[None]:
        """See Communicator; errors end all ranks."""
        yield

    def agree(self, failure: tuple[int, str] | None, cause: BaseException | None = None) -> None:
        """Nothing has to be agreed: a rank that fails ends the others."""

    def bcast(self, value: Any, root: int = 0) -> Any:
        """See Communicator."""
        return self._met(value, lambda all_: all_[root])

    def alltoall(
        self, rows: NDArray[Any], counts: NDArray[np.int64], picks: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """See Communicator."""
        sent = rows if picks is None else rows[picks]

        def taken(all_: list[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
            parts = [of[ends[self.rank] : ends[self.rank + 1]] for of, ends in all_]
            return np.concatenate(parts), np.array([len(part) for part in parts], np.int64)

        out, arrived = self._met((sent, np.concatenate([[0], np.cumsum(counts)])), taken)
        self._count(out)
        return out, arrived

    def gather(self, rows: NDArray[Any]) -> NDArray[Any]:
        """See Communicator."""
        out = self._met(rows, lambda all_: np.concatenate(all_) if self.rank == 0 else rows[:0])
        self._count(out)
        return out

    def any(self, flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """See Communicator."""
        self._count(np.packbits(flags))
        return self._met(flags, lambda all_: np.logical_or.reduce(all_))

    def sum(self, integers: NDArray[Any]) -> NDArray[Any]:
        """See Communicator."""
        self._count(integers)
        return self._met(integers, lambda all_: np.sum(all_, axis=0, dtype=integers.dtype))

    def min(self, value: int | None) -> int | None:
        """See Communicator."""
        return self._met(value, lambda all_: min((one for one in all_ if one is not None), default=None))

    def max(self, value: float) -> float:
        """See Communicator."""
        return self._met(value, max)


def on_ranks(size: int, program: Callable[[Simulated], T]) -> list[T]:
    """What a program returns on each of `size` ranks; it raises what the first rank that failed raised."""
    table, results, errors = _Table(size), [None] * size, list[BaseException]()

    def run(rank: int) -> None:
        with table.turn:
            try:
                results[rank] = program(Simulated(table, rank))  # type: ignore[call-overload]
            except threading.BrokenBarrierError:
                pass
            except BaseException as error:
                errors.append(error)
                table.all_here.abort()

    before = threading.stack_size(STACK)
    try:
        threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
        for thread in threads:
            thread.start()
    finally:
        threading.stack_size(before)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results  # type: ignore[return-value]
