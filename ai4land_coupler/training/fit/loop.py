"""The training loop: closed cross-entropy on random crops, averaged weights, checkpoints, an emulator folder.

python -m ai4land_coupler.training.fit.loop CONFIG            train, going on from a checkpoint if there is one
python -m ai4land_coupler.training.fit.loop CONFIG --package  only write the emulator from the last checkpoint
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from ai4land_coupler.errors import ConfigError
from ai4land_coupler.features import CLIMATE_CLASS, CLIMATE_CLASSES, GROUPS, Channel
from ai4land_coupler.training.data.dataset import (
    CLASSES,
    FINE,
    FIRST_INPUTS,
    MARGIN,
    SOUTH_AMERICA,
    Batch,
    Box,
    Crops,
    Draft,
    Perturbation,
    global_statics,
    statistics,
)  # fmt: skip
from ai4land_coupler.training.fit.closing import SCORES, closed_cross_entropy, to_cells
from ai4land_coupler.unet import UNet
from ai4land_coupler.unetconfig import UNetConfig


@dataclass(frozen=True)
class TrainConfig:
    """One training run; paths are relative to the configuration file."""

    name: str
    data: Path  # what `rebuild` wrote
    work: Path  # checkpoints, log, cached statics
    emulator: Path  # the folder to write
    version: str = "1.0"  # of the emulator
    start: Path | None = None  # work folder of a finished run, whose averaged weights are gone on from
    inputs: tuple[str, ...] = FIRST_INPUTS  # groups of static channels
    widths: tuple[int, int, int] = (48, 96, 192)
    seed: int = 1
    steps: int = 3000
    batch: int = 4
    learning_rate: float = 2e-3
    warmup: int = 150
    weight_decay: float = 0.02
    average: float = 0.998  # decay of the averaged weights
    drop: float = 0.1
    noise: float = 0.1
    resolutions: tuple[float, float, float] = (0.6, 0.2, 0.2)  # shares of 0.5, 1 and 2 degree inputs
    threads: int = 2
    validate_every: int = 500
    checkpoint_every: int = 200
    withheld: tuple[Box, ...] = ()
    rim: int = 48

    def __post_init__(self) -> None:
        if abs(sum(self.resolutions) - 1) > 1e-9 or self.steps < self.warmup:
            raise ConfigError(f"expected resolutions that sum to 1 and steps >= warmup, got {self}")
        if set(self.inputs) - set(GROUPS):
            raise ConfigError(f"expected inputs among {list(GROUPS)}, got {list(self.inputs)}")

    @classmethod
    def read(cls, path: Path) -> TrainConfig:
        """Return the configuration in a YAML file."""
        entries = yaml.safe_load(path.read_text())
        unknown = set(entries) - {field.name for field in fields(cls)}
        if unknown:
            raise ConfigError(f"{path}: unknown entries {sorted(unknown)}")
        for key in {"data", "work", "emulator", "start"} & set(entries):
            entries[key] = (path.parent / entries[key]).resolve()
        entries["withheld"] = tuple(Box(*box) for box in entries.get("withheld", ()))
        for key in ("widths", "resolutions", "inputs"):
            if key in entries:
                entries[key] = tuple(entries[key])
        return cls(**entries)


def young_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Return an exponential average that forgets its first steps sooner: decay min(d, (1 + n) / (10 + n))."""

    def average(old: Tensor, new: Tensor, seen: Tensor | int) -> Tensor:
        kept = min(decay, (1 + float(seen)) / (10 + float(seen)))
        return old * kept + new * (1 - kept) if old.is_floating_point() else new

    return average


