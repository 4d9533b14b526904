"""Seconds per stage of a step."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

STAGES = ("regrid", "features", "unet", "constraint", "exchange", "wait", "output")
"""`wait` is for a year that is refined while the host integrates."""


class Stopwatch:
    """Adds up wall-clock seconds per named stage; stages do not nest."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._running: float | None = time.perf_counter()
        self._before = self._hidden = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block under `name`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - began

    def pause(self) -> None:
        """Stop counting towards the total: the host goes on."""
        if self._running is not None:
            self._before += time.perf_counter() - self._running
            self._running = None

    def resume(self) -> None:
        """Count again: the host waits."""
        if self._running is None:
            self._running = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the block out: it is counted elsewhere."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def add(self, others: Iterable["Stopwatch"], threads: int) -> None:
        """Count the stages of watches that ran side by side on so many threads: each second as its share of one."""
        for other in others:
            for name, value in other.seconds.items():
                self.seconds[name] += value / threads

    def absorb(self, hidden: "Stopwatch") -> None:
        """Take over the stages of another watch, which ran beside the host and are no part of the total."""
        for name, value in hidden.seconds.items():
            self.seconds[name] += value
            self._hidden += value
            hidden.seconds[name] = 0.0

    def finish(self) -> None:
        """Add what no stage counted as `other`, and as `total` the time for which the host waited."""
        self.pause()
        counted = sum(self.seconds[name] for name in STAGES) - self._hidden
        self.seconds["other"] = max(0.0, self._before - counted)
        self.seconds["hidden"] = self._hidden
        self.seconds["total"] = self._before
