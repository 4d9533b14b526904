"""Samples: what each step of a run is given, from (seed, step, index) alone."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ai4land_coupler.errors import ConfigError
from ai4land_coupler.features import CLIMATE_CLASS
from ai4land_coupler.training.data.store import Store
from ai4land_coupler.training.fit.crops import Crops, Years, has_prior
from ai4land_coupler.training.fit.states import States
from ai4land_coupler.training.fit.trainconfig import FACTORS, TrainConfig

SHARED = 2**31  #: index from which on the draws of whole passes stand, past those of samples


@dataclass(frozen=True)
class Batch:
    """B crops of N fine cells an edge, M of them scored, over T years, coarse cells of `size` fine cells.

    static (B, C, N, N) float16, to be shifted by shift (B, C) and then multiplied by kept (B, C); climate (B, N, N)
    uint8, or no channel (B, 0); classes (B, [1 +] T, N, N) uint8, the year before first where the network has a prior;
    totals (B, T, K, n, n) float32 of the coarse cells that hold the margin; states (B, T, K, n, n) float32 what the
    network is given in place of them, or (B, 0); trained (B, M, M) bool; area (B, M) float32
    of the rows; cells: for each year the coarse cells of the interior (in the order of `to_cells`) with more than one
    class; known (B,) bool: the prior is given; teacher (B, T) bool: the observed year before is given in place of the
    network's own, the first always.
    """

    static: Tensor
    shift: Tensor
    kept: Tensor
    climate: Tensor
    classes: Tensor
    totals: Tensor
    states: Tensor
    trained: Tensor
    area: Tensor
    known: Tensor
    teacher: Tensor
    cells: tuple[Tensor, ...]
    size: int

    def to(self, device: torch.device) -> Batch:
        """Copy to a device, without waiting where the memory is pinned."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Copy to memory a GPU reads directly."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, function: Any) -> Batch:
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("cells", "size")}
        moved = {name: function(tensor) for name, tensor in tensors.items()}
        return replace(self, **moved, cells=tuple(function(tensor) for tensor in self.cells))


@dataclass(frozen=True)
class Team:
    """This process among those that share a run."""

    rank: int = 0
    size: int = 1


