"""What a user sees while it runs: log lines on stderr, and a progress bar where that is a terminal."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger("ai4land_coupler")


def show_log(rank: int) -> None:
    """Send the plugin's log to stderr, warnings alone on ranks above 0, unless the host has given it a handler."""
    if log.hasHandlers():
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("ai4land: %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    log.propagate = False


@contextmanager
def progress(title: str, total: int, shown: bool) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each of `total` pieces; draws a bar on stderr where it is a terminal."""
    if not (shown and sys.stderr is not None and sys.stderr.isatty()):
        yield lambda: None
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)
