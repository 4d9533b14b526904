"""Given coarse changes: fine cells by coarse cell, and totals that sum to the land although the changes do not to 0."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def nearest(
    lat: NDArray[np.float64], lon: NDArray[np.float64], cell_lat: NDArray[np.float64], cell_lon: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Coarse cell (n,) whose centre (C,) is the nearest in degrees to each fine cell; the first among equals.

    That is how changes given on whole cells reach coasts whose coarse cell was left out: its land counts to a
    neighbour.
    """
    found = np.empty(lat.size, np.int64)
    for start in range(0, lat.size, 8192):
        part = slice(start, start + 8192)
        found[part] = np.hypot(lat[part, None] - cell_lat, lon[part, None] - cell_lon).argmin(1)
    return found


def corrected_totals(before: NDArray[np.float64], change: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fractions (B, K) after a change (B, K) of areas `before` (B, K), of one unit, that need not sum to zero.

    What a cell's changes sum to is taken off the classes in proportion to |change|. A class that would lose more than
    it has loses all of it, and the gains of the others shrink in proportion. A cell without land gives zeros.
    """
    size = np.abs(change)
    share = size / np.maximum(size.sum(1, keepdims=True), np.finfo(float).tiny)
    balanced = change - change.sum(1, keepdims=True) * share
    short = np.maximum(-(before + balanced), 0)
    gains = np.maximum(balanced, 0)
    given = gains * (short.sum(1, keepdims=True) / np.maximum(gains.sum(1, keepdims=True), np.finfo(float).tiny))
    after = np.maximum(before + balanced + short - given, 0)
    return after / np.maximum(after.sum(1, keepdims=True), np.finfo(float).tiny)
