"""`ai4land train`: the network trained on a store by one process, or by those that `torchrun` starts."""

from __future__ import annotations

import copy
import logging
import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ai4land_coupler.console import show_log
from ai4land_coupler.errors import BadInputError, RestartError
from ai4land_coupler.training.fit import checkpoints
from ai4land_coupler.training.fit.closing import SCORES
from ai4land_coupler.training.fit.journal import Journal
from ai4land_coupler.training.fit.loader import Clock, batches
from ai4land_coupler.training.fit.samples import Batch, Samples, Team
from ai4land_coupler.training.fit.team import Control, joined, share_norms
from ai4land_coupler.training.fit.trainconfig import TrainConfig
from ai4land_coupler.training.fit.unrolled import years
from ai4land_coupler.training.fit.validation import validate
from ai4land_coupler.unet import UNet
from ai4land_coupler.unetconfig import UNetConfig

log = logging.getLogger("ai4land_coupler")


class Averaged:
    """An exponential average of a network's weights that forgets its first steps sooner: min(decay, (1 + n) / (10 + n))
    of the old."""

    def __init__(self, net: UNet, decay: float) -> None:
        self.net = copy.deepcopy(net).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, net: UNet, step: int) -> None:
        """Take in the weights after `step` steps; the first time they are taken whole."""
        new = 1 - min(self._decay, step / (9 + step)) if step > 1 else 1.0
        for own, other in zip(self._tensors(self.net), self._tensors(net), strict=True):
            if own.is_floating_point():
                own.lerp_(other, new)
            else:
                own.copy_(other)

    @staticmethod
    def _tensors(net: UNet) -> Iterator[Tensor]:
        yield from net.parameters()
        yield from net.buffers()


class Trainer:
    """State of a run: network, optimiser, averaged network, step, log."""

    def __init__(self, config: TrainConfig, team: Team, device: torch.device) -> None:
        """Make the state from the seed, or read the last checkpoint. Collective."""
        torch.manual_seed(config.seed)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.config, self.team, self.device, self.control = config, team, device, Control(team)
        origins = Samples(config, team).origins if team.rank == 0 else None
        self.samples = Samples(config, team, self.control.first(origins))
        net = network(config, self.samples)
        net = share_norms(net) if team.size > 1 else net
        net = net.double() if config.precision == "float64" else net
        self.net = net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = Averaged(self.net, config.average)
        self.optimiser = _optimiser(self.net, config)
        self.step = self.samples_seen = 0
        self.seconds = 0.0
        self.log: list[dict[str, Any]] = []
        self.resume()
        self.wrapped: nn.Module = self.net
        if team.size > 1:
            on = [device.index] if device.type == "cuda" else None
            self.wrapped = DistributedDataParallel(self.net, device_ids=on, broadcast_buffers=False)
        self.wrapped.train()
        self._autocast = autocast(config, device)

    @property
    def folder(self) -> Path:
        """Where the checkpoints are."""
        return self.config.work / "checkpoints"

    def save(self) -> None:
        """Write a checkpoint; on the first process alone."""
        if self.team.rank == 0:
            state = {
                "net": self.net.state_dict(),
                "average": self.average.net.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "step": self.step,
                "samples_seen": self.samples_seen,
                "seconds": self.seconds,
                "log": self.log,
            }
            checkpoints.save(self.folder, self.step, state, self.config.keep)

    def resume(self) -> None:
        """Go on from the last checkpoint, where there is one."""
        kept = self.control.first([str(path) for path in checkpoints.paths(self.folder)])
        if not kept:
            return
        state = checkpoints.load(Path(kept[-1]))
        try:
            self.net.load_state_dict(state["net"])
            self.average.net.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.seconds, self.log = state["step"], state["seconds"], state["log"]
            self.samples_seen = state["samples_seen"]
        except (LookupError, RuntimeError, ValueError) as error:
            raise RestartError(f"{kept[-1]} is of another network: {error}; give another work folder") from error

    def rate(self) -> float:
        """Return the learning rate of this step: linear warm-up, then a cosine to 1 % of the top."""
        c = self.config
        if self.step < c.warmup:
            return c.learning_rate * (self.step + 1) / c.warmup
        done = (self.step - c.warmup) / max(c.steps - c.warmup, 1)
        return c.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))

    def learn(self, parts: Iterator[Batch]) -> Tensor:
        """Take one step with the next `accumulate` batches; return the sums named SCORES."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        self.optimiser.zero_grad(set_to_none=True)
        sums = torch.zeros(len(SCORES), dtype=torch.float64, device=self.device)
        for part in range(self.config.accumulate):
            sums += self._pass(next(parts), part == self.config.accumulate - 1)
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip)
        self.optimiser.step()
        self.step += 1
        self.samples_seen += self.config.accumulate * self.config.batch * self.team.size
        self.average.update(self.net, self.step)
        return sums

    def _pass(self, batch: Batch, last: bool) -> Tensor:
        """Add the gradient of a batch; processes exchange theirs in the last year of the last batch."""
        sums, count, number = torch.zeros((), device=self.device), self.config.rollout, 0
        unrolled = years(self.wrapped, batch, len(self.samples.crops.store.legend), self._autocast)
        for number in range(count):
            with self._alone(not (last and number == count - 1)):
                year = next(unrolled)
                (year.loss / (count * self.config.accumulate)).backward()  # type: ignore[no-untyped-call]
            sums = sums + year.scores
        return sums

    def _alone(self, alone: bool) -> AbstractContextManager[object]:
        wrapped = self.wrapped
        return wrapped.no_sync() if alone and isinstance(wrapped, DistributedDataParallel) else nullcontext()

    def averaged(self) -> UNet:
        """Return the network of the averaged weights, batch norms folded."""
        return self.average.net.folded()

    def validate(self) -> dict[str, float]:
        """Score the averaged weights. Collective."""
        return validate(self.averaged().to(self.device), self.samples, self.device, self.control)


def network(config: TrainConfig, samples: Samples) -> UNet:
    """Return the network of a run with the weights its seed gives."""
    store = samples.crops.store
    channels = len(store.statics) + int(store.climate_classes > 0)
    sizes = UNetConfig(
        channels, len(store.legend), config.widths, store.climate_classes, config.climate_width, samples.prior
    )
    return UNet(sizes, normalise=True)


def _optimiser(net: UNet, config: TrainConfig) -> torch.optim.Optimizer:
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))


def autocast(config: TrainConfig, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """Return what puts the passes into the precision asked for."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if config.precision == "bfloat16" or (config.precision == "auto" and able):
        return lambda: torch.autocast(device.type, torch.bfloat16)
    return nullcontext


