"""What a host did, kept in a file: every call with what was put and what came of it. `ai4land replay` runs it again.

Nothing here may change what the host gets: a record that cannot be written is one warning, and no record.
"""

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler import ncfile, provenance
from ai4land_coupler.answer import Answer
from ai4land_coupler.comm import Communicator
from ai4land_coupler.config import Config
from ai4land_coupler.device import choose_precision
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import Status
from ai4land_coupler.grids import HostGrid
from ai4land_coupler.recordfile import GRID, Call, Put, RecordedGrid, RecordWriter

__all__ = ["Answer", "Ask", "Recorder", "contents_hash"]

log = logging.getLogger(__package__)

PENDING = 1000
"""Failed local calls of a rank that are kept from one collective call to the next."""

P = ParamSpec("P")
Ask = Callable[[], Answer | None]
"""Finds out what the host is served now; collective."""


def harmless(
    method: Callable[Concatenate["Recorder", Communicator, P], None],
) -> Callable[Concatenate["Recorder", Communicator, P], None]:
    """Turn whatever goes wrong in a collective method, on any rank, into one warning and the end of the record.

    An exit or an interrupt of this rank goes on.
    """

    @functools.wraps(method)
    def guarded(self: "Recorder", comm: Communicator, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.recording:
            comm.apart(lambda: method(self, comm, *args, **kwargs), lambda error: self.stop(comm, error))

    return guarded


class Recorder:
    """Takes down the calls of a host; every method is collective but `local`, and none raises.

    legend: the names `put` takes.
    """

    def __init__(self, path: Path, legend: tuple[str, ...]) -> None:
        self.path = path
        self.recording = True
        self._legend = legend
        self._file: RecordWriter | None = None
        self._cells: int | None = None
        self._order: NDArray[np.int64] = np.empty(0, np.int64)
        self._pending: list[str] = []

    @classmethod
    def open(
        cls, comm: Communicator, path: Path, config: Config, legend: tuple[str, ...],
        made_by: Mapping[str, str] | None = None,
    ) -> "Recorder":  # fmt: skip
        """Begin a file on rank 0; an older one of that name becomes `path`.1.

        made_by: what `provenance.collect` says, found out where it is left out.
        """
        recorder = cls(Path(path), tuple(legend))
        recorder._begin(comm, config, made_by)
        return recorder

    @harmless
    def _begin(self, comm: Communicator, config: Config, made_by: Mapping[str, str] | None) -> None:
        def begin() -> None:
            if comm.rank == 0:
                known = _provenance(config) if made_by is None else made_by
                self._file = RecordWriter(self.path, comm.size, self._legend, config.text(), known)

        comm.together(begin)

    @harmless
    def grid(self, comm: Communicator, own: HostGrid | None, status: int, message: str, answer: Ask) -> None:
        """A set_grid, with the cells of all ranks; none where a rank has none that could be cells (`own` None)."""
        if comm.min(int(own is not None)) == 0 or own is None:
            self._append(comm, Call("set_grid", status=int(status), message=message))
            return
        nvertex = int(comm.max(own.nvertex))
        lon, lat, where = _rows(own, nvertex, comm.rank)
        gathered = [comm.gather(part) for part in (own.cell_id, lon, lat, own.land_fraction, where)]
        order = np.argsort(gathered[0], kind="stable")
        *cells, where = (part[order] for part in gathered)
        rank, position = np.ascontiguousarray(where.T)
        if int(status) != Status.OK:
            arrays = dict(zip(GRID, (*cells, rank, position), strict=True))
            self._append(comm, Call("set_grid", status=int(status), message=message), grid=arrays)
            return
        self._cells, self._order = own.size, order
        if self._file is not None:
            self._file.grid(RecordedGrid(HostGrid(*cells), rank, position))
        self._append(comm, Call("set_grid"))

    @harmless
    def step(
        self, comm: Communicator, year: int, put: Mapping[str, NDArray[np.float64]], status: int, message: str,
        answer: Ask,
    ) -> None:  # fmt: skip
        """A step, failed ones included; put: the raw values (n,) of the classes that this rank has put."""
        call = Call("step", int(year), status=int(status), message=message, answer=answer())
        self._append(comm, call, None if self._cells is None else self._gathered(comm, put, self._cells))

    @harmless
    def restart_read(self, comm: Communicator, path: Path, status: int, message: str, answer: Ask) -> None:
        """A read_restart, with the file it read."""
        call = Call("read_restart", arguments=str(path), status=int(status), message=message, answer=answer())
        restart = _bytes_of(Path(path)) if comm.rank == 0 else None
        self._append(comm, call, restart=restart)

    @harmless
    def restart_written(self, comm: Communicator, path: Path, status: int, message: str) -> None:
        """A write_restart, with a hash of what the file then held."""
        good = comm.rank == 0 and int(status) <= 0
        contents = contents_hash(Path(path)) if good else ""
        call = Call("write_restart", arguments=str(path), status=int(status), message=message, contents=contents)
        self._append(comm, call)

    @harmless
    def finalized(self, comm: Communicator, status: int, message: str, answer: Ask) -> None:
        """A finalize, which with `lag: 1` serves the year in the making."""
        self._append(comm, Call("finalize", status=int(status), message=message, answer=answer()))

    def local(self, hook: str, arguments: str, status: int, message: str) -> None:
        """A put, get or size that failed on this rank; written down at the next collective call. Local."""
        if self.recording and len(self._pending) < PENDING:
            self._pending.append(json.dumps([hook, arguments, int(status), message]))

    @harmless
    def missed(self, comm: Communicator, error: Exception) -> None:
        """A call that failed on this rank before it came here: it ends the record on all ranks."""
        raise error

    @harmless
    def close(self, comm: Communicator) -> None:
        """End the file."""
        self._write_pending(comm)
        if self._file is not None:
            self._file.close(whole=True)
        self.recording, self._file = False, None

    def stop(self, comm: Communicator, error: BaseException) -> None:
        """Record no more, and say why once."""
        self.recording = False
        with suppress(MemoryError):
            self._say(comm, error)
        file, self._file = self._file, None
        with suppress(Exception):
            if file is not None:
                file.close(whole=False)

    def _say(self, comm: Communicator, error: BaseException) -> None:
        if comm.rank == 0:
            log.warning("record %s: recording stops, the run goes on: %s; free the disk or choose another path",
                        self.path, (str(error).splitlines() or [type(error).__name__])[0])  # fmt: skip

    def _append(
        self, comm: Communicator, call: Call, put: Put | None = None, restart: bytes | None = None,
        grid: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:  # fmt: skip
        self._write_pending(comm)
        if self._file is not None:
            self._file.append(call, put, restart, grid)

    def _write_pending(self, comm: Communicator) -> None:
        """What failed locally since the last collective call, rank after rank."""
        lines = "".join(f"{comm.rank} {line}\n" for line in self._pending).encode()
        self._pending = []
        arrived = comm.gather(np.frombuffer(lines, dtype=np.uint8)).tobytes().decode()

        for line in arrived.splitlines() if self._file else ():
            rank, _, words = line.partition(" ")
            hook, arguments, status, message = json.loads(words)
            assert self._file is not None
            self._file.append(Call(hook, 0, arguments, int(rank), status, message))

    def _gathered(self, comm: Communicator, put: Mapping[str, NDArray[np.float64]], n: int) -> Put | None:
        """On rank 0 what all ranks have put on their n cells."""

        rows = np.full((n, len(self._legend)), np.nan)
        for k, name in enumerate(self._legend):
            if name in put:
                rows[:, k] = put[name]
        there = np.array([[name in put for name in self._legend]], dtype=np.uint8)
        values, flags = comm.gather(rows), comm.gather(there)
        return Put(np.ascontiguousarray(values[self._order].T), flags.T.copy()) if comm.rank == 0 else None


def contents_hash(path: Path) -> str:
    """SHA-256 of the variables of a netCDF file, in order of name; the attributes, which say who made it, left out."""
    hashed = hashlib.sha256()
    for name, values in sorted(ncfile.read(path)[0].items()):
        hashed.update(f"{name} {values.dtype.str} {values.shape} ".encode())
        hashed.update(np.ascontiguousarray(values).tobytes())
    return hashed.hexdigest()


def _rows(own: HostGrid, nvertex: int, rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Corners of this rank's cells padded to (n, nvertex), and (n, 2) rank and position of each."""
    if own.size == 0:
        return np.empty((0, nvertex)), np.empty((0, nvertex)), np.empty((0, 2), np.int64)
    wider = ((0, 0), (0, nvertex - own.nvertex))
    lon, lat = (np.pad(corners, wider, mode="edge") for corners in (own.vertex_lon, own.vertex_lat))
    return lon, lat, np.stack([np.full(own.size, rank), np.arange(own.size)], axis=1)


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _provenance(config: Config) -> dict[str, str]:
    return provenance.collect(Emulator.load(config.emulator), config, choose_precision(config.precision))
