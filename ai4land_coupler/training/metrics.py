"""Scores of class maps: area-weighted accuracy and intersection over union, and the maps any model must beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIXED_BELOW = 0.95  # a coarse cell is mixed where no class covers this share of its land


def confusion(
    observed: NDArray[np.uint8], predicted: NDArray[np.uint8], area: NDArray[np.float64], classes: int
) -> NDArray[np.float64]:
    """Return the area in m2 of each pair (observed, predicted), (K, K); maps (n,) hold 1..K, area (n,)."""
    pair = (observed.astype(np.int64) - 1) * classes + predicted.astype(np.int64) - 1
    return np.bincount(pair, area, classes * classes).astype(np.float64).reshape(classes, classes)


def scores(matrix: NDArray[np.float64], legend: Sequence[str]) -> dict[str, Any]:
    """Return accuracy, IoU a class and their mean over the classes that occur in either map.

    accuracy = sum_k m_kk / sum m;  IoU_k = m_kk / (sum_j m_kj + sum_j m_jk - m_kk);  None for absent classes.
    """
    hits = np.diag(matrix)
    union = matrix.sum(0) + matrix.sum(1) - hits
    iou = {name: float(h / u) if u > 0 else None for name, h, u in zip(legend, hits, union, strict=True)}
    present = [value for value in iou.values() if value is not None]
    return {"accuracy": float(hits.sum() / matrix.sum()), "miou": float(np.mean(present)), "iou": iou}


def mixed(counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which coarse cells are mixed; counts (C, K) of fine land cells.

    The share of the land is judged by counts, which within a coarse cell are its area to 1 %: by area, the many
    cells with 95 of 100 in one class would fall on either side of the bound by rounding.
    """
    return counts.max(axis=1) < MIXED_BELOW * counts.sum(axis=1) * (1 - 1e-12)


def area_totals(
    labels: NDArray[np.uint8], area: NDArray[np.float64], classes: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the share of the land area (C, K) and the count of fine cells (C, K) of each class in coarse cells.

    labels (C, n) are 1..K, or 0 off land; area (C, n), 0 off land.
    """
    hit = labels[:, None, :] == np.arange(1, classes + 1, dtype=np.uint8)[:, None]
    return (hit * area[:, None, :]).sum(2) / area.sum(1)[:, None], hit.sum(2)


def majority_map(totals: NDArray[np.float64], land: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return each coarse cell filled with its largest class, (C, n) uint8, 0 off land."""
    return ((totals.argmax(1) + 1)[:, None] * land).astype(np.uint8)


def random_map(labels: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Return the labels (C, n) of each coarse cell dealt at random to its land: the right counts, no skill."""
    rng = np.random.default_rng(seed)
    order = np.argsort(np.where(labels > 0, rng.random(labels.shape), 2.0), axis=1, kind="stable")
    ranked = np.argsort(np.where(labels > 0, 0, 1), axis=1, kind="stable")
    out = np.zeros_like(labels)
    np.put_along_axis(out, ranked, np.take_along_axis(labels, order, axis=1), axis=1)
    return out


def random_accuracy(totals: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    """Return the accuracy expected of placing classes at random with the right fractions: sum_k F_k^2 a cell.

    totals (C, K) are fractions of a coarse cell's land and weight (C,) its land area, 0 for cells left out.
    """
    return float(((totals**2).sum(1) * weight).sum() / weight.sum())
