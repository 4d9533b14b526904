"""Scores of predicted change: figure of merit at several scales, changed pixels, drift over a free rollout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import ConfigError
from ai4land_coupler.training.scores import baselines, metrics

SCALES = (1, 5, 25)
"""Pixels to the edge of the blocks at which a figure of merit is given."""

HIT, WRONG, MISS, FALSE_ALARM = 1, 2, 3, 4
OUTCOMES = ("no_change", "hit", "wrong_change", "miss", "false_alarm")


def outcome_map(
    base: NDArray[np.uint8], observed: NDArray[np.uint8], predicted: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """What came of each pixel of maps (ny, nx), 0 off land in any: one of OUTCOMES, by number; 255 off land.

    A hit is change to the class observed, a wrong change one to another class, a miss observed change that is not
    predicted, a false alarm predicted change that is not observed.
    """
    changed, moved = observed != base, predicted != base
    out = np.zeros(base.shape, np.uint8)
    out[changed & moved] = WRONG
    out[changed & moved & (observed == predicted)] = HIT
    out[changed & ~moved] = MISS
    out[~changed & moved] = FALSE_ALARM
    return np.where(_land(base, observed, predicted), out, 255).astype(np.uint8)


def figure_of_merit(
    base: NDArray[np.uint8],
    observed: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
    area: NDArray[np.float64],
    block: int = 1,
) -> dict[str, float | None]:
    """Return hits, wrong change, misses and false alarms, as area (of the unit of `area`), and the figure of merit.

    Of maps (ny, nx) of classes 1.., 0 off land, over blocks of `block` x `block` pixels from the first row and column
    (after Pontius, Peethambaram and Castella 2011, doi:10.1080/00045608.2010.517742). In a block b let o_ij be the area
    that goes from class i to class j as observed, s_ij as predicted, and o_i, s_i their sums over j != i. Then
        hits = sum_b sum_i sum_(j != i) min(o_ij, s_ij)          misses = sum_b sum_i max(o_i - s_i, 0)
        wrong change = sum_b sum_i min(o_i, s_i) - hits           false alarms = sum_b sum_i max(s_i - o_i, 0)
        figure of merit = hits / (hits + wrong change + misses + false alarms)
    With block 1 these are the areas of the pixels of each kind (Pontius et al. 2008). The figure is None where nothing
    changes in either map.
    """
    land = _land(base, observed, predicted)
    blocks = baselines.block_map(base.shape, block)
    classes = int(max(base.max(), observed.max(), predicted.max())) + 1
    transition, amount = [], []
    for later in (observed, predicted):
        moved = land & (later != base)
        key = (blocks[moved] * classes + base[moved]) * classes + later[moved]
        found, place = np.unique(key, return_inverse=True)
        transition.append(found)
        amount.append(np.bincount(place, area[moved], found.size))
    _, at_o, at_s = np.intersect1d(transition[0], transition[1], assume_unique=True, return_indices=True)
    hits = float(np.minimum(amount[0][at_o], amount[1][at_s]).sum())
    origin, place = np.unique(np.concatenate(transition) // classes, return_inverse=True)
    split = transition[0].size
    o = np.bincount(place[:split], amount[0], origin.size)
    s = np.bincount(place[split:], amount[1], origin.size)
    both = float(np.minimum(o, s).sum())
    parts = {
        "hits": hits,
        "wrong_change": max(both - hits, 0.0),
        "misses": float(np.maximum(o - s, 0).sum()),
        "false_alarms": float(np.maximum(s - o, 0).sum()),
    }
    total = sum(parts.values())
    return parts | {"figure_of_merit": hits / total if total > 0 else None}


def score_change(
    base: NDArray[np.uint8],
    observed: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
    area: NDArray[np.float64],
    legend: Sequence[str],
    scales: Sequence[int] = SCALES,
) -> dict[str, Any]:
    """Return every score of one predicted map (ny, nx) against the observed one and the map both started from.

    Classes are 1..K in the order of `legend`, 0 off land; `area` (ny, nx). Keys: those of `metrics.scores`;
    `on_changed`, the same over the pixels observed to have changed; `figure_of_merit` by scale in pixels;
    `drift`, the predicted less the observed area of each class as a share of the land, and half the sum of its sizes.
    """
    land = _land(base, observed, predicted)
    number = len(legend)
    matrix = metrics.confusion(observed[land], predicted[land], area[land], number)
    changed = land & (observed != base)
    part = metrics.confusion(observed[changed], predicted[changed], area[changed], number)
    excess = (matrix.sum(0) - matrix.sum(1)) / matrix.sum()
    return metrics.scores(matrix, legend) | {
        "on_changed": metrics.scores(part, legend),
        "figure_of_merit": {str(n): figure_of_merit(base, observed, predicted, area, n) for n in scales},
        "drift": {
            "classes": {name: float(value) for name, value in zip(legend, excess, strict=True)},
            "total": float(0.5 * np.abs(excess).sum()),
        },
    }


def score_rollout(
    observed: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
    base: NDArray[np.uint8],
    area: NDArray[np.float64],
    legend: Sequence[str],
    years: Sequence[int] | None = None,
    scales: Sequence[int] = SCALES,
) -> list[dict[str, Any]]:
    """Score a free rollout year by year, each against the map `base` (ny, nx) that it started from.

    observed and predicted (T, ny, nx) hold classes 1..K in the order of `legend`, 0 off land; `area` (ny, nx);
    `years` (T,) name the maps, 1..T years after the base where left out. Returns one entry a map: `year`, `lead` (its
    place from 1), the scores of `score_change`, `persistence` (the accuracy and mean IoU of the base map itself),
    `over_persistence` (accuracy less that), and `observed_change`, `predicted_change` as shares of the land. Change is
    cumulative: from the base to that year.
    """
    if observed.shape != predicted.shape or observed.shape[1:] != base.shape or area.shape != base.shape:
        raise ConfigError(
            f"maps (T, ny, nx) beside a base map and areas (ny, nx) are expected, got {observed.shape}, "
            f"{predicted.shape}, {base.shape} and {area.shape}"
        )
    names = range(1, len(observed) + 1) if years is None else years
    entries = []
    for lead, (year, seen, made) in enumerate(zip(names, observed, predicted, strict=True), start=1):
        scores = score_change(base, seen, made, area, legend, scales)
        land = _land(base, seen, made)
        still = metrics.scores(metrics.confusion(seen[land], base[land], area[land], len(legend)), legend)
        total = area[land].sum()
        shares = {
            f"{name}_change": float((area * (land & (later != base))).sum() / total)
            for name, later in (("observed", seen), ("predicted", made))
        }
        beside = {
            "persistence": {name: still[name] for name in ("accuracy", "miou")},
            "over_persistence": scores["accuracy"] - still["accuracy"],
        }
        entries.append({"year": int(year), "lead": lead} | scores | beside | shares)
    return entries


def beside_baselines(
    observed: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
    base: NDArray[np.uint8],
    area: NDArray[np.float64],
    legend: Sequence[str],
    blocks: int | NDArray[np.integer],
    years: Sequence[int] | None = None,
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, NDArray[np.uint8]]]:
    """Score a rollout as `score_rollout` does, and what it must beat: by name the entries, and the last year's maps.

    `model`; `persistence`; and given the cells of each class that the model has in each block (`baselines.block_map`),
    each year from the base in one step: `neighbours` (the rule-based allocator), `random` (cells of losing classes
    drawn at random) and `majority` (each block filled with its largest class).
    """
    numbers = baselines.block_map(base.shape, blocks)
    total = int(numbers.max()) + 1
    entries: dict[str, list[dict[str, Any]]] = {}
    maps: dict[str, NDArray[np.uint8]] = {}
    for lead, (seen, made) in enumerate(zip(observed, predicted, strict=True)):
        land = _land(base, seen, made) & (numbers >= 0)
        prior = np.where(land, base, 0).astype(np.uint8)
        counts = np.zeros((total, len(legend)), np.int64)
        found = baselines.counts_in(np.where(land, made, 0).astype(np.uint8), numbers, len(legend))
        counts[: len(found)] = found
        maps = {
            "model": np.where(land, made, 0).astype(np.uint8),
            "persistence": baselines.persistence(prior),
            "neighbours": baselines.allocate(prior, counts, numbers, area=area),
            "random": baselines.allocate_at_random(prior, counts, numbers),
            "majority": baselines.fill_majority(land, counts, numbers),
        }
        year = None if years is None else [years[lead]]
        for name, classes in maps.items():
            entry = score_rollout(seen[None], classes[None], base, area, legend, year)[0]
            entries.setdefault(name, []).append(entry | {"lead": lead + 1} | ({} if years else {"year": lead + 1}))
    return entries, maps


def _land(*maps: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where all maps have a class."""
    return np.logical_and.reduce([classes > 0 for classes in maps])
