"""The process that writes the output: python -m ai4land_coupler.writer_process HOST

HOST is the process id of the host. Parcels come on the socket that stands for stdin; what became of them goes to the
page that stands for stdout.
"""

import os
import queue
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ai4land_coupler.outfields import OpenYear, Writer, explained
from ai4land_coupler.output import write_report
from ai4land_coupler.parcels import Page, messages
from ai4land_coupler.tiles import Tile

STDIN, STDOUT = 0, 1
PATIENCE = 2.0
"""Seconds between looks at whether the host is still there, beside the end of its socket."""


class Desk:
    """Writes what the messages say, one year at a time."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._year: OpenYear | None = None
        self._path = Path()
        self._bad = False
        self._failed: set[str] = set()

    def take(self, message: Any) -> None:
        """Do what a message says; what fails is put on the page, and the rest of its year is left out."""
        kind, *rest = message
        try:
            if kind == "open":
                self.discard()
                self._open(*rest)
            elif kind == "report":
                self._path = rest[0] / "report.json"
                write_report(rest[0], self._true(rest[1]))
            elif kind == "discard":
                self.discard()
            elif not self._bad and self._year is not None:
                getattr(self._year, kind)(*rest)
                if kind == "finish":
                    self._failed.discard(str(self._path))
        except Exception as error:
            self._bad = True
            self._failed.add(str(self._path))
            self._page.fail(explained(self._path, error))
        if kind == "finish":
            self.discard()
            self._page["done"] += 1

    def discard(self) -> None:
        """Remove a year that was not finished."""
        if self._year is not None:
            with suppress(Exception):
                self._year.discard()
        self._year = None

    def _open(self, writer: Writer, year: int, tiles: Sequence[Tile], held: str) -> None:
        self._bad, self._path = False, writer.path(year)
        self._year = writer.open(year, tiles, held)

    def _true(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """The report without files that could not be written; a store is there whatever became of its last year."""
        files = [name for name in report["files"] if name not in self._failed or Path(name).is_dir()]
        return {**report, "files": files}


def receive(ours: socket.socket, parcels: "queue.SimpleQueue[int | None]", host: int) -> None:
    """Take parcels off the socket as they come; the end of the host is the end of the process, at once."""
    ours.settimeout(PATIENCE)
    while True:
        try:
            word, files, _, _ = socket.recv_fds(ours, 16, 1)
        except TimeoutError:
            if os.getppid() == host:
                continue
            os._exit(1)
        except OSError:
            os._exit(1)
        if word == b"":
            os._exit(1)
        parcels.put(files[0] if files else None)
        if word == b"end":
            return


def main() -> None:
    """Write until told to end."""
    with suppress(AttributeError, OSError):  # not on the host's own cores, where there are others
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    page, ours = Page(STDOUT), socket.socket(fileno=STDIN)
    bell = ours.dup()  # with no time limit of its own: it never waits
    parcels: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    threading.Thread(target=receive, args=(ours, parcels, int(sys.argv[1])), daemon=True).start()
    page["ready"] = 1
    _ring(bell)
    desk = Desk(page)
    while (parcel := parcels.get()) is not None:
        for message in messages(parcel):
            desk.take(message)
            del message
            _ring(bell)
        page["taken"] += os.fstat(parcel).st_size
        os.close(parcel)
        _ring(bell)
    desk.discard()


def _ring(bell: socket.socket) -> None:
    """Have the host look at the page; a host that has not heard earlier rings will look anyway."""
    with suppress(OSError):
        bell.send(b".", socket.MSG_DONTWAIT)


if __name__ == "__main__":
    main()
