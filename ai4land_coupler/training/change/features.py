"""What the maps up to a year say about where change comes next: history of each pixel and classes around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.training.scores.baselines import box_sum

RADII = (1, 4, 12)
"""Pixels to each side of the squares in which the classes of the map are counted."""
HISTORY_RADIUS = 3
"""The same for the classes of the past."""
DECAY = 0.6
"""Weight of a year's class in the history, of the year after it."""


def features(history: NDArray[np.uint8], classes: int, radii: Sequence[int] = RADII) -> NDArray[np.float16]:
    """Describe every pixel by the maps history (T, ny, nx) uint8, 0 no class, the last of them the map that changes.

    Returns (ny nx, C) float16 in 0..1, first the last map, one class a channel. Classes of the last map are counted
    in squares of 2 r + 1 pixels to a side, for each r of `radii`; C depends on `classes` and these alone.
    """
    layers = [layer.reshape(-1) for layer in _layers(history, classes, radii)]
    return np.stack(layers, axis=1)


def _layers(history: NDArray[np.uint8], classes: int, radii: Sequence[int]) -> Iterator[NDArray[np.float16]]:
    now, back = history[-1], history[::-1]
    weights = DECAY ** np.arange(len(back))
    since, former, changes = _last_change(history)
    land = np.maximum([box_sum((now > 0).astype(float), radius) for radius in (*radii, HISTORY_RADIUS)], 1.0)
    for k in range(1, classes + 1):
        yield (now == k).astype(np.float16)
    for k in range(1, classes + 1):
        past = back == k
        recent = np.tensordot(weights, past, 1) / weights.sum()
        yield recent.astype(np.float16)
        yield past.mean(0).astype(np.float16)
        for year in (1, 2):
            yield past[min(year, len(past) - 1)].astype(np.float16)
        yield (former == k).astype(np.float16)
        for radius, around in zip(radii, land, strict=False):
            yield _share((now == k).astype(float), around, radius)
        yield _share(recent, land[-1], HISTORY_RADIUS)
    yield (1 / since).astype(np.float16)
    yield (changes > 0).astype(np.float16)
    yield (changes / max(len(history) - 1, 1)).astype(np.float16)
    yield _share((changes > 0).astype(float), land[-1], HISTORY_RADIUS)


def _share(field: NDArray[np.float64], around: NDArray[np.float64], radius: int) -> NDArray[np.float16]:
    """Root of the share of a field in the squares around each pixel: it tells a trace from nothing."""
    if not field.any():
        return np.zeros(field.shape, np.float16)
    return np.sqrt(np.clip(box_sum(field, radius) / around, 0, 1)).astype(np.float16)


def _last_change(
    history: NDArray[np.uint8],
) -> tuple[NDArray[np.float64], NDArray[np.uint8], NDArray[np.int64]]:
    """Years since the last change (the length of the history where there was none), the class before it, changes."""
    since = np.full(history.shape[1:], float(len(history)))
    former = np.zeros(history.shape[1:], np.uint8)
    changes = np.zeros(history.shape[1:], np.int64)
    for t in range(1, len(history)):
        moved = (history[t] != history[t - 1]) & (history[t] > 0) & (history[t - 1] > 0)
        since[moved], former[moved] = len(history) - t, history[t - 1][moved]
        changes += moved
    return since, former, changes
