"""Reading ahead, and how long the device waits for it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice

import torch
from torch.utils.data import DataLoader

from ai4land_coupler.training.fit.samples import Batch, Samples


def batches(samples: Samples, first: int, device: torch.device) -> Iterator[Batch]:
    """Yield the batches from pass `first` on, on the device, read ahead by `workers` processes or by one thread."""
    last, c = len(samples), samples.config
    if c.workers == 0:
        source = _by_thread(samples, range(first, last))
    else:
        source = iter(
            DataLoader(
                samples, batch_size=None, sampler=range(first, last), num_workers=c.workers,
                prefetch_factor=c.prefetch, pin_memory=device.type == "cuda", worker_init_fn=_calm,
                multiprocessing_context="spawn",
            )
        )  # fmt: skip
    for batch in source:
        yield batch.to(device)


def _by_thread(samples: Samples, numbers: range) -> Iterator[Batch]:
    with ThreadPoolExecutor(1, initializer=_yielding) as pool:
        coming = iter(numbers)
        ahead = deque(pool.submit(samples.__getitem__, n) for n in islice(coming, samples.config.prefetch))
        try:
            while ahead:
                batch = ahead.popleft().result()
                ahead.extend(pool.submit(samples.__getitem__, n) for n in islice(coming, 1))
                yield batch
        finally:
            for future in ahead:
                future.cancel()


def _yielding() -> None:
    """In a reading thread: take what the training leaves of a core, not the core of a thread that others wait for."""
    with suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def _calm(_: int) -> None:
    """In a reading process: one thread of torch, and signals meant for the run are left to the run."""
    torch.set_num_threads(1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class Clock:
    """How long steps take, and what share of it the device waits for its next batch.

    On a CPU that is the time in which the training thread waits; on a GPU the time between the end of one step's work
    and the arrival of the next batch, as the GPU itself measures it.
    """

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._start = time.perf_counter()
        self._mark: float | torch.cuda.Event | None = None
        self._idle = 0.0
        self._gaps: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def worked(self) -> None:
        """The work on a batch is given to the device."""
        self._mark = self._event() if self._gpu else time.perf_counter()

    def fed(self) -> None:
        """The next batch is there."""
        if isinstance(self._mark, float):
            self._idle += time.perf_counter() - self._mark
        elif self._mark is not None:
            self._gaps.append((self._mark, self._event()))

    def read(self) -> tuple[float, float]:
        """Return the seconds since the last reading and the share of them in which the device was idle."""
        if self._gpu:
            torch.cuda.synchronize()
        now = time.perf_counter()
        seconds = now - self._start
        self._idle += sum(before.elapsed_time(after) for before, after in self._gaps) / 1000
        share = min(self._idle / seconds, 1.0) if seconds > 0 else 0.0
        self._start, self._idle, self._gaps = now, 0.0, []
        return seconds, share

    @staticmethod
    def _event() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
