"""Output written behind the step, by a process of its own.

A thread would not do: neither netCDF nor the HDF5 of its wheel is thread-safe, netCDF4 gives the GIL away while it is
in them, and a Python host may be in them itself. The process is the environment's Python, started by posix_spawn; it
hears none of the host's signals and ends with the host, however that ends.
"""

from __future__ import annotations

import fcntl
import io
import logging
import os
import select
import signal
import socket
import struct
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import CouplerError, OutputError
from ai4land_coupler.outfields import Canvas, OpenYear, Writer
from ai4land_coupler.parcels import LARGEST, Page, Parcel, memory_file
from ai4land_coupler.regrid import child
from ai4land_coupler.tiles import Tile

log = logging.getLogger(__package__)

ROOM = 512 << 20
"""Bytes that may wait to be written; a step waits for what is beyond."""
LIMIT = 600.0
"""Seconds that the process may take to end once all is written, and a host that does not finalize waits for it."""
FREE = 16
"""File descriptors from here on are duplicates that no stream of a host's has the number of."""


class Behind:
    """Hands years to a process that writes them, of which at most `years` are unfinished at a time. On one rank, local.

    What could not be written is raised once, as OutputError, by whatever of `heed`, `settle`, `open` and `put` comes
    next; the year is then given up.
    """

    def __init__(self, years: int) -> None:
        self._years = years
        self._process: WriterProcess | None = None
        self._impossible = False

    def start(self) -> None:
        """Start the process, if it is not there; where that is impossible years are written at once."""
        if self._impossible or (self._process is not None and not self._process.ended):
            return
        try:
            self._process = WriterProcess()
        except (OSError, CouplerError) as error:
            self._give_up(str(error))

    def open(self, writer: Writer, year: int, tiles: Sequence[Tile], held: str) -> OpenYear:
        """Begin a year once there is room for one."""
        self.heed()
        self.start()
        if self._process is not None:
            self._process.wait_until(lambda page: page["ready"] == 1)
            if self._process.ended:
                self._give_up(self._process.why)
        if self._process is None:
            return writer.open(year, tiles, held)
        self._process.wait_until(lambda page: self._unfinished(page) < self._years)
        return _QueuedYear(self._process, writer, year, tiles, held)

    def report(self, folder: Path, report: Mapping[str, object]) -> bool:
        """Have the report of the run written after its years; False where there is no process to do it."""
        if self._process is None or self._process.ended:
            return False
        parcel = Parcel()
        try:
            parcel.add(("report", folder, report))
            self._process.send(parcel)
        finally:
            parcel.close()
        return True

    def heed(self) -> None:
        """Raise what failed since, without waiting."""
        if self._process is not None:
            self._process.heed()

    def settle(self) -> None:
        """Wait until everything is written, and raise what failed."""
        process = self._process
        if process is not None:
            process.wait_until(lambda page: page["taken"] >= process.sent)

    def close(self) -> None:
        """End the process once everything is written; what fails now is logged."""
        process = self._process
        if process is None:
            return
        try:
            while process.sent > process.page["taken"]:
                with suppress(OutputError):
                    self.settle()
            process.heed()
        except OutputError as error:
            log.error("%s", error)
        finally:
            self._process = None
            process.end()

    def _unfinished(self, page: Page) -> int:
        return (self._process.finished if self._process is not None else 0) - page["done"]

    def _give_up(self, why: str) -> None:
        log.warning("output is written in the step, not behind it: %s", why)
        self._process, self._impossible = None, True


