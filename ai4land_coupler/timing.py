"""Seconds per stage of a step."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

STAGES = ("regrid", "features", "unet", "constraint", "exchange", "output")


class Stopwatch:
    """Adds up wall-clock seconds per named stage; stages do not nest."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._began = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block under `name`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - began

    def finish(self) -> None:
        """Add what no stage counted as `other`, and the time since the stopwatch was made as `total`."""
        total = time.perf_counter() - self._began
        self.seconds["other"] = max(0.0, total - sum(self.seconds[name] for name in STAGES))
        self.seconds["total"] = total