def closed_loss(logits: Tensor, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Return the area-weighted closed cross-entropy of a batch, each crop of weight 1 / B, and sums for its scores."""
    labels, weights = torch.from_numpy(batch.labels), torch.from_numpy(batch.weights)
    weights = weights / weights.sum((1, 2), keepdim=True).clamp(min=1e-6) / len(weights)
    z = to_cells(logits, batch.size)
    y = to_cells(labels[:, None], batch.size)[:, 0]
    w = to_cells(weights[:, None], batch.size)[:, 0]
    area = to_cells(torch.from_numpy(batch.area)[:, None], batch.size)[:, 0]
    totals = torch.from_numpy(batch.totals).flatten(2).transpose(1, 2).reshape(-1, CLASSES)
    used = torch.nonzero(w.sum(1) > 0)[:, 0]
    loss, sums, _ = closed_cross_entropy(*(part[used] for part in (z, y, w, area, totals)))
    return loss, dict(zip(SCORES, sums.tolist(), strict=True))


class Training:
    """State of a run: network, optimiser, averaged network, step, log."""

    def __init__(self, config: TrainConfig) -> None:
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)
        self.config = config
        classes = np.load(config.data / "training.npz")["label"]
        config.work.mkdir(parents=True, exist_ok=True)
        self.channels, statics = prepare(config, classes)
        self.crops = Crops(statics, classes.copy(), (SOUTH_AMERICA,), config.withheld, config.rim)
        self.perturbation = Perturbation.of(self.channels, config.drop, config.noise)
        embedded = CLIMATE_CLASSES if self.channels[-1].name == CLIMATE_CLASS else 0
        self.net = UNet(UNetConfig(len(self.channels), CLASSES, config.widths, embedded), normalise=True)
        if config.start is not None:
            go_on_from(config.start, self.net, self.channels)
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        decayed = [p for p in self.net.parameters() if p.ndim > 1]
        plain = [p for p in self.net.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))
        self.average = torch.optim.swa_utils.AveragedModel(
            self.net, avg_fn=young_average(config.average), use_buffers=True
        )
        self.step, self.seconds = 0, 0.0
        self.log: list[dict[str, Any]] = []
        if self.checkpoint.exists():
            self.resume()

    @property
    def checkpoint(self) -> Path:
        """Where the state is kept."""
        return self.config.work / "checkpoint.pt"

    def save(self) -> None:
        """Write the state aside and rename it."""
        state = {name: getattr(self, name).state_dict() for name in ("net", "optimiser", "average")}
        aside = self.checkpoint.with_suffix(".part")
        torch.save(state | {"step": self.step, "seconds": self.seconds, "log": self.log}, aside)
        aside.replace(self.checkpoint)
        (self.config.work / "log.json").write_text(json.dumps(self.log, indent=1))

    def resume(self) -> None:
        """Read the state."""
        state = torch.load(self.checkpoint, weights_only=True)
        for name in ("net", "optimiser", "average"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.seconds, self.log = state["step"], state["seconds"], state["log"]

    def rate(self) -> float:
        """Return the learning rate of this step: linear warm-up, then a cosine to 1 % of the top."""
        c = self.config
        if self.step < c.warmup:
            return c.learning_rate * (self.step + 1) / c.warmup
        done = (self.step - c.warmup) / max(c.steps - c.warmup, 1)
        return c.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))

    def batches(self) -> Iterator[Batch]:
        """Yield the batches of the remaining steps, each from its own seed, made one ahead in a thread."""
        origins = self.crops.origins(self.crops.trained)

        def make(step: int) -> Batch:
            rng = np.random.default_rng([self.config.seed, step])
            blocks = int(rng.choice((1, 2, 4), p=self.config.resolutions))
            batch = self.crops.random(rng, self.config.batch, origins, blocks)
            self.perturbation.apply(batch.inputs, rng)
            return batch

        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(make, self.step)
            for step in range(self.step, self.config.steps):
                batch = ahead.result()
                ahead = pool.submit(make, step + 1)
                yield batch

    def learn(self, batch: Batch) -> dict[str, float]:
        """Take one step."""
        self.net.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        logits = self.net(torch.from_numpy(batch.inputs))[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]
        loss, scores = closed_loss(logits, batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.average.update_parameters(self.net)
        self.step += 1
        return scores

    def averaged(self) -> UNet:
        """Return the network of the averaged weights, batch norms folded."""
        net = self.average.module
        if not isinstance(net, UNet):
            raise TypeError(f"expected a UNet, got {type(net)}")
        return net.folded()

    def validate(self) -> dict[str, float]:
        """Score the averaged network on the withheld blocks with 0.5 degree inputs, one to a crop set."""
        net = self.averaged()
        scores: dict[str, float] = {}
        for box in self.config.withheld:
            mask = np.zeros(self.crops.trained.shape, bool)
            mask[box.rows(FINE), box.cols(FINE)] = True
            for corner in self._covering(box):
                batch = self.crops.batch(np.array([corner]), 1, mask)
                share = float(batch.weights.sum())
                if share == 0:
                    continue
                with torch.inference_mode():
                    logits = net(torch.from_numpy(batch.inputs))[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]
                    _, part = closed_loss(logits, batch)
                for name, value in part.items():
                    scores[name] = scores.get(name, 0.0) + value * share
        weight = scores.pop("weight")
        return {name: value / weight for name, value in scores.items()}

    @staticmethod
    def _covering(box: Box) -> list[tuple[int, int]]:
        """Corners of interiors that cover a box without overlap."""
        rows, cols = box.rows(FINE), box.cols(FINE)
        return [
            (row, col)
            for row in range(rows.start // 40 * 40, rows.stop, 200)
            for col in range(cols.start // 40 * 40, cols.stop, 200)
        ]


def go_on_from(folder: Path, net: UNet, channels: tuple[Channel, ...]) -> None:
    """Copy the averaged weights of the run in a work folder into `net`, so that both answer alike at first.

    The stem's columns go by the names of their channels. What the other net lacks, channels of the input and of wider
    layers, is read by the layers after it with weights that start at 0.
    """
    state = torch.load(folder / "checkpoint.pt", weights_only=True)["average"]
    old = {name.removeprefix("module."): value for name, value in state.items() if name != "n_averaged"}
    known = [Channel(**entry) for entry in json.loads((folder / "channels.json").read_text())]
    if not set(known) <= set(channels):
        raise ConfigError(f"{folder}: expected channels among those of this run, also has {set(known) - set(channels)}")
    own = net.state_dict()
    if set(old) - set(own) or set(own) - set(old) - {"climate.weight"}:
        raise ConfigError(f"{folder}: expected the same layers, found {sorted(set(old) ^ set(own))} in only one")
    stem, fractions = old["stem.weight"], old["stem.weight"].shape[1] - len(known)
    spread = stem.new_zeros(stem.shape[0], *own["stem.weight"].shape[1:])
    spread[:, [channels.index(channel) for channel in known]] = stem[:, : len(known)]
    spread[:, -fractions:] = stem[:, len(known) :]
    for name, value in (old | {"stem.weight": spread}).items():
        grown = own[name].clone()
        if value.ndim > 1:
            grown[: value.shape[0]] = 0
        grown[tuple(slice(size) for size in value.shape)] = value
        own[name] = grown
    net.load_state_dict(own)


def prepare(config: TrainConfig, classes: NDArray[np.uint8]) -> tuple[tuple[Channel, ...], NDArray[np.float16]]:
    """Return the channels with their statistics and the static fields of the globe, cached in the work folder."""
    kept, described = config.work / "statics.npy", config.work / "channels.json"
    if kept.exists() and described.exists():
        channels = tuple(Channel(**entry) for entry in json.loads(described.read_text()))
        return channels, np.load(kept)
    trained = np.ones(classes.shape, bool)
    for box in (SOUTH_AMERICA, *config.withheld):
        trained[box.rows(FINE, config.rim), box.cols(FINE, config.rim)] = False
    channels = statistics(config.data, classes, trained, config.inputs)
    statics = global_statics(Draft(config.data, channels, classes))
    np.save(kept, statics)
    described.write_text(json.dumps([asdict(channel) for channel in channels]))
    return channels, statics


def train(config_path: str | Path) -> Path:
    """Train as the YAML file says, write the emulator folder and return its path."""
    from ai4land_coupler.training.fit.package import write_emulator

    state = Training(TrainConfig.read(Path(config_path)))
    recent: list[dict[str, float]] = []
    start = time.perf_counter()
    for batch in state.batches():
        recent.append(state.learn(batch))
        now = time.perf_counter()
        state.seconds, start = state.seconds + now - start, now
        if state.step % 50 == 0:
            _report(state, recent)
            recent = []
        if state.step % state.config.validate_every == 0:
            state.log.append({"step": state.step, "withheld": state.validate()})
            print(json.dumps(state.log[-1]), flush=True)
        if state.step % state.config.checkpoint_every == 0 or state.step == state.config.steps:
            state.save()
    return write_emulator(state)


def _report(state: Training, recent: list[dict[str, float]]) -> None:
    mean = {name: round(float(np.mean([scores[name] for scores in recent])), 4) for name in recent[0]}
    state.log.append({"step": state.step, "seconds": round(state.seconds, 1), "rate": state.rate()} | mean)
    print(json.dumps(state.log[-1]), flush=True)


def main() -> None:
    """Run from the command line."""
    from ai4land_coupler.training.fit.package import write_emulator

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--package", action="store_true")
    arguments = parser.parse_args()
    if arguments.package:
        print(write_emulator(Training(TrainConfig.read(arguments.config))))
    else:
        print(train(arguments.config))


if __name__ == "__main__":
    main()
