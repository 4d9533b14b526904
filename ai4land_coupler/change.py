"""`constraint.mode: change`: the base map's totals plus the host's change since its first year, in the fine fields too.

For hosts whose classes mean something else than the emulator's: what they say of a year is not taken, what they say of
the difference between years is. Only cells of classes that lose area change, and only to classes that gain; a year
without change is the base map, bit for bit. Nothing depends on the years in between.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ai4land_coupler.constraint import PROMISE, CellError, _counts, _splitmix64, alike, close, exchange, smallest

Float = NDArray[np.float64]
Index = NDArray[np.int64]

LEAST = 1e-13
"""A change of less than this share of the land counts as none."""
FORBIDDEN = -4.0
"""Stands for the probability of a class a pixel may not have: no exchange of two pixels makes up for it."""


def target(base: Float, change: Float) -> tuple[Float, Float]:
    """Totals (K, m) after a change (K, m) of base (K, m), all fractions of land, and what was cut (K, m).

    change sums to 0. A class cannot lose more than there is: what remains negative is set to 0 and taken from the
    classes that gain, in proportion to their gains. cut: what was asked for less what was made; it sums to 0. Where
    nothing changes the totals are the base, bit for bit.
    """
    change = np.where(np.abs(change) < LEAST, 0.0, change)
    asked, gain = np.maximum(-change, 0.0), np.maximum(change, 0.0)
    gained = gain.sum(axis=0)
    share = np.divide(gain, gained, out=np.zeros_like(gain), where=gained > 0)
    loss = np.where(gained > 0, np.minimum(asked, base), 0.0)
    short = asked - loss
    return base - loss + share * loss.sum(axis=0), share * short.sum(axis=0) - short


def share_out(base: Float, mean: Float, change: Float) -> Float:
    """Change (K, n) in each of n overlaps of a coarse host cell, given the host's (K, n) and the base of each (K, n).

    mean (K, n): of the base over all overlaps of the host cell. Evenly spread, a loss would often meet coarse cells
    that have nothing to lose. Instead each loses in proportion to what it has, and gains as much as it loses, of the
    classes in proportion to the host cell's gains. The mean over the overlaps is then the host's change, but for what
    the host cell has too little of to lose.
    """
    rate = np.minimum(np.divide(np.maximum(-change, 0.0), mean, out=np.zeros_like(mean), where=mean > 0), 1.0)
    gain = np.maximum(change, 0.0)
    gained = gain.sum(axis=0)
    share = np.divide(gain, gained, out=np.zeros_like(gain), where=gained > 0)
    loss = np.where(gained > 0, rate * base, 0.0)
    return share * loss.sum(axis=0) - loss


def close_change(
    logits: ArrayLike, area: Float, base: NDArray[np.uint8], totals: Float, before: Float
) -> tuple[Float, Float]:
    """Fractions closest to the network's that turn the base map's totals into others, in each coarse cell.

    logits (C, K, n); area (C, n), m2, 0 off land; base (C, n): classes, 1..K on land; totals and before (C, K), shares
    of the land, the latter those of the base map. A pixel of a class that loses keeps it or takes one that gains; all
    others keep their class, exactly. Returns fractions and residual as `constraint.close` does, the latter within 1e-12
    of the land. Raises CellError.
    """
    losing, growing = totals < before, totals > before
    mine = base[:, None, :] == np.arange(1, totals.shape[1] + 1)[:, None]
    active = (mine & losing[:, :, None]).any(axis=1) & (area > 0)
    amount = np.where(losing, totals, np.where(growing, totals - before, 0.0))
    whole = amount.sum(axis=1, keepdims=True)
    wanted = np.divide(amount, whole, out=np.zeros_like(amount), where=whole > 0)
    allowed = mine | growing[:, :, None] | ~active[:, None, :]
    changed, _ = close(logits, area * active, wanted, allowed)
    fractions = np.where(active[:, None, :], changed, (mine & (area > 0)[:, None, :]).astype(np.float64))
    land = area.sum(axis=1)
    met = np.einsum("ckn,cn->ck", fractions, area) / np.where(land > 0, land, 1.0)[:, None]
    residual = np.where(land[:, None] > 0, met - totals, 0.0)
    wrong = np.argwhere(~(np.abs(residual) <= PROMISE))
    if wrong.size:
        cell, klass = (int(i) for i in wrong[0])
        raise CellError(cell, klass, f"the total is missed by {residual[cell, klass]:.3g} of the land")
    return fractions, residual


def quota_change(
    fractions: Float, base: NDArray[np.uint8], land: NDArray[np.bool_], cell_id: Index, totals: Float, before: Float
) -> NDArray[np.uint8]:
    """Class map (C, n): the base map with as many pixels changed as the totals ask for, 0 off land.

    fractions (C, K, n) of `close_change`; the rest as there and in `constraint.quota`. A class has its pixels of the
    base map, plus the change of its total in pixels, rounded up or down. Only pixels of losing classes change, and only
    to classes that gain: of each class those least likely to keep it, exchanged as in `constraint.quota`.
    """
    kinds = totals.shape[1]
    had = np.stack([((base == k + 1) & land).sum(axis=1) for k in range(kinds)], axis=1)
    moved = _wanted_counts(had, totals, before) - had
    draw, result = _splitmix64(cell_id), np.where(land, base, 0).astype(np.uint8)
    for cells, classes in alike(np.abs(moved)):
        at = cells[:, None], classes
        step = moved[at].T
        mine = (result[cells] == classes.T[:, :, None] + 1) & (step < 0)[:, :, None]
        may = mine | (step > 0)[:, :, None]
        p = np.where(may, fractions[at].swapaxes(0, 1), FORBIDDEN)
        place = _first_places(p, mine, step, draw[cells])
        exchange(place, p, np.where(step < 0, had[at].T + step, step), draw[cells])
        names = np.pad(classes + 1, ((0, 0), (0, 1))).astype(np.uint8)
        drawn = np.take_along_axis(names, place, axis=1)
        result[cells] = np.where(drawn > 0, drawn, result[cells])
    return result


def _wanted_counts(had: Index, totals: Float, before: Float) -> Index:
    """Pixels of each class (C, K) after the change, from those before."""
    pixels = had.sum(axis=1)
    exact = had + pixels[:, None] * (totals - before)
    kept = np.where(totals < before, np.where(totals > 0, np.clip(exact, 0, had), 0.0), had)
    gain = np.maximum(totals - before, 0.0)
    gained = gain.sum(axis=1, keepdims=True)
    new = (had - kept).sum(axis=1, keepdims=True) * np.divide(gain, gained, out=np.zeros_like(gain), where=gained > 0)
    return _counts((kept + new) / np.maximum(pixels, 1)[:, None], pixels)


def _first_places(p: Float, mine: NDArray[np.bool_], step: Index, draw: NDArray[np.uint64]) -> NDArray[np.int8]:
    """Place 0..k-1 of each pixel (c, n) that may change, k of others, with the counts that `step` (k, c) asks for.

    Each losing class gives up the pixels that would rather be of a gaining one, which then are dealt in the order of a
    hash.
    """
    k = len(p)
    best = np.where((step > 0)[:, :, None], p, -np.inf).max(axis=0)
    place = np.full(p.shape[1:], k, dtype=np.int8)
    for i in range(k):
        place[mine[i]] = i
    free = np.zeros(place.shape, dtype=bool)
    for i in range(k):
        some = np.flatnonzero(step[i] < 0)
        key = np.where(mine[i, some], p[i, some] - best[some], np.inf)
        free[some] |= smallest(key, draw[some], -step[i, some])
    for i in range(k):
        some = np.flatnonzero(step[i] > 0)
        chosen = smallest(np.where(free[some], 0.0, np.inf), draw[some], step[i, some])
        free[some] &= ~chosen
        place[some] = np.where(chosen, i, place[some])
    return place
