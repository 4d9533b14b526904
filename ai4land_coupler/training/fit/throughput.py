"""Does reading keep up: samples a second with the loader, beside the same batches held in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ai4land_coupler.console import show_log
from ai4land_coupler.training.fit.loader import Clock, batches
from ai4land_coupler.training.fit.samples import Batch
from ai4land_coupler.training.fit.team import joined
from ai4land_coupler.training.fit.train import Trainer, clocked, log, repeatable
from ai4land_coupler.training.fit.trainconfig import TrainConfig


def measure(path: str | Path, rounds: int = 7, steps: int = 6) -> float:
    """Train on, in turns a step as it is read and one on the same batches out of memory, `steps` of each a round.

    Prints samples a second of both, the share of the time that the device waits for batches, and the same ratio in
    processor time of this process, which other work on the machine moves less; at the end the processor time that
    reading a sample takes, alone. Returns the ratio of the samples a second over all rounds. Nothing is written. What a
    step takes from the reader is read again within that step.
    """
    config = TrainConfig.read(path)
    with joined(config.device) as (team, device):
        show_log(team.rank)
        repeatable(device)
        trainer, clock, held = Trainer(config, team, device), Clock(device), list[Batch]()
        feed = clocked(_kept(batches(trainer.samples, 0, device), held), clock)
        took, alone = np.zeros((rounds, 2, 3)), []
        number = steps * config.accumulate * config.batch * team.size
        trainer.learn(feed)
        for turn in range(rounds):
            for _ in range(steps):
                held.clear()
                took[turn, 0] += _step(trainer, feed, clock)
                took[turn, 1] += _step(trainer, iter(held), clock)
            took[turn] = trainer.control.sum(took[turn]) / team.size
            log.info(
                "%.3f samples a second as read, %.3f from memory: %.3f of it, %.3f in processor time, device idle %.4f",
                *number / took[turn, :, 0], *took[turn, 1, :2] / took[turn, 0, :2], took[turn, 0, 2] / took[turn, 0, 0],
            )  # fmt: skip
            alone.append(_reading_alone(trainer, turn))
        feed.close()
        wall, processor = took[:, 1, :2].sum(axis=0) / took[:, 0, :2].sum(axis=0)
        log.info(
            "reading keeps %.3f of the pace from memory, %.3f in processor time, of which a sample takes %.4f s "
            "(%d steps of each)", wall, processor, np.median(alone), rounds * steps,
        )  # fmt: skip
        return float(wall)


def _reading_alone(trainer: Trainer, number: int) -> float:
    """Return processor seconds of reading one sample of pass `number`."""
    start = time.process_time()
    trainer.samples[number]
    return (time.process_time() - start) / trainer.config.batch


def _kept(source: Iterator[Batch], held: list[Batch]) -> Iterator[Batch]:
    for batch in source:
        held.append(batch)
        yield batch


def _step(trainer: Trainer, feed: Iterator[Batch], clock: Clock) -> tuple[float, float, float]:
    """Return seconds, processor seconds and seconds of waiting of one step."""
    clock.read()
    used = time.process_time()
    trainer.learn(feed)
    seconds, idle = clock.read()
    return seconds, time.process_time() - used, idle * seconds