class Samples(torch.utils.data.Dataset):
    """Pass after pass of a run: item `step * accumulate + pass` is this process's batch of it.

    Sample b of process r of R is sample r B + b of a pass of R B, whatever process reads it and in whatever order.
    """

    def __init__(self, config: TrainConfig, team: Team, origins: tuple[NDArray, NDArray] | None = None) -> None:
        """Open the store; `origins` are those of `Crops.origins` where known."""
        self.config, self.team = config, team
        self.crops = Crops(Store.open(config.store), config)
        self.years = Years.of(config, self.crops.store)
        self.states = States.of(self.crops, self.years)
        self.prior = has_prior(config, self.crops.store)
        self.origins = origins or self.crops.origins(int(self.years.starts[0]))
        self._groups = _positions(config, self.crops.store)

    def __len__(self) -> int:
        return self.config.steps * self.config.accumulate

    def __getitem__(self, number: int) -> Batch:
        c = self.config
        step, part = divmod(number, c.accumulate)
        factor = int(_rng(c.seed, step, SHARED + part).choice(FACTORS, p=c.resolutions))
        first = (part * self.team.size + self.team.rank) * c.batch
        static = self._room(c.batch)
        return self.join([self.sample(step, first + b, factor, static[b]) for b in range(c.batch)], factor, static)

    def sample(self, step: int, index: int, factor: int, static: NDArray | None = None) -> dict[str, NDArray]:
        """Return sample `index` of a step with coarse cells of factor x factor of the store's; the static channels in
        `static` where given."""
        c, rng = self.config, _rng(self.config.seed, step, index)
        corners, probability = self.origins
        row, col = corners[int(np.searchsorted(probability, rng.random(), side="right"))]
        start = int(rng.choice(self.years.starts))
        item = self._labels(int(row), int(col), range(start, start + c.rollout), factor)
        done = step / max(c.steps - 1, 1)
        item["known"] = np.array(rng.random() >= _between(c.prior_mask, done))
        item["teacher"] = (rng.random(c.rollout) < _between(c.teacher, done)) | (np.arange(c.rollout) == 0)
        self._perturb(item, rng)
        flipped = [axis for axis in (-1, -2) if c.flips and rng.random() < 0.5]
        turned = {name: _flip(name, values, flipped) for name, values in item.items()}
        static = self._room(1)[0] if static is None else static
        self._static(int(row), int(col), np.flip(static, tuple(flipped)))
        return {"static": static} | turned

    def item(self, row: int, col: int, years: range, factor: int) -> dict[str, NDArray]:
        """Return the crop whose interior starts at (row, col), over the years at these positions."""
        return {"static": self._static(row, col, self._room(1)[0])} | self._labels(row, col, years, factor)

    def _room(self, count: int) -> NDArray[np.float16]:
        """Memory for the static channels of `count` samples."""
        edge = self.crops.shape.edge
        return np.empty((count, len(self.crops.store.statics), edge, edge), np.float16)

    def _static(self, row: int, col: int, out: NDArray[np.float16]) -> NDArray[np.float16]:
        shape = self.crops.shape
        return self.crops.static(row - shape.margin, col - shape.margin, shape.edge, shape.edge, out)

    def _labels(self, row: int, col: int, years: range, factor: int) -> dict[str, NDArray]:
        """All of a crop but its static channels."""
        crops, shape = self.crops, self.crops.shape
        size = shape.ratio * factor
        reach, margin = shape.reach(size), shape.margin
        wide = shape.interior + 2 * reach
        maps = [crops.classes(t, row - reach, col - reach, wide, wide) for t in years]
        inner = slice(reach - margin, wide - reach + margin)
        classes = [values[inner, inner] for values in maps]
        corner = (row - margin, col - margin, shape.edge, shape.edge)
        if self.prior:
            classes.insert(0, crops.classes(years[0] - 1, *corner))
        climate = crops.climate(*corner) if crops.store.climate_classes else np.zeros(0, np.uint8)
        channels = len(crops.store.statics)
        totals = np.stack([crops.totals(values, row - reach, size) for values in maps])
        outer = row - reach, col - reach
        states = np.zeros(0, np.float32)
        if self.states is not None:
            parts = zip(years, maps, totals, strict=True)
            states = np.stack([self.states.coarse(t, values, outer, own, size) for t, values, own in parts])
        return {
            "shift": np.zeros(channels, np.float32),
            "kept": np.ones(channels, np.float32),
            "climate": climate,
            "classes": np.stack(classes),
            "totals": totals,
            "states": states,
            "trained": crops.trained(row, col, shape.interior, shape.interior),
            "area": crops.row_area(row, shape.interior),
            "known": np.array(True),
            "teacher": np.ones(len(years), bool),
        }

    def join(self, items: list[dict[str, NDArray]], factor: int, static: NDArray | None = None) -> Batch:
        """Return samples as a batch; `static` (B, C, N, N) is what holds their static channels, where one does."""
        shape = self.crops.shape
        size = shape.ratio * factor
        apart = {name for name in items[0] if name != "static" or static is None}
        arrays = {name: np.stack([item[name] for item in items]) for name in apart}
        arrays |= {} if static is None else {"static": static}
        rim = shape.reach(size) // size
        inner = slice(rim, arrays["totals"].shape[-1] - rim)
        mixed = (arrays["totals"][..., inner, inner] > 0).sum(2) > 1  # (B, T, n, n)
        cells = tuple(torch.from_numpy(np.flatnonzero(mixed[:, t])) for t in range(mixed.shape[1]))
        return Batch(**{name: torch.from_numpy(values) for name, values in arrays.items()}, cells=cells, size=size)

    def _perturb(self, item: dict[str, NDArray], rng: np.random.Generator) -> None:
        """Make places harder to remember: shift channels, drop groups of channels."""
        groups, noisy = self._groups
        item["shift"][noisy] = rng.normal(0, 1, len(noisy)) * self.config.noise
        for group in groups:
            if rng.random() < self.config.drop:
                channels = [channel for channel in group if channel < len(item["kept"])]
                item["kept"][channels] = 0
                if len(channels) < len(group):
                    item["climate"] = np.zeros_like(item["climate"])


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def _between(ends: tuple[float, float], done: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * done


def _flip(name: str, values: NDArray, axes: list[int]) -> NDArray:
    if name in ("known", "teacher", "shift", "kept") or not values.size:
        return values
    if name == "area":
        axes = [-1] if -2 in axes else []
    return np.flip(values, tuple(axes)) if axes else values


def _positions(config: TrainConfig, store: Store) -> tuple[list[list[int]], list[int]]:
    """Return the channels of each group and those to shift; the climate class is one past the last static channel."""
    names = (*store.statics, *((CLIMATE_CLASS,) if store.climate_classes else ()))
    groups = config.groups or {}
    missing = {name for group in (*groups.values(), config.noisy) for name in group} - set(names)
    if missing or CLIMATE_CLASS in config.noisy:
        raise ConfigError(f"{store.path}: groups or noisy name {sorted(missing)}; its channels are {list(names)}")
    return [[names.index(name) for name in group] for group in groups.values()], [names.index(n) for n in config.noisy]
