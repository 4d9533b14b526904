"""Does reading keep up: samples a second with the loader, beside the same batches held in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from ai4land_coupler.console import show_log
from ai4land_coupler.training.fit.loader import Clock, batches
from ai4land_coupler.training.fit.samples import Batch
from ai4land_coupler.training.fit.team import joined
from ai4land_coupler.training.fit.train import Trainer, clocked, log, repeatable
from ai4land_coupler.training.fit.trainconfig import TrainConfig


def measure(path: str | Path, rounds: int = 7, steps: int = 6) -> float:
    """Train on, `steps` steps as they are read and on the same batches out of memory, `rounds` times, in turns first.

    Prints samples a second of both, the share of the time that the device waits for batches, and the same ratio in
    processor time of this process, which other work on the machine moves less; at the end the processor time that
    reading a sample takes, alone. Returns the median ratio of the samples a second. Nothing is written. The reader has
    its queue full before its time is taken and refills it within.
    """
    config = TrainConfig.read(path)
    with joined(config.device) as (team, device):
        show_log(team.rank)
        repeatable(device)
        trainer, found, alone = Trainer(config, team, device), [], []
        number = steps * config.accumulate
        held: list[Batch] = []
        for turn in range(rounds):
            times = {}
            for kind in ("read", "memory") if turn % 2 == 0 else ("memory", "read"):
                if kind == "memory":
                    times[kind] = _time(trainer, iter(held), steps, Clock(device))
                else:
                    times[kind] = _time_reading(trainer, (turn + 1) * number, steps, held)
            alone.append(_reading_alone(trainer, turn))
            both = trainer.control.sum(np.array([times["read"], times["memory"]])) / team.size
            found.append(both[1, :2] / both[0, :2])
            pace = number * config.batch * team.size / both[:, 0]
            log.info(
                "%.3f samples a second as read, %.3f from memory: %.3f of it, %.3f in processor time, device idle %.4f",
                *pace, *found[-1], both[0, 2],
            )  # fmt: skip
        wall, processor = np.median(found, axis=0)
        log.info(
            "reading keeps %.3f of the pace from memory, %.3f in processor time, of which a sample takes %.4f s "
            "(medians of %d rounds)", wall, processor, np.median(alone), rounds,
        )  # fmt: skip
        return float(wall)


def _reading_alone(trainer: Trainer, number: int) -> float:
    """Return processor seconds of reading one sample of pass `number`."""
    start = time.process_time()
    trainer.samples[number]
    return (time.process_time() - start) / trainer.config.batch


def _time_reading(trainer: Trainer, first: int, steps: int, held: list[Batch]) -> tuple[float, float, float]:
    """Time steps on batches from pass `first` on, read meanwhile; they take the place of those `held`."""
    c, clock = trainer.config, Clock(trainer.device)
    source = batches(trainer.samples, first, trainer.device)
    early = list(islice(source, c.prefetch * max(c.workers, 1) + 1))
    trainer.learn(iter(early[: c.accumulate] * c.accumulate))
    held.clear()
    feed = clocked(_kept(source, held), clock)
    times = _time(trainer, feed, steps, clock)
    feed.close()
    del held[steps * c.accumulate :]
    return times


def _kept(source: Iterator[Batch], held: list[Batch]) -> Iterator[Batch]:
    for batch in source:
        held.append(batch)
        yield batch


def _time(trainer: Trainer, feed: Iterator[Batch], steps: int, clock: Clock) -> tuple[float, float, float]:
    """Return seconds and processor seconds of `steps` steps, and the share in which the device waited."""
    clock.read()
    start, used = time.perf_counter(), time.process_time()
    for _ in range(steps):
        trainer.learn(feed)
    _, idle = clock.read()
    return time.perf_counter() - start, time.process_time() - used, idle
