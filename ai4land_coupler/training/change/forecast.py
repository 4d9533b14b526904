"""Train on the years of a series up to a base year and roll out over the later ones, their block totals given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.training.change import network
from ai4land_coupler.training.change.features import features
from ai4land_coupler.training.change.network import ChangeConfig, ChangeNet, Members, Sample, Target
from ai4land_coupler.training.change.series import Series
from ai4land_coupler.training.scores.baselines import block_map, counts_in

SHORTEST_HISTORY = 3
"""Maps that a base map of training has up to itself, where the series is long enough to spare those before."""


@dataclass(frozen=True)
class Prediction:
    """One later year: class map (ny, nx), largest residual of a total in the fractions, expected figure of merit."""

    classes: NDArray[np.uint8]
    residual: float
    expected: float


def totals(
    classes: NDArray[np.uint8], blocks: NDArray[np.int64], number: int, like: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Fractions (B, K) of the classes in blocks, by pixels; those of `like` for blocks without any."""
    counts = counts_in(classes, blocks, number)
    counts = np.pad(counts, ((0, int(blocks.max()) + 1 - len(counts)), (0, 0)))
    whole = counts.sum(1, keepdims=True)
    shares = counts / np.maximum(whole, 1)
    return shares if like is None else np.where(whole > 0, shares, like)


def learn(series: Series, base: int, block: int, config: ChangeConfig) -> ChangeNet:
    """Train on all pairs of maps up to the year `base`, with squares of `block` pixels laid anywhere."""
    return network.train(list(samples(series, base, block, config)), len(series.legend), config)


def samples(series: Series, base: int, block: int, config: ChangeConfig) -> Iterator[Sample]:
    """Pixels of every base map before the year `base` and what they become up to it."""
    last = series.index(base)
    for start in range(min(SHORTEST_HISTORY - 1, last // 2), last):
        yield _sample(series, start, last, block, config)


def _sample(series: Series, start: int, last: int, block: int, config: ChangeConfig) -> Sample:
    rng = np.random.default_rng([config.seed, start])
    now = series.classes[start].reshape(-1)
    squares = _squares(series.classes[start] > 0, block, config, rng)
    group = min(config.group, block * block)
    drawn = np.stack([rng.choice(square, group, len(square) < group) for square in squares])
    targets = []
    for end in range(start + 1, last + 1):
        later = series.classes[end].reshape(-1)
        after = np.stack([_shares(later[square], len(series.legend)) for square in squares])
        before = np.stack([_shares(now[square], len(series.legend)) for square in squares])
        weight = (series.area.reshape(-1)[drawn] * (later[drawn] > 0)).astype(np.float32)
        classes = (later[drawn].astype(np.int64) - 1).clip(0)
        targets.append(Target(series.years[end] - series.years[start], classes, weight / weight.max(), before, after))
    seen = features(series.classes[: start + 1], len(series.legend))
    return Sample(seen[drawn], tuple(targets))


def _squares(
    land: NDArray[np.bool_], block: int, config: ChangeConfig, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Land pixels of squares laid at random, over the edges too, so that all pixels are as likely to be in one."""
    ny, nx = land.shape
    place = np.arange(land.size).reshape(land.shape)
    found: list[NDArray[np.int64]] = []
    wanted = -(-config.pool // min(config.group, block * block))
    for _ in range(20 * wanted):
        row, col = rng.integers(1 - block, ny), rng.integers(1 - block, nx)
        part = slice(max(row, 0), row + block), slice(max(col, 0), col + block)
        inside = place[part][land[part]]
        if inside.size * 4 >= min(block * block, land.size):
            found.append(inside)
        if len(found) == wanted:
            break
    return found or [place[land]]


def _shares(classes: NDArray[np.uint8], number: int) -> NDArray[np.float64]:
    counts = np.bincount(classes, minlength=number + 1)[1:].astype(float)
    return counts / max(counts.sum(), 1.0)


def roll_out(net: ChangeNet, series: Series, base: int, block: int) -> Iterator[tuple[int, Prediction]]:
    """Yield (year, prediction) of the years after `base`: its map and those before, and of later years the totals."""
    start = series.index(base)
    now, number = series.classes[start], len(series.legend)
    blocks = block_map(now.shape, block)
    members = Members.of(blocks, now > 0, int(blocks.max()) + 1)
    before = totals(now, blocks, number)
    seen = features(series.classes[: start + 1], number)
    for end in range(start + 1, len(series.years)):
        after = totals(np.where(now > 0, series.classes[end], 0), blocks, number, like=before)
        lead = series.years[end] - series.years[start]
        p, residual = network.fractions(net, seen, members, series.area, before, after, lead)
        classes, expected = network.place(p, members, now, after)
        yield series.years[end], Prediction(classes, residual, expected)
