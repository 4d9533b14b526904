"""The communicator of one component, and the only place that imports mpi4py."""

import contextlib
import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import mpi4py
import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import CouplerError, MPIError, Status, error_of
from ai4land_coupler.interrupts import Interrupts

mpi4py.rc.errors = "default"

from mpi4py import MPI  # noqa: E402

T = TypeVar("T")
N = TypeVar("N", np.int64, np.uint64)

LONGEST = 1 << 14
"""Bytes of the text of an error that cross ranks."""

KNOWN = "_known_to_all_ranks"
"""Attribute of an exception that no rank has to be told of."""


class Communicator:
    """A private duplicate of the host's communicator with the few operations the plugin needs.

    Every collective begins with an agreement that all ranks have come to it. A rank that fails between two of them goes
    to the next agreement with its error instead, so that none waits for it: see `whole`. What a collective needs on
    this rank is allocated before its last agreement.

    received: bytes of arrays that have come to this rank so far.
    """

    def __init__(self, comm: "MPI.Comm") -> None:
        if not MPI.Is_initialized() or MPI.Is_finalized():
            raise MPIError("MPI is not running: call the plugin between MPI_Init and MPI_Finalize")
        if comm == MPI.COMM_NULL:
            raise MPIError("got MPI_COMM_NULL: call the plugin only from ranks that are in its communicator")
        self._mine, self._first = np.zeros(1, np.int64), np.zeros(1, np.int64)
        self._text = np.zeros(LONGEST, np.uint8)
        self._failed: CouplerError | None = None
        self._inside = False
        self.received = 0
        self._comm = comm.Dup()
        self._comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.rank: int = self._comm.Get_rank()
        self.size: int = self._comm.Get_size()
        self._interrupts = Interrupts()

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

    @contextlib.contextmanager
    def hook(self) -> Iterator[None]:
        """All of a collective hook, whose parts are `whole`: a last net for what fails between them. Collective.

        Python signal handlers of the host run at `let_in`, at agreements and at the end of the hook: one that raised
        within MPI, or between two parts, would leave the other ranks waiting. With one rank they run at any time.
        """
        if self._inside:
            yield
            return
        self._inside = True
        try:
            with self._interrupts.held_back(self.size > 1), self._part():
                yield
        finally:
            self._inside, self._failed = False, None

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """A part of a hook that ends well on every rank, or with the same error on every rank. Collective.

        Whatever a rank raises in it, between collectives or after the last, the others hear at their next collective or
        at the end of the part; the error of the lowest such rank wins. So a part must change nothing that outlives its
        failure: that comes after it. An exit or an interrupt goes on as such on the rank that it came to.
        """
        with self._part() if self._inside else self.hook():
            yield

    @contextlib.contextmanager
    def _part(self) -> Iterator[None]:
        self._failed = None
        try:
            yield
        except BaseException as error:
            self._spread(error)
            raise
        self.agree(None)

    def _spread(self, error: BaseException) -> None:
        """Tell all ranks of an error, unless they know of one by now, and raise what they all raise."""
        if getattr(error, KNOWN, False):
            return
        if self._failed is None:
            with contextlib.suppress(CouplerError):
                self.agree(_described(error))
        setattr(error, KNOWN, True)
        if isinstance(error, Exception) and self._failed is not None:
            raise self._failed from (None if isinstance(error, CouplerError) else error)

    def together(self, local: Callable[[], T]) -> T:
        """Run `local`, which does not communicate, on every rank; see `whole`. Collective."""
        with self.whole():
            return local()

    def apart(self, part: Callable[[], None], failed: Callable[[BaseException], None]) -> None:
        """Run a part, as `whole` does, whose failure the hook outlives: `failed` is told, on all ranks. Collective.

        What failed on the way here is the hook's own failure and is raised, and an exit or an interrupt goes on.
        """
        self.agree(None)
        try:
            with self.whole():
                part()
        except BaseException as error:
            failed(error)
            if not isinstance(error, Exception):
                raise

    def let_in(self) -> None:
        """Run the Python signal handlers of the host that wait for a moment at which they may raise. Local."""
        self._interrupts.deliver()

    def agree(self, failure: tuple[int, str] | None, cause: BaseException | None = None) -> None:
        """Raise on every rank the failure of the lowest rank that has one; collective."""
        interrupt: BaseException | None = None
        if failure is None:
            try:
                self.let_in()
            except BaseException as error:
                failure, interrupt = _described(error), error
        if failure is not None:
            self._write(failure)
        self._failed = None
        self._mine[0] = self.rank if failure else self.size
        self._comm.Allreduce(self._mine, self._first, op=MPI.MIN)
        if self._first[0] < self.size:
            self._comm.Bcast(self._text, root=int(self._first[0]))
            self._failed = self._read(int(self._first[0]))
            raised = interrupt or self._failed
            setattr(raised, KNOWN, True)
            raise raised from cause

    def _write(self, failure: tuple[int, str]) -> None:
        status, text = failure
        self._text[:] = 0
        words = text.encode(errors="replace")[: LONGEST - 1]
        self._text[0] = status
        self._text[1 : 1 + len(words)] = np.frombuffer(words, np.uint8)

    def _read(self, root: int) -> CouplerError:
        where = f" [rank {root} of {self.size}]" if self.size > 1 else ""
        return error_of(int(self._text[0]), self._text[1:].tobytes().rstrip(b"\0").decode(errors="replace") + where)

    def bcast(self, value: Any, root: int = 0) -> Any:
        """A picklable value of rank `root`, on every rank."""
        pickled = np.frombuffer(pickle.dumps(value) if self.rank == root else b"", np.uint8)
        length = np.array([pickled.size])
        self.agree(None)
        self._comm.Bcast(length, root=root)
        arriving = self.together(lambda: pickled if self.rank == root else np.empty(int(length[0]), np.uint8))
        self._comm.Bcast([arriving, MPI.BYTE], root=root)
        return value if self.rank == root else pickle.loads(arriving.tobytes())

    def alltoall(
        self, rows: NDArray[Any], counts: NDArray[np.int64], picks: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Send counts[r] consecutive rows, or rows[picks], to each rank r.

        Returns what came, rank after rank, and how many rows from each.
        """
        arriving = np.empty_like(counts)
        self.agree(None)
        self._comm.Alltoall(counts, arriving)

        def room() -> tuple[NDArray[Any], list[Any], list[Any]]:
            sent = np.ascontiguousarray(rows if picks is None else rows[picks])
            out = np.empty((int(arriving.sum()), *rows.shape[1:]), dtype=rows.dtype)
            return (
                out,
                [_bytes(sent), (counts, _starts(counts)), row],
                [_bytes(out), (arriving, _starts(arriving)), row],
            )

        with _row_type(rows) as row:
            out, ours, theirs = self.together(room)
            self._comm.Alltoallv(ours, theirs)
        self._count(out)
        return out, arriving

    def gather(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The ranks' rows one after the other on rank 0, no row elsewhere; all axes but the first must agree."""
        rows = np.ascontiguousarray(rows)
        counts = self._counted(rows.shape[0])

        def room() -> tuple[NDArray[Any], list[Any], list[Any] | None]:
            out = np.empty((int(counts.sum()), *rows.shape[1:]), dtype=rows.dtype)
            into = [_bytes(out), (counts, _starts(counts)), row] if self.rank == 0 else None
            return out, [_bytes(rows), rows.shape[0], row], into

        with _row_type(rows) as row:
            out, ours, into = self.together(room)
            self._comm.Gatherv(ours, into)
        self._count(out)
        return out

    def scatter(self, rows: NDArray[Any], n: int) -> NDArray[Any]:
        """The reverse of `gather`: this rank's next n rows of those that rank 0 holds; shape and dtype from rank 0."""
        shape, dtype = self.bcast((rows.shape[1:], rows.dtype))
        out = np.empty((n, *shape), dtype=dtype)
        counts = self._counted(n)

        def given() -> tuple[list[Any] | None, list[Any]]:
            ours = [_bytes(np.ascontiguousarray(rows)), (counts, _starts(counts)), row] if self.rank == 0 else None
            return ours, [_bytes(out), n, row]

        with _row_type(out) as row:
            self._comm.Scatterv(*self.together(given))
        self._count(out)
        return out

    def _counted(self, n: int) -> NDArray[np.int64]:
        """The n of every rank (size,) on rank 0, no row elsewhere."""
        mine, counts = np.array([n]), np.zeros(self.size if self.rank == 0 else 0, np.int64)
        self.agree(None)
        self._comm.Gather(mine, counts if self.rank == 0 else None)
        return counts

    def any(self, flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of the flags (n,) are set on at least one rank; a bit each crosses the network."""
        return np.unpackbits(self._reduced(np.packbits(flags), MPI.BOR), count=flags.size).astype(bool)

    def sum(self, integers: NDArray[N]) -> NDArray[N]:
        """Sums of int64 or uint64 over all ranks, wrapping as integers do, on every rank."""
        return self._reduced(integers, MPI.SUM)

    def min(self, value: int | None) -> int | None:
        """The smallest value of the ranks that have one, on every rank; None where none has."""
        least = np.iinfo(np.int64).max
        found = int(self._reduced(np.array([least if value is None else value], dtype=np.int64), MPI.MIN)[0])
        return None if found == least else found

    def max(self, value: float) -> float:
        """The largest value of all ranks, on every rank."""
        return float(self._reduced(np.array([value], dtype=np.float64), MPI.MAX)[0])

    def _reduced(self, values: NDArray[Any], op: "MPI.Op") -> NDArray[Any]:
        values = np.ascontiguousarray(values)
        out = np.empty_like(values)
        self.agree(None)
        self._comm.Allreduce(values, out, op=op)
        self._count(out)
        return out

    def send(self, array: NDArray[Any], dest: int, tag: int) -> None:
        """Send a contiguous array; no agreement comes before, so nothing may fail between send and its recv."""
        self._comm.Send(array, dest=dest, tag=tag)

    def recv(self, buffer: NDArray[Any], source: int, tag: int) -> NDArray[Any]:
        """Receive into a contiguous array of the sender's shape and dtype, and return it."""
        self._comm.Recv(buffer, source=source, tag=tag)
        return buffer

    def node_rank(self) -> int:
        """How many ranks before this one run on its node, which is what shares memory. Collective."""
        self.agree(None)
        node = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        try:
            return int(node.Get_rank())
        finally:
            node.Free()

    def barrier(self) -> None:
        """Wait for every rank."""
        self.agree(None)

    def _count(self, arrived: NDArray[Any]) -> None:
        self.received += arrived.nbytes


def _described(error: BaseException) -> tuple[int, str]:
    """Status and text of an error for the other ranks; of one that leaves no memory for its text, that."""
    try:
        if isinstance(error, CouplerError):
            return int(error.status), str(error)
        if isinstance(error, MemoryError):
            return int(Status.INTERNAL), f"out of memory: {error}"
        trace = f"\n{traceback.format_exc()}" if isinstance(error, Exception) else ""
        return int(Status.INTERNAL), f"{type(error).__name__}: {error}{trace}"
    except MemoryError:
        return int(Status.INTERNAL), "out of memory"


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
