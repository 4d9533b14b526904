"""The communicator of one component, and the only place that imports mpi4py."""

import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import mpi4py
import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import CouplerError, MPIError, Status, error_of

mpi4py.rc.errors = "default"

from mpi4py import MPI  # noqa: E402

T = TypeVar("T")


class Communicator:
    """A private duplicate of the host's communicator with the few operations the plugin needs."""

    def __init__(self, comm: "MPI.Comm") -> None:
        if not MPI.Is_initialized() or MPI.Is_finalized():
            raise MPIError("MPI is not running: call the plugin between MPI_Init and MPI_Finalize")
        if comm == MPI.COMM_NULL:
            raise MPIError("got MPI_COMM_NULL: call the plugin only from ranks that are in its communicator")
        self._comm = comm.Dup()
        self._comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.rank: int = self._comm.Get_rank()
        self.size: int = self._comm.Get_size()

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

    def gather_concatenated(self, local: NDArray[Any]) -> NDArray[Any]:
        """The ranks' arrays one after the other along the first axis, on every rank; other axes must agree."""
        local = np.ascontiguousarray(local)
        counts = np.array(self._comm.allgather(local.shape[0]))
        row = int(np.prod(local.shape[1:], dtype=np.int64))
        out = np.empty((int(counts.sum()), *local.shape[1:]), dtype=local.dtype)
        sizes = counts * row * local.itemsize
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self._comm.Allgatherv(
            [local.view(np.uint8).reshape(-1) if local.size else np.empty(0, np.uint8), MPI.BYTE],
            [out.view(np.uint8).reshape(-1) if out.size else np.empty(0, np.uint8), (sizes, starts), MPI.BYTE],
        )
        return out

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


def self_handle() -> int:
    """The Fortran handle of MPI_COMM_SELF, for a library that is to run on this rank alone."""
    if not MPI.Is_initialized() or MPI.Is_finalized():
        raise MPIError("MPI is not running: call the plugin between MPI_Init and MPI_Finalize")
    return int(MPI.COMM_SELF.py2f())


def library() -> str:
    """First line of what the MPI library says of itself."""
    return str(MPI.Get_library_version()).strip("\0 \n").splitlines()[0]