@contextmanager
def told() -> Iterator[Callable[[], bool]]:
    """Yield what says whether the process was told to end (SIGTERM)."""
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGTERM, before)


def train(path: str | Path) -> Path | None:
    """Train as the YAML file says and write the emulator folder; return its path, None where told to end before."""
    from ai4land_coupler.training.fit.folder import check, write_emulator

    config = TrainConfig.read(path)
    with joined(config.device) as (team, device), told() as ending:
        show_log(team.rank)
        repeatable(device)
        check(config)
        trainer = Trainer(config, team, device)
        if not run(trainer, ending):
            log.info("told to end: checkpoint of step %d written, the same command goes on from it", trainer.step)
            return None
        scores = trainer.validate()
        if team.rank == 0:
            log.info("scores of what ships: %s", "  ".join(f"{name} {value:.4g}" for name, value in scores.items()))
            write_emulator(trainer, scores)
            log.info("emulator written to %s", config.emulator)
        return config.emulator


def repeatable(device: torch.device) -> None:
    """Have a GPU give the same bits for the same work."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)


def run(trainer: Trainer, ending: Callable[[], bool]) -> bool:
    """Take the steps that are left; return whether all were taken, False where told to end."""
    c, control = trainer.config, trainer.control
    c.work.mkdir(parents=True, exist_ok=True)
    first = trainer.team.rank == 0
    journal = Journal(c.work, c.name, trainer.step, c.steps, trainer.log) if first else None
    clock, sums = Clock(trainer.device), torch.zeros(len(SCORES), dtype=torch.float64, device=trainer.device)
    feed = clocked(batches(trainer.samples, trainer.step * c.accumulate, trainer.device), clock)
    stopped, told_of = False, trainer.step
    try:
        while trainer.step < c.steps and not stopped:
            sums += trainer.learn(feed)
            step = trainer.step
            if journal is not None:
                journal.advance()
            if step % c.log_every == 0 or step == c.steps:
                values = _measured(trainer, sums, clock, step - told_of)
                told_of = step
                sums.zero_()
                if journal is not None:
                    journal.write(step, "train", values)
            if step % c.validate_every == 0 and step < c.steps:
                values = trainer.validate()
                if journal is not None:
                    journal.write(step, "validation", values)
            stopped = control.any(ending())
            if stopped or step % c.checkpoint_every == 0 or step == c.steps:
                trainer.save()
                if journal is not None:
                    journal.keep()
    finally:
        feed.close()
        if journal is not None:
            journal.close()
    return not stopped


def clocked(source: Iterator[Batch], clock: Clock) -> Any:
    """Batches, with the waits for them on the clock."""
    clock.worked()
    for batch in source:
        clock.fed()
        yield batch
        clock.worked()


def _measured(trainer: Trainer, sums: Tensor, clock: Clock, number: int) -> dict[str, float]:
    """Mean scores of `number` steps since the last time, over all processes, and the pace. Collective."""
    total = trainer.control.sum(sums.cpu().numpy())
    seconds, idle = clock.read()
    trainer.seconds += seconds
    waits = trainer.control.sum(np.array([idle])) / trainer.team.size
    if not np.isfinite(total).all():
        raise BadInputError(
            f"step {trainer.step}: the loss is not finite; take a lower learning_rate or a longer warmup; the same "
            "command goes on from the last checkpoint"
        )
    scores = {name: float(value / max(total[0], 1e-30)) for name, value in zip(SCORES[1:], total[1:], strict=True)}
    c = trainer.config
    pace = number * c.accumulate * c.batch * trainer.team.size / seconds
    return scores | {"rate": trainer.rate(), "samples_per_second": pace, "idle": float(waits[0])}
