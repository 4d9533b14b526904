"""Does reading keep up: samples a second with the loader, beside the same batches held in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ai4land_coupler.console import show_log
from ai4land_coupler.training.loader import Clock, batches
from ai4land_coupler.training.samples import Batch
from ai4land_coupler.training.team import joined
from ai4land_coupler.training.train import Trainer, clocked, log, repeatable
from ai4land_coupler.training.trainconfig import TrainConfig


def measure(path: str | Path, rounds: int = 5, steps: int = 8) -> float:
    """Train on, `steps` steps as they are read and then again on the same batches out of memory, `rounds` times.

    Prints samples a second of both and the share of the time that the device waits for batches; returns the median
    ratio of the two. Nothing is written. The reader has its queue full before its time is taken and refills it within.
    """
    config = TrainConfig.read(path)
    with joined(config.device) as (team, device):
        show_log(team.rank)
        repeatable(device)
        trainer, ratios = Trainer(config, team, device), []
        number = steps * config.accumulate
        ahead = config.prefetch * max(config.workers, 1) + 1
        for turn in range(rounds):
            clock = Clock(device)
            source = batches(trainer.samples, turn * number, device)
            held = [next(source) for _ in range(ahead)]
            trainer.learn(iter(held[: config.accumulate] * config.accumulate))
            held.clear()
            feed = clocked(_kept(source, held), clock)
            read, idle = _time(trainer, feed, steps, clock)
            feed.close()
            memory, _ = _time(trainer, iter(held[:number]), steps, clock)
            both = trainer.control.sum(np.array([read, memory, idle])) / team.size
            ratios.append(float(both[1] / both[0]))
            samples = number * config.batch * team.size
            log.info(
                "%.3f samples a second as read, %.3f from memory: %.3f of it, device idle %.4f",
                samples / both[0], samples / both[1], ratios[-1], both[2],
            )  # fmt: skip
        median = float(np.median(ratios))
        log.info("reading keeps %.3f of the pace from memory (median of %d rounds)", median, rounds)
        return median


def _kept(source: Iterator[Batch], held: list[Batch]) -> Iterator[Batch]:
    for batch in source:
        held.append(batch)
        yield batch


def _time(trainer: Trainer, feed: Iterator[Batch], steps: int, clock: Clock) -> tuple[float, float]:
    """Return seconds of `steps` steps and the share of them in which the device waited."""
    clock.read()
    start = time.perf_counter()
    for _ in range(steps):
        trainer.learn(feed)
    _, idle = clock.read()
    return time.perf_counter() - start, idle