class WriterProcess:
    """The process and what was sent to it.

    page: what it says of itself; sent: bytes of parcels; finished: years sent to their end; ended: it is gone, and
    why, where it went by itself; pid: its process id.
    """

    def __init__(self) -> None:
        files: list[int] = []
        ours: socket.socket | None = None
        heard: io.FileIO | None = None
        try:
            page = self._own(files, memory_file())
            said = self._own(files, memory_file())
            heard = io.FileIO(os.dup(said), "rb")
            self.page = Page(page)
            self.sent = self.finished = 0
            self.ended, self.why = False, ""
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._socket = ours
            with theirs:
                name, own = "ai4land_coupler.writer_process", str(os.getpid())
                ends = (self._own(files, os.dup(theirs.fileno())), page, said)
                self.pid = child.start_module(name, [own], ends)
            self.end = weakref.finalize(self, _end, ours, heard, self.pid, os.getpid())
        except BaseException:
            for opened in (ours, heard):
                if opened is not None:
                    opened.close()
            raise
        finally:
            for file in files:
                os.close(file)

    @staticmethod
    def _own(files: list[int], file: int) -> int:
        """A duplicate, noted in files, with a number above those of standard streams, which a host may have closed."""
        try:
            files.append(fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, FREE))
        finally:
            os.close(file)
        return files[-1]

    def send(self, parcel: Parcel) -> None:
        """Send a parcel once there is room for it."""
        self.wait_until(lambda page: self.sent - page["taken"] + parcel.size <= max(ROOM, parcel.size))
        with suppress(BrokenPipeError, ConnectionResetError):  # then it has ended, which shows below
            self._send(parcel.file)
            self.sent += parcel.size
            return
        self._lost()
        raise OutputError(self.why)

    def _send(self, file: int) -> None:
        if not self.ended:
            files = socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", file)
            self._socket.sendmsg([b"parcel"], [files], socket.MSG_NOSIGNAL)
            return
        raise BrokenPipeError

    def heed(self) -> None:
        """Raise what failed since, without waiting."""
        self.page.hear()
        if not self.ended and self._gone():
            self._lost()

    def wait_until(self, ready: Callable[[Page], bool]) -> None:
        """Wait until the page says so; raises what fails meanwhile."""
        while True:
            self.page.hear()
            if self.ended or ready(self.page):
                return
            if not self._rung():
                self._lost()
                return

    def _rung(self) -> bool:
        """Wait for a sign that the page has changed; False where none will come."""
        try:
            return self._socket.recv(16) != b""
        except ConnectionResetError:
            return False

    def _gone(self) -> bool:
        """Whether the process has ended, by taking all its signs."""
        while select.select([self._socket], [], [], 0)[0]:
            if not self._rung():
                return True
        return False

    def _lost(self) -> None:
        """The process has ended by itself. Raises OutputError unless everything was written."""
        self.page.hear()
        how = self.end()  # nothing where that was known already
        if how:
            self.why = (
                f"the process that writes the output has ended with {how}, and what it had been given to write is not "
                "written; files of earlier years are whole"
            )
        error = OutputError(self.why) if self.sent > self.page["taken"] else None
        self.ended, self.sent = True, self.page["taken"]
        if error is not None:
            raise error


class _QueuedYear:
    """A year on its way to the process."""

    def __init__(self, process: WriterProcess, writer: Writer, year: int, tiles: Sequence[Tile], held: str) -> None:
        self._process = process
        self._parcel: Parcel | None = Parcel()
        self._begun = False
        slim = replace(writer, emulator=Canvas.of(writer.emulator), provenance=dict(writer.provenance))
        self._parcel.add(("open", slim, year, tuple(tiles), held))

    def put(self, tile: Tile, fields: Mapping[str, NDArray[Any]]) -> None:
        """Copy the fields of one tile, and send what has come together."""
        if self._parcel is None:
            self._parcel = Parcel()
        self._parcel.add(("put", tile, dict(fields)))
        if self._parcel.size >= LARGEST:
            self._send()

    def finish(self, coarse: Mapping[str, NDArray[np.float64]]) -> None:
        """Send the rest. The year counts as unfinished until the process has shown it to readers."""
        if self._parcel is None:
            self._parcel = Parcel()
        self._parcel.add(("finish", dict(coarse)))
        self._process.heed()
        self._send()
        self._begun = False
        self._process.finished += 1

    def discard(self) -> None:
        """Have the year forgotten, unless it was finished. Where no word gets through, the next year says it too."""
        with suppress(OSError, MemoryError, CouplerError):
            if self._begun and not self._process.ended:
                self._begun = False
                self._parcel = self._parcel or Parcel()
                self._parcel.close()
                self._parcel = Parcel()
                self._parcel.add(("discard",))
                self._send()
        if self._parcel is not None:
            self._parcel.close()
            self._parcel = None

    def _send(self) -> None:
        assert self._parcel is not None
        self._begun = True
        self._process.send(self._parcel)
        self._parcel.close()
        self._parcel = None


def _end(ours: socket.socket, said: io.FileIO, pid: int, owner: int) -> str:
    """Let the process end once it has written what it was sent; how it did. Not in a fork of the host."""
    with ours, said:
        if os.getpid() != owner:
            return ""
        with suppress(OSError):
            ours.send(b"end", socket.MSG_NOSIGNAL)
        try:
            status = child.wait(pid, LIMIT)
        except TimeoutError:
            status = -signal.SIGKILL
        said.seek(0)
        text = said.read()[-2000:].decode(errors="replace").strip() or "it said nothing"
        return f"{f'signal {-status}' if status < 0 else f'exit status {status}'} ({text})"
