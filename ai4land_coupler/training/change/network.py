"""A network for change: where, in blocks whose class totals are given, the pixels of a map change, and to what.

It sees each pixel's history and neighbourhood (`changefeatures`), the change of its block and how many years lie
between, and adds what it learns to the logit of the pixel's own class, so that no change is its floor. It is trained
with the closed cross-entropy: the gradient of -sum a log softmax(z + b)_y, b the offsets that close the block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ai4land_coupler.constraint import close, quota
from ai4land_coupler.errors import ConfigError
from ai4land_coupler.training.fit.closing import closing_offset

DINKELBACH_STEPS = 3


@dataclass(frozen=True)
class ChangeConfig:
    """Sizes and seed of a training."""

    seed: int = 1
    hidden: int = 64
    steps: int = 1500
    pixels: int = 6144  # of a step
    group: int = 768  # of one block at most
    pool: int = 180_000  # pixels drawn of each base map, by blocks
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    warmup: int = 50
    gain: float = 4.0  # lift of a pixel's own class before training

    def __post_init__(self) -> None:
        if min(self.hidden, self.steps, self.pixels, self.group, self.pool) < 1 or self.steps < self.warmup:
            raise ConfigError(f"positive sizes and steps >= warmup are expected, got {self}")


@dataclass(frozen=True)
class Target:
    """What groups of pixels become: classes (G, n) 0.., 0 where the weight is; totals (G, K) before and after."""

    lead: float
    classes: NDArray[np.int64]
    weight: NDArray[np.float32]
    before: NDArray[np.float64]
    after: NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Pixels of one base map drawn by block: features (G, n, C) and what they become in one or more later maps."""

    features: NDArray[np.float16]
    targets: tuple[Target, ...]


def context(before: NDArray[np.float64], after: NDArray[np.float64], lead: float) -> NDArray[np.float32]:
    """What a block tells its pixels, (G, 2 K + 2), from its totals (G, K) and the years between."""
    change = after - before
    years = np.repeat([[lead / 5, 1 / max(lead, 1)]], len(before), axis=0)
    return np.concatenate([np.sign(change) * np.sqrt(np.abs(change)), np.sqrt(after), years], 1).astype(np.float32)


