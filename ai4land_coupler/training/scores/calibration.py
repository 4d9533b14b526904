"""How good fractions are as probabilities of labels: log loss and reliability, weighted by area."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 20
"""Bins of equal width on 0..1; the last holds 1."""

Float = NDArray[np.float64]


def log_loss(given: Float, area: Float) -> float:
    """Return the mean of -log p of the fractions (n,) given to the labels observed, weighted by area (n,).

    Infinite where a label had the fraction 0.
    """
    with np.errstate(divide="ignore"):
        return float(-(np.log(given) * area).sum() / area.sum())


def reliability(p: Float, hit: NDArray[np.bool_], area: Float) -> dict[str, list[float]]:
    """Return the reliability table of forecasts p (n,) of events `hit` (n,), weighted by area (n,).

    A list of BINS numbers each: `from` and `to` of the bin, `area_share` of all forecasts, `forecast` and `observed`,
    the mean forecast and frequency in the bin; the last two are None in empty bins.
    """
    place = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    weight, forecast, seen = (np.bincount(place, area * part, BINS) for part in (np.ones_like(p), p, hit))
    total = max(float(weight.sum()), np.finfo(float).tiny)
    means = [[float(v / w) if w > 0 else None for v, w in zip(sums, weight, strict=True)] for sums in (forecast, seen)]
    edges = np.arange(BINS + 1) / BINS
    return {
        "from": edges[:-1].tolist(),
        "to": edges[1:].tolist(),
        "area_share": (weight / total).tolist(),
        "forecast": means[0],
        "observed": means[1],
    }  # type: ignore[dict-item]


def expected_error(table: dict[str, list[float]]) -> float:
    """Return the expected calibration error, sum_b w_b |forecast_b - observed_b| over the bins of a table."""
    rows = zip(table["area_share"], table["forecast"], table["observed"], strict=True)
    return float(sum(share * abs(forecast - observed) for share, forecast, observed in rows if share > 0))


def calibration(p: Float, label: NDArray[np.integer], area: Float, legend: Sequence[str]) -> dict[str, Any]:
    """Return calibration errors and tables of fractions p (K, n) of cells with labels (n,) 1..K and area (n,).

    `error`: the expected calibration error of the likeliest class, its fraction the forecast that it is right (Guo et
    al. 2017). `error_by_class`: that of each class's own fraction over all cells (Nixon et al. 2019, with bins of equal
    width), None for classes whose fraction is 0 everywhere; `error_of_classes`: their mean. `likeliest` and
    `all_classes`: reliability tables of the first and of all the class fractions together.
    """
    best = p.argmax(0)
    likeliest = reliability(p[best, np.arange(label.size)], best + 1 == label, area)
    by_class: dict[str, float | None] = {}
    for k, name in enumerate(legend):
        by_class[name] = expected_error(reliability(p[k], label == k + 1, area)) if p[k].any() else None
    found = [error for error in by_class.values() if error is not None]
    every = reliability(p.reshape(-1), (label == np.arange(1, len(p) + 1)[:, None]).reshape(-1), np.tile(area, len(p)))
    return {
        "error": expected_error(likeliest),
        "error_of_classes": float(np.mean(found)),
        "error_by_class": by_class,
        "bins": BINS,
        "likeliest": likeliest,
        "all_classes": every,
    }
