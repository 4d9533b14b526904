"""Closing of the totals: the fractions closest to the network's that meet every total, and the map drawn from them.

Among all fractions p of a coarse cell with  sum_i w_i p_ik = F_k  the one closest to softmax(z) in area-weighted
Kullback-Leibler divergence is p = softmax(z + b), with one offset b_k a class (Csiszar 1975, I-projection).
b minimises the convex dual  D(b) = sum_i w_i log sum_k exp(z_ik + b_k) - sum_k F_k b_k,  whose gradient is the
residual  sum_i w_i p_ik - F_k  and whose Hessian is  sum_i w_i (diag p_i - p_i p_i^T).

Coarse cells are solved together where they hold the same number of classes. Every operation is elementwise over them
or a sum along the pixels of one, so the bits of a cell depend on that cell alone. Where the compiled kernel is there
`close` and `quota` leave the work to it: the same fractions to 1e-11, the same maps of the same fractions.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ai4land_coupler import kernel
from ai4land_coupler.errors import ConstraintError

Floats = NDArray[np.float64]

TOLERANCE = 1e-13
"""Largest residual a cell stops at, as a fraction of its land."""
PROMISE = 1e-12
"""Largest residual handed out, as a fraction of the land; half of it may come from totals that do not sum to 1."""
MAX_ITERATIONS = 100
DEEPEST_LOGIT = -20.0
"""Logits further below the largest of their pixel count as this, so that an offset can still lift the class."""
LONGEST_STEP = 4.0
DAMPING = 1e-14
"""Levenberg term, as a fraction of F_k, the size of the diagonal."""
SLACK = 4e-15
"""The dual counts as fallen where it rose by no more than this: its own rounding."""
WHOLE = 1e-9
"""A number of pixels this little below a whole one counts as whole."""
MAX_SWEEPS = 8
"""Sweeps over the pairs of classes; on real maps the third changes fewer than 1 cell in 100."""
BATCH = 1024
"""Classes times coarse cells worked on at a time: at 100 pixels an array of them is 0.8 MB and stays in the cache."""


class CellError(ConstraintError):
    """A coarse cell that cannot be closed; `cell` is its 0-based place in the batch, `klass` the 0-based class."""

    def __init__(self, cell: int, klass: int, what: str) -> None:
        super().__init__(f"coarse cell {cell} of the batch, class {klass + 1}: {what}")
        self.cell, self.klass, self._what = cell, klass, what

    def at(self, cell: int) -> "CellError":
        """The same of a cell that is counted in another batch."""
        return CellError(cell, self.klass, self._what)


def close(
    logits: ArrayLike, area: ArrayLike, totals: ArrayLike, allowed: NDArray[np.bool_] | None = None
) -> tuple[Floats, Floats]:
    """Fractions closest to softmax(logits) that meet the totals of every coarse cell.

    logits (C, K, n) float32 or float64; area (C, n) float64, m2, 0 where a pixel is not land; totals (C, K) float64,
    fractions of the cell's land that sum to 1. Returns the fractions (C, K, n) float64, 0 off land, and the residual
    sum_i a_i p_ik / sum_i a_i - F_k (C, K) float64, 0 for cells without land. A class with total 0 is exactly 0, a
    single class left exactly 1. Where allowed (C, K, n) is False a pixel's class is exactly 0 too; every pixel must be
    left a class, and the totals a solution. Raises CellError for the first cell that has a logit or total that is not
    usable, or that did not converge.
    """
    z, a, f = np.asarray(logits), np.asarray(area, np.float64), np.asarray(totals, np.float64)
    _refuse_unusable(z, a, f)
    compiled = kernel.ready() and z.dtype == np.float32
    fractions, residual = (_close_compiled if compiled else _close_numpy)(z, a, f, allowed)
    refuse_stuck(residual, f)
    return fractions, residual


def refuse_stuck(residual: Floats, totals: Floats) -> None:
    """Raise CellError for the first of cells (C, K) that misses a total."""
    stuck = np.argwhere(np.abs(residual) > PROMISE)
    if stuck.size:
        cell, klass = (int(i) for i in stuck[0])
        raise CellError(
            cell,
            klass,
            f"the total {totals[cell, klass]:.17g} is missed by {residual[cell, klass]:.3g} of the land after "
            f"{MAX_ITERATIONS} iterations, {PROMISE:g} is allowed; look at the logits of this cell",
        )


def _close_compiled(z: NDArray, a: Floats, f: Floats, allowed: NDArray[np.bool_] | None) -> tuple[Floats, Floats]:
    land = a > 0
    first, at = _ragged(land, classes=z.shape[1])
    fractions, may = np.zeros(z.shape), None if allowed is None else np.ascontiguousarray(allowed).view(np.uint8)
    z, f, pixels = np.ascontiguousarray(z), np.ascontiguousarray(f), z.shape[2]
    residual, _ = kernel.close(first, a[land], z, at, pixels, may, f, fractions, at, pixels)
    return fractions, residual


def _ragged(land: NDArray[np.bool_], classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the land pixels of each cell begin in a list of them, (C + 1,), and their places in (C, classes, n)."""
    cell, pixel = np.nonzero(land)
    first = np.zeros(len(land) + 1, np.int64)
    np.cumsum(land.sum(1), out=first[1:])
    return first, cell * (classes * land.shape[1]) + pixel