class ChangeNet(nn.Module):
    """Features (..., C) and block context (..., X) -> logits (..., K); 1x1 convolutions, pixel by pixel.

    The first K features are the map that changes, one class a channel.
    """

    mean: Tensor
    scale: Tensor
    longest: Tensor  # years between two maps that it has seen at most; more are taken for so many

    def __init__(self, channels: int, classes: int, hidden: int, gain: float) -> None:
        super().__init__()
        self.classes = classes
        self.layers = nn.Sequential(
            nn.Linear(channels + 2 * classes + 2, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )
        self.gain = nn.Parameter(torch.tensor(gain))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("longest", torch.tensor(1.0))

    def forward(self, features: Tensor, block: Tensor) -> Tensor:
        """Return the logits of pixels (G, n, C) of blocks (G, X)."""
        seen = ((features - self.mean) * self.scale).clamp(-4, 4)
        spread = block[:, None].expand(-1, features.shape[1], -1)
        return self.layers(torch.cat([seen, spread], dim=2)) + self.gain * features[..., : self.classes]


def train(samples: Sequence[Sample], classes: int, config: ChangeConfig) -> ChangeNet:
    """Fit a network to samples with the closed cross-entropy; the same seed gives the same network."""
    pairs = [(sample, target) for sample in samples for target in sample.targets]
    if not pairs:
        raise ConfigError("there is no pair of maps to learn change from: two years up to the base year are needed")
    rng = np.random.default_rng(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = ChangeNet(samples[0].features.shape[2], classes, config.hidden, config.gain)
    net.longest.fill_(max(target.lead for _, target in pairs))
    _standardise(net, samples)
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate)
    for step in range(config.steps):
        done = step / config.steps
        for group in optimiser.param_groups:
            group["lr"] = (
                config.learning_rate * min(1, (step + 1) / config.warmup) * 0.5 * (1 + math.cos(math.pi * done))
            )
        sample, target = pairs[int(rng.integers(len(pairs)))]
        chosen = rng.choice(len(sample.features), min(_groups_a_step(sample, config), len(sample.features)), False)
        loss = _loss(net, sample, target, np.sort(chosen))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
    return net.eval()


def _groups_a_step(sample: Sample, config: ChangeConfig) -> int:
    return max(1, config.pixels // sample.features.shape[1])


def _standardise(net: ChangeNet, samples: Sequence[Sample]) -> None:
    some = np.concatenate(
        [s.features[:: max(1, len(s.features) // 40), ::7].reshape(-1, s.features.shape[2]) for s in samples]
    )
    values = some.astype(np.float32)
    net.mean.copy_(torch.from_numpy(values.mean(0)))
    net.scale.copy_(torch.from_numpy(1 / np.maximum(values.std(0), 0.1)))


def _loss(net: ChangeNet, sample: Sample, target: Target, chosen: NDArray[np.int64]) -> Tensor:
    features = torch.from_numpy(sample.features[chosen].astype(np.float32))
    block = torch.from_numpy(context(target.before[chosen], target.after[chosen], target.lead))
    z = net(features, block).transpose(1, 2)
    y, weight = torch.from_numpy(target.classes[chosen]), torch.from_numpy(target.weight[chosen])
    share = weight / weight.sum(1, keepdim=True).clamp(min=1e-12)
    wanted = torch.bmm(F.one_hot(y, net.classes).float().transpose(1, 2), share[:, :, None])[:, :, 0]
    b = closing_offset(z, share, wanted, iterations=12)
    log_p = torch.log_softmax(z + b[:, :, None], dim=1)
    return -(weight * log_p.gather(1, y[:, None])[:, 0]).sum() / weight.sum()


@dataclass(frozen=True)
class Members:
    """Pixels of each block: `pixel` (B, n) places in the flat map, padded with 0 where not `land` (B, n)."""

    pixel: NDArray[np.int64]
    land: NDArray[np.bool_]

    @classmethod
    def of(cls, blocks: NDArray[np.int64], land: NDArray[np.bool_], number: int) -> Members:
        """Of `number` blocks; blocks and land are maps, block -1 belongs to none."""
        flat = np.where(land, blocks, -1).reshape(-1)
        pixel = np.argsort(flat, kind="stable")[np.count_nonzero(flat < 0) :]
        count = np.bincount(flat[pixel], minlength=number)
        start = np.concatenate([[0], np.cumsum(count)[:-1]])
        place = np.arange(pixel.size) - start[flat[pixel]]
        out = np.zeros((number, max(int(count.max(initial=0)), 1)), np.int64)
        inside = np.arange(out.shape[1]) < count[:, None]
        out[flat[pixel], place] = pixel
        return cls(out, inside)


def fractions(
    net: ChangeNet,
    features: NDArray[np.float16],
    members: Members,
    area: NDArray[np.float64],
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    lead: float,
) -> tuple[NDArray[np.float64], float]:
    """Closed fractions (B, K, n) of the blocks and the largest residual of a total, as a share of the block's land."""
    logits = np.zeros((len(members.pixel), net.classes, members.pixel.shape[1]), np.float32)
    block = torch.from_numpy(context(before, after, min(lead, float(net.longest))))
    with torch.inference_mode():
        for b, pixel in enumerate(members.pixel):
            seen = torch.from_numpy(features[pixel].astype(np.float32))[None]
            logits[b] = net(seen, block[b : b + 1])[0].T.numpy()
    p, residual = close(logits, area.reshape(-1)[members.pixel] * members.land, after)
    return p, float(np.abs(residual).max(initial=0.0))


def place(
    p: NDArray[np.float64], members: Members, prior: NDArray[np.uint8], totals: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], float]:
    """Map (ny, nx) with the counts of totals (B, K) whose expected figure of merit is largest, and that figure.

    Of fractions (B, K, n) and the map `prior` that changes. With B the expected area of hits and U that of all change,
    observed or predicted, B / U is largest for the map with the largest B - r U, r = B / U being the ratio itself
    (Dinkelbach 1967). A pixel moved to class k adds p_k - r p_own to it, one left nothing: so the quota is filled by
    fractions whose own class counts r times.
    """
    own = (prior.reshape(-1)[members.pixel].astype(np.int64) - 1).clip(0)[:, None]
    stay = np.take_along_axis(p, own, axis=1)
    changed = float(((1 - stay[:, 0]) * members.land).sum())
    ratio, out = 0.2, np.zeros(members.land.shape, np.uint8)
    for _ in range(DINKELBACH_STEPS):
        score = p.copy()
        np.put_along_axis(score, own, ratio * stay, axis=1)
        out = quota(score, members.land, members.pixel + 1, totals)
        moved = members.land & (out != own[:, 0] + 1)
        hits = float((np.take_along_axis(p, (out.astype(np.int64) - 1).clip(0)[:, None], 1)[:, 0] * moved).sum())
        ratio = hits / max(changed + float((stay[:, 0] * moved).sum()), 1e-30)
    result = np.zeros(prior.size, np.uint8)
    result[members.pixel[members.land]] = out[members.land]
    return result.reshape(prior.shape), ratio
