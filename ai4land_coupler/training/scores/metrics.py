"""Scores of class maps: area-weighted accuracy, intersection over union, and two parts of the disagreement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIXED_BELOW = 0.95  # a coarse cell is mixed where no class covers this share of its land
COMMON = 0.01  # a class is common where it covers this share of the land observed


def confusion(
    observed: NDArray[np.uint8], predicted: NDArray[np.uint8], area: NDArray[np.float64], classes: int
) -> NDArray[np.float64]:
    """Return the area in m2 of each pair (observed, predicted), (K, K); maps (n,) hold 1..K, area (n,)."""
    pair = (observed.astype(np.int64) - 1) * classes + predicted.astype(np.int64) - 1
    return np.bincount(pair, area, classes * classes).astype(np.float64).reshape(classes, classes)


def scores(matrix: NDArray[np.float64], legend: Sequence[str]) -> dict[str, Any]:
    """Return the scores of a map from the areas of pairs (observed, predicted), (K, K).

    accuracy = sum_k m_kk / sum m;  IoU_k = m_kk / (sum_j m_kj + sum_j m_jk - m_kk), None for classes in neither map;
    miou their mean over the classes in either map, miou_common over those on at least 1 % of the land observed;
    quantity and allocation disagreement, see `disagreement`. All are None where there is no area.
    """
    total = matrix.sum()
    if total <= 0:
        names = ("accuracy", "miou", "miou_common", "quantity", "allocation")
        return dict.fromkeys(names) | {"iou": dict.fromkeys(legend)}
    hits = np.diag(matrix)
    union = matrix.sum(0) + matrix.sum(1) - hits
    iou = {name: float(h / u) if u > 0 else None for name, h, u in zip(legend, hits, union, strict=True)}
    present = [value for value in iou.values() if value is not None]
    common = matrix.sum(1) >= COMMON * total
    quantity, allocation = disagreement(matrix)
    return {
        "accuracy": float(hits.sum() / total),
        "miou": float(np.mean(present)),
        "miou_common": float(np.mean(hits[common] / union[common])),
        "quantity": quantity,
        "allocation": allocation,
        "iou": iou,
    }


def disagreement(matrix: NDArray[np.float64]) -> tuple[float, float]:
    """Return quantity and allocation disagreement of Pontius and Millones (2011), shares of the area.

    With p_kj the share of the area observed as k and predicted as j: Q = 1/2 sum_k |p_k+ - p_+k| comes from wrong
    areas of classes, A = sum_k min(p_k+ - p_kk, p_+k - p_kk) from wrong places; Q + A = 1 - accuracy.
    """
    share = matrix / matrix.sum()
    observed, predicted, hits = share.sum(1), share.sum(0), np.diag(share)
    quantity = 0.5 * np.abs(observed - predicted).sum()
    return float(quantity), float(np.minimum(observed - hits, predicted - hits).sum())


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
