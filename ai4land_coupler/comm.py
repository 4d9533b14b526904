"""The communicator of one component, and the only place that imports mpi4py."""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import mpi4py
import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import CouplerError, MPIError, Status, error_of

mpi4py.rc.errors = "default"

from mpi4py import MPI  # noqa: E402

T = TypeVar("T")
N = TypeVar("N", np.int64, np.uint64)


class Communicator:
    """A private duplicate of the host's communicator with the few operations the plugin needs.

    received: bytes of arrays that have come to this rank so far.
    """

    def __init__(self, comm: "MPI.Comm") -> None:
        if not MPI.Is_initialized() or MPI.Is_finalized():
            raise MPIError("MPI is not running: call the plugin between MPI_Init and MPI_Finalize")
        if comm == MPI.COMM_NULL:
            raise MPIError("got MPI_COMM_NULL: call the plugin only from ranks that are in its communicator")
        self._comm = comm.Dup()
        self._comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.rank: int = self._comm.Get_rank()
        self.size: int = self._comm.Get_size()
        self.received = 0

    @classmethod
    def of(cls, comm: "MPI.Comm | int") -> "Communicator":
        """A duplicate of an mpi4py communicator or of the one a Fortran integer names."""
        return cls(MPI.Comm.f2py(comm) if isinstance(comm, int) else comm)

    @property
    def fortran_handle(self) -> int:
        """The Fortran handle of the duplicate."""
        return int(self._comm.py2f())

    def free(self) -> None:
        """Give the duplicate back; collective."""
        if self._comm != MPI.COMM_NULL and not MPI.Is_finalized():
            self._comm.Free()

    def together(self, local: Callable[[], T]) -> T:
        """Run `local` on every rank; where any rank fails, every rank raises the same error.

        The error of the lowest failing rank wins; `local` must not communicate. Collective.
        """
        failure: tuple[int, str] | None = None
        try:
            result = local()
        except CouplerError as error:
            failure = (int(error.status), str(error))
        except MemoryError as error:
            failure = (int(Status.INTERNAL), f"out of memory: {error}")
        except Exception as error:  # the other ranks must hear of any failure
            failure = (int(Status.INTERNAL), f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
            self.agree(failure, cause=error)
        except BaseException as error:  # an exit or an interrupt of this rank, which goes on here
            with contextlib.suppress(CouplerError):
                self.agree((int(Status.INTERNAL), f"{type(error).__name__}: {error}"))
            raise
        self.agree(failure)
        return result

    def agree(self, failure: tuple[int, str] | None, cause: BaseException | None = None) -> None:
        """Raise on every rank the failure of the lowest rank that has one; collective."""
        first = self._comm.allreduce(self.rank if failure else self.size, op=MPI.MIN)
        if first == self.size:
            return
        status, message = self._comm.bcast(failure, root=first)
        where = f" [rank {first} of {self.size}]" if self.size > 1 else ""
        raise error_of(status, message + where) from cause

    def bcast(self, value: Any, root: int = 0) -> Any:
        """A picklable value of rank `root`, on every rank."""
        return self._comm.bcast(value, root=root)

    def alltoall(
        self, rows: NDArray[Any], counts: NDArray[np.int64], picks: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Send counts[r] consecutive rows, or rows[picks], to each rank r.

        Returns what came, rank after rank, and how many rows from each. A rank without memory fails on all.
        """
        arriving = np.empty_like(counts)
        self._comm.Alltoall(counts, arriving)

        def room() -> tuple[NDArray[Any], NDArray[Any]]:
            sent = np.ascontiguousarray(rows if picks is None else rows[picks])
            return sent, np.empty((int(arriving.sum()), *sent.shape[1:]), dtype=sent.dtype)

        sent, out = self.together(room)
        with _row_type(sent) as row:
            self._comm.Alltoallv([_bytes(sent), (counts, _starts(counts)), row],
                                 [_bytes(out), (arriving, _starts(arriving)), row])  # fmt: skip
        self._count(out)
        return out, arriving

    def gather(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The ranks' rows one after the other on rank 0, no row elsewhere; all axes but the first must agree."""
        rows = np.ascontiguousarray(rows)
        counts = np.array(self._comm.gather(rows.shape[0]) or [], dtype=np.int64)
        out = np.empty((int(counts.sum()), *rows.shape[1:]), dtype=rows.dtype)
        with _row_type(rows) as row:
            into = [_bytes(out), (counts, _starts(counts)), row] if self.rank == 0 else None
            self._comm.Gatherv([_bytes(rows), rows.shape[0], row], into)
        self._count(out)
        return out

    def scatter(self, rows: NDArray[Any], n: int) -> NDArray[Any]:
        """The reverse of `gather`: this rank's next n rows of those that rank 0 holds; shape and dtype from rank 0."""
        shape, dtype = self._comm.bcast((rows.shape[1:], rows.dtype))
        counts = np.array(self._comm.gather(n) or [], dtype=np.int64)
        out = np.empty((n, *shape), dtype=dtype)
        with _row_type(out) as row:
            given = [_bytes(np.ascontiguousarray(rows)), (counts, _starts(counts)), row] if self.rank == 0 else None
            self._comm.Scatterv(given, [_bytes(out), n, row])
        self._count(out)
        return out

    def any(self, flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of the flags (n,) are set on at least one rank; a bit each crosses the network."""
        bits = np.packbits(flags)
        out = np.empty_like(bits)
        self._comm.Allreduce(bits, out, op=MPI.BOR)
        self._count(out)
        return np.unpackbits(out, count=flags.size).astype(bool)

    def sum(self, integers: NDArray[N]) -> NDArray[N]:
        """Sums of int64 or uint64 over all ranks, wrapping as integers do, on every rank."""
        out = np.empty_like(integers)
        self._comm.Allreduce(np.ascontiguousarray(integers), out, op=MPI.SUM)
        self._count(out)
        return out

    def min(self, value: int | None) -> int | None:
        """The smallest value of the ranks that have one, on every rank; None where none has."""
        least = np.iinfo(np.int64).max
        found = int(self._comm.allreduce(least if value is None else value, op=MPI.MIN))
        return None if found == least else found

    def max(self, value: float) -> float:
        """The largest value of all ranks, on every rank."""
        return float(self._comm.allreduce(value, op=MPI.MAX))

    def send(self, array: NDArray[Any], dest: int, tag: int) -> None:
        """Send a contiguous array."""
        self._comm.Send(np.ascontiguousarray(array), dest=dest, tag=tag)

    def recv(self, buffer: NDArray[Any], source: int, tag: int) -> NDArray[Any]:
        """Receive into a contiguous array of the sender's shape and dtype, and return it."""
        self._comm.Recv(buffer, source=source, tag=tag)
        return buffer

    def barrier(self) -> None:
        """Wait for every rank."""
        self._comm.Barrier()

    def _count(self, arrived: NDArray[Any]) -> None:
        self.received += arrived.nbytes


@contextlib.contextmanager
def _row_type(rows: NDArray[Any]) -> Iterator[MPI.Datatype]:
    """The datatype of one row, so that counts are rows and stay small."""
    row = MPI.BYTE.Create_contiguous(int(np.prod(rows.shape[1:], dtype=np.int64)) * rows.itemsize).Commit()
    try:
        yield row
    finally:
        row.Free()


def _bytes(rows: NDArray[Any]) -> NDArray[np.uint8]:
    return rows.view(np.uint8).reshape(-1) if rows.size else np.empty(0, np.uint8)


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.cumsum(counts) - counts


def self_handle() -> int:
    """The Fortran handle of MPI_COMM_SELF, for a library that is to run on this rank alone."""
    if not MPI.Is_initialized() or MPI.Is_finalized():
        raise MPIError("MPI is not running: call the plugin between MPI_Init and MPI_Finalize")
    return int(MPI.COMM_SELF.py2f())


def library() -> str:
    """First line of what the MPI library says of itself."""
    return str(MPI.Get_library_version()).strip("\0 \n").splitlines()[0]