def _close_numpy(z: NDArray, a: Floats, f: Floats, allowed: NDArray[np.bool_] | None) -> tuple[Floats, Floats]:
    fractions, residual = np.zeros(z.shape), np.zeros(f.shape)
    land = a > 0
    has_land = land.any(1, keepdims=True)
    weight = a / np.where(has_land, a.sum(1, keepdims=True), 1.0)
    for cells, classes in alike(np.where(has_land, f, 0.0)):
        at = cells[:, None], classes
        wanted = (f[at] / f[at].sum(1, keepdims=True)).T
        e = _exponentials(z[at], land[cells], may=None if allowed is None else allowed[at])
        p, left = newton(e, weight[cells], wanted)
        fractions[at] = (p * land[cells]).swapaxes(0, 1)
        residual[at] = (left + (wanted - f[at].T)).T
    return fractions, residual


def means(logits: ArrayLike, area: ArrayLike) -> Floats:
    """Area-weighted means (C, K) over the land of each coarse cell of softmax(logits); arrays as in `close`."""
    z, a = np.asarray(logits), np.asarray(area, np.float64)
    out, land = np.empty(z.shape[:2]), a > 0
    for start in range(0, len(z), step := max(1, BATCH // z.shape[1])):
        some = slice(start, start + step)
        e = _exponentials(z[some], land[some], -np.inf)
        weight = a[some] / a[some].sum(1, keepdims=True)
        out[some] = np.einsum("kcn,cn->kc", e / over_classes(np.add, e), weight).T
    return out


def alike(amounts: NDArray, batch: int = BATCH) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Cells (c,) with the same number k of classes above 0 in amounts (C, K), and these (c, k), the largest first.

    At most `batch` classes times cells at a time."""
    largest_first = np.argsort(-amounts, axis=1, kind="stable")
    count = (amounts > 0).sum(1)
    for k in range(1, amounts.shape[1] + 1):
        cells = np.flatnonzero(count == k)
        for start in range(0, cells.size, max(1, batch // k)):
            part = cells[start : start + max(1, batch // k)]
            yield part, largest_first[part, :k]


def _exponentials(
    z: NDArray, land: NDArray[np.bool_], deepest: float = DEEPEST_LOGIT, may: NDArray[np.bool_] | None = None
) -> Floats:
    """exp(z - max z) of logits (c, k, n) as (k, c, n), with `deepest` as floor and any number off land.

    The largest is that of the classes that a pixel may have, where `may` (c, k, n) says; the others are 0.
    """
    e = np.where(land, z.swapaxes(0, 1), 0.0).astype(np.float64, copy=False)
    others = None if may is None else ~may.swapaxes(0, 1) & land
    if others is not None:
        e[others] = -np.inf
    e -= over_classes(np.maximum, e)
    np.maximum(e, deepest, out=e)
    np.exp(e, out=e)
    if others is not None:
        e[others] = 0.0
    return e


def newton(e: Floats, weight: Floats, f: Floats) -> tuple[Floats, Floats]:
    """Fractions p = a e / sum a e and their residual, (k, c, n) and (k, c), from weights (c, n) and totals f > 0.

    Each pass judges a trial b = log a of every open cell, then makes the next Newton step from it or halves the last.
    """
    p_all, left_all = np.empty_like(e), np.empty_like(f)
    cell = np.arange(f.shape[1])
    mean = np.einsum("kcn,cn->kc", e / over_classes(np.add, e), weight)
    trial = np.log(f / mean)
    base, step, dual = trial, np.zeros_like(f), np.full(f.shape[1], np.inf)
    for iteration in range(1, MAX_ITERATIONS + 1):
        p = e * np.exp(trial)[:, :, None]
        total = over_classes(np.add, p)
        p /= total
        left = np.einsum("kcn,cn->kc", p, weight) - f
        done = (np.abs(left).max(0) <= TOLERANCE) | (iteration == MAX_ITERATIONS)
        if done.any():
            p_all[:, cell[done]], left_all[:, cell[done]] = p[:, done], left[:, done]
            if done.all():
                break
            go = ~done
            e, p = e[:, go], p[:, go]
            cell, weight, total, dual = cell[go], weight[go], total[go], dual[go]
            f, left, trial, base, step = f[:, go], left[:, go], trial[:, go], base[:, go], step[:, go]
        value = np.einsum("cn,cn->c", weight, np.log(total)) - np.einsum("kc,kc->c", f, trial)
        fell = value <= dual + SLACK * (1 + np.abs(dual))
        base, dual = np.where(fell, trial, base), np.where(fell, value, dual)
        step = np.where(fell, _newton_step(p, weight, left, f), 0.5 * step)
        trial = base + step
    return p_all, left_all


def _newton_step(p: Floats, weight: Floats, left: Floats, f: Floats) -> Floats:
    """-H^-1 residual (k, c) with the first class held, scaled so that no entry is longer than LONGEST_STEP."""
    k = f.shape[0] - 1
    weighted = p[1:] * weight
    system = np.empty((k, k + 1, f.shape[1]))
    for i, j in itertools.combinations_with_replacement(range(k), 2):
        system[i, j] = system[j, i] = -np.einsum("cn,cn->c", weighted[i], p[1 + j])
    for i in range(k):
        system[i, i] += left[1 + i] + f[1 + i] * (1 + DAMPING)
    system[:, k] = -left[1:]
    step = np.zeros_like(f)
    step[1:] = _eliminate(system)
    longest = np.abs(step).max(0)
    return step * (LONGEST_STEP / np.maximum(longest, LONGEST_STEP))


def _eliminate(system: Floats) -> Floats:
    """Solutions (k, c) of the positive definite systems (k, k + 1, c), the right-hand side last, by Gauss and Jordan.

    No pivoting is needed there, and unlike LAPACK the order of operations does not depend on size or alignment.
    """
    k = system.shape[0]
    for j in range(k):
        row = system[j] / np.maximum(system[j, j], np.finfo(np.float64).tiny)
        system -= system[:, j, None] * row
        system[j] = row
    return system[:, k]


def over_classes(combine: np.ufunc, x: Floats) -> Floats:
    """The classes of (k, c, n) combined one after another: (c, n)."""
    result = x[0].copy()
    for layer in x[1:]:
        combine(result, layer, out=result)
    return result


def quota(fractions: Floats, land: NDArray[np.bool_], cell_id: NDArray[np.int64], totals: Floats) -> NDArray[np.uint8]:
    """Class map (C, n), 1..K and 0 off land, with the counts the totals ask for in every coarse cell.

    fractions (C, K, n); land (C, n); cell_id (C, n) global fine ids; totals (C, K). Of n land pixels class k gets
    floor or ceil of n F_k: the pixels left over go to the largest remainders, the lower class first among equals.
    Which pixels: from a map drawn with these counts, pairs of classes share their pixels anew, each pixel to the class
    it is likelier in, until no exchange of two pixels raises the expected number of right pixels. Equals go in the
    order of a hash of the cell id. Raises CellError where the totals of a cell with land do not sum to 1.
    """
    wanted = np.ascontiguousarray(_counts(totals, land.sum(1)))
    if not kernel.ready():
        return _quota_numpy(fractions, land, cell_id, wanted)
    first, at = _ragged(land, classes=totals.shape[1])
    result = np.zeros(land.shape, np.uint8)
    p = np.ascontiguousarray(fractions, np.float64)
    result[land] = kernel.quota(first, p, at, land.shape[1], cell_id[land].astype(np.int64, copy=False), wanted)
    return result


def _quota_numpy(
    fractions: Floats, land: NDArray[np.bool_], cell_id: NDArray[np.int64], wanted: NDArray[np.int64]
) -> NDArray[np.uint8]:
    draw = _splitmix64(cell_id)
    result = np.zeros(land.shape, np.uint8)
    for cells, classes in alike(wanted):
        p = np.ascontiguousarray(fractions[cells[:, None], classes].swapaxes(0, 1))
        place = _share_out(p, wanted[cells[:, None], classes].T, land[cells], draw[cells])
        names = np.pad(classes + 1, ((0, 0), (0, 1))).astype(np.uint8)
        result[cells] = np.take_along_axis(names, place, axis=1)
    return result


def _counts(totals: Floats, pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels of each class (C, K) by largest remainder, of `pixels` (C,) in all."""
    exact = np.where(pixels[:, None] > 0, totals * pixels[:, None], 0.0)
    wrong = np.flatnonzero(~(np.abs(exact.sum(1) - pixels) <= WHOLE * np.maximum(pixels, 1)))
    if wrong.size:
        cell = int(wrong[0])
        raise CellError(cell, 0, f"totals that sum to 1 are expected, the sum is {totals[cell].sum():.15g}")
    return kernel.counts(totals, pixels, WHOLE) if kernel.ready() else _counts_numpy(exact, pixels)


def _counts_numpy(exact: Floats, pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    counts = np.floor(exact + WHOLE).astype(np.int64)
    left = pixels - counts.sum(1)
    ranked = np.argsort(counts - exact, axis=1, kind="stable")
    extra = (np.arange(exact.shape[1]) < left[:, None]).astype(np.int64)
    np.put_along_axis(counts, ranked, np.take_along_axis(counts, ranked, axis=1) + extra, axis=1)
    return counts


def _share_out(
    p: Floats, counts: NDArray[np.int64], land: NDArray[np.bool_], draw: NDArray[np.uint64]
) -> NDArray[np.int8]:
    """Place 0..k-1 of the class of each pixel (c, n), k off land, from p (k, c, n) and counts (k, c), all above 0."""
    k = len(p)
    place = np.where(land, 0, k).astype(np.int8)
    for j in range(1, k):
        place[smallest(np.where(place == 0, 0.0, np.inf), draw, counts[j])] = j
    exchange(place, p, counts, draw)
    return place


def exchange(place: NDArray[np.int8], p: Floats, counts: NDArray[np.int64], draw: NDArray[np.uint64]) -> None:
    """Swap the places of pixels, pair of classes after pair, while that raises the sum of their p; counts stay."""
    k = len(p)
    for _ in range(MAX_SWEEPS):
        settled = True
        for i, j in itertools.combinations(range(k), 2):
            prefers_j = p[j] - p[i]
            keenest = np.where(place == i, prefers_j, -np.inf).max(1)
            gain = np.flatnonzero(keenest > np.where(place == j, prefers_j, np.inf).min(1))
            if gain.size:
                settled = False
                now = place[gain]
                both = (now == i) | (now == j)
                to_i = smallest(np.where(both, prefers_j[gain], np.inf), draw[gain], counts[i, gain])
                now[both] = j
                now[to_i] = i
                place[gain] = now
        if settled:
            break


def smallest(key: Floats, draw: NDArray[np.uint64], count: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The `count` (c,) >= 1 smallest of each row of key (c, n), finite that far; among equal keys the smallest draw."""
    cut = np.take_along_axis(np.sort(key, axis=1), count[:, None] - 1, axis=1)
    chosen = key <= cut
    surplus = np.flatnonzero(chosen.sum(1) > count)
    if surplus.size:
        equal = key[surplus] == cut[surplus]
        chosen[surplus] &= ~equal
        missing = count[surplus] - chosen[surplus].sum(1)
        drawn = np.where(equal, draw[surplus], np.iinfo(np.uint64).max)
        last = np.take_along_axis(np.sort(drawn, axis=1), missing[:, None] - 1, axis=1)
        chosen[surplus] |= equal & (drawn <= last)
    return chosen


def _splitmix64(x: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): ids to bits that look drawn at random."""
    z = x.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _refuse_unusable(z: NDArray, area: Floats, totals: Floats) -> None:
    """Raise for arrays that do not fit, and for the first cell with land whose totals or logits cannot be closed."""
    if z.ndim != 3 or area.shape != (z.shape[0], z.shape[2]) or totals.shape != z.shape[:2]:
        raise ConstraintError(
            f"logits (C, K, n), area (C, n) and totals (C, K) are expected, got {z.shape}, {area.shape} and "
            f"{totals.shape}"
        )
    if not ((area >= 0) & np.isfinite(area)).all():
        raise ConstraintError("areas are expected to be finite and not negative, 0 where there is no land")
    land = area > 0
    has_land = land.any(1, keepdims=True)
    refuse_totals(totals, has_land)
    _refuse_first(~np.isfinite(z) & land[:, None], z, "the network gave a logit that is not finite:")


def refuse_totals(totals: Floats, has_land: ArrayLike = True) -> None:
    """Raise CellError for the first of cells (C, K) whose totals are no fractions that sum to 1; has_land (C, 1)."""
    total, land = np.broadcast_to(totals.sum(1, keepdims=True), totals.shape), np.asarray(has_land, bool)
    _refuse_first(~((totals >= 0) & np.isfinite(totals)) & land, totals, "a total in 0..1 is expected, got")
    _refuse_first((np.abs(total - 1) > PROMISE / 2) & land, total, "totals that sum to 1 are expected, the sum is")


def _refuse_first(bad: NDArray[np.bool_], value: NDArray, what: str) -> None:
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise CellError(first[0], first[1], f"{what} {value[first]:.15g}")
