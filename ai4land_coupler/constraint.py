"""Closing of the totals: the fractions closest to the network's that meet every total, and the map drawn from them.

Among all fractions p of a coarse cell with  sum_i w_i p_ik = F_k  the one closest to softmax(z) in area-weighted
Kullback-Leibler divergence is p = softmax(z + b), with one offset b_k a class (Csiszar 1975, I-projection).
b minimises the convex dual  D(b) = sum_i w_i log sum_k exp(z_ik + b_k) - sum_k F_k b_k,  whose gradient is the
residual  sum_i w_i p_ik - F_k  and whose Hessian is  sum_i w_i (diag p_i - p_i p_i^T).

Every operation is elementwise over coarse cells or a sum inside one, so the bits of a cell depend on that cell alone.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ai4land_coupler.errors import ConstraintError

TOLERANCE = 1e-13
"""Largest residual a cell stops at, as a fraction of its land."""
MAX_ITERATIONS = 100
DEEPEST_LOGIT = -20.0
"""Logits further below the largest of their pixel count as this, so that an offset can still lift the class."""
LONGEST_STEP = 4.0
DAMPING = 1e-14
"""Levenberg term, as a fraction of F_k, the size of the diagonal; the dtype's epsilon where that is larger."""
PROMISE = 1e-12
"""Largest residual handed out, as a fraction of the land; half of it may come from totals that do not sum to 1."""
BATCH = 2048
"""Classes times coarse cells solved at a time on a CPU: what they need at 100 pixels stays in its cache."""


WHOLE = 1e-9
"""A number of pixels this little below a whole one counts as whole."""
MAX_SWEEPS = 8
"""Sweeps over the pairs of classes; on real maps the third changes fewer than 1 cell in 100."""


class CellError(ConstraintError):
    """A coarse cell that cannot be closed; `cell` is its 0-based place in the batch, `klass` the 0-based class."""

    def __init__(self, cell: int, klass: int, what: str) -> None:
        super().__init__(f"coarse cell {cell} of the batch, class {klass + 1}: {what}")
        self.cell, self.klass = cell, klass


class Closed(NamedTuple):
    """What the solver returns: offset b and residual (C, K), fractions (C, K, n)."""

    offset: Tensor
    fractions: Tensor
    residual: Tensor


def close(logits: ArrayLike, area: ArrayLike, totals: ArrayLike) -> tuple[NDArray, NDArray]:
    """Fractions closest to softmax(logits) that meet the totals of every coarse cell.

    logits (C, K, n) float32 or float64; area (C, n) float64, m2, 0 where a pixel is not land; totals (C, K) float64,
    fractions of the cell's land that sum to 1. Returns the fractions (C, K, n) float64, 0 off land, and the residual
    sum_i a_i p_ik / sum_i a_i - F_k (C, K) float64, 0 for cells without land. A class with total 0 is exactly 0, a
    single class left exactly 1. Raises CellError for the first cell that has a logit or total that is not usable, or
    that did not converge.
    """
    z = torch.as_tensor(np.asarray(logits))
    a = torch.as_tensor(np.asarray(area, dtype=np.float64))
    f = torch.as_tensor(np.asarray(totals, dtype=np.float64))
    _refuse_unusable(z, a, f)
    fractions = np.zeros(tuple(z.shape))
    residual = np.zeros(tuple(f.shape))
    land = torch.nonzero(a.sum(1) > 0)[:, 0]
    closed = solve_offset(z[land].to(torch.float64), a[land], f[land])
    fractions[land.numpy()] = closed.fractions.numpy()
    residual[land.numpy()] = closed.residual.numpy()
    stuck = torch.nonzero(closed.residual.abs() > PROMISE)
    if stuck.numel():
        at, klass = (int(i) for i in stuck[0])
        cell, left = int(land[at]), float(closed.residual[at, klass])
        raise CellError(
            cell,
            klass,
            f"the total {float(f[cell, klass]):.17g} is missed by {left:.3g} of the land after {MAX_ITERATIONS} "
            f"iterations, {PROMISE:g} is allowed; look at the logits of this cell",
        )
    return fractions, residual


@torch.no_grad()
def solve_offset(
    logits: Tensor, area: Tensor, totals: Tensor, tolerance: float = TOLERANCE, iterations: int = MAX_ITERATIONS
) -> Closed:
    """Offset b (C, K) with which softmax(logits + b) meets the totals; on any device, in the dtype of the logits.

    logits (C, K, n); area (C, n) of any unit, 0 where not land, with some land in every cell; totals (C, K) that sum
    to 1. b is -inf for a class of total 0 and 0 for the largest class. A cell stops as soon as its largest residual is
    at most `tolerance`, whatever its neighbours do; one that does not within `iterations` is returned as it stands, its
    residual says so. In training softmax(logits + b) with b held constant has the exact gradient of the area-weighted
    cross entropy where the labels meet the totals: the loss is then stationary in b.
    """
    weight, f = area.to(logits.dtype), totals.to(logits.dtype)
    weight = weight / weight.sum(1, keepdim=True)
    largest_first = torch.argsort(f, dim=1, descending=True, stable=True)
    count = (f > 0).sum(1)
    closed = Closed(torch.full_like(f, -torch.inf), torch.zeros_like(logits), torch.zeros_like(f))
    for k in torch.unique(count).tolist():
        cells = torch.nonzero(count == k)[:, 0]
        for part in torch.split(cells, max(1, BATCH // k) if logits.device.type == "cpu" else len(cells)):
            at = (part[:, None], largest_first[part, :k])
            w, target = weight[part], f[at] / f[at].sum(1, keepdim=True)
            z = logits[at].masked_fill_(w[:, None] == 0, 0)
            z.sub_(_over_classes(torch.maximum, z)[:, None]).clamp_(min=DEEPEST_LOGIT)
            solved = _newton(z.exp_(), w, target, tolerance, iterations)
            closed.offset[at] = solved.offset - solved.offset[:, :1]
            closed.fractions[at] = solved.fractions.masked_fill_(w[:, None] == 0, 0)
            closed.residual[at] = solved.residual + (target - f[at])
    return closed


def _newton(e: Tensor, weight: Tensor, f: Tensor, tolerance: float, iterations: int) -> Closed:
    """Each pass judges a trial offset of every open cell, then makes the next Newton step from it or halves the last.

    e (C, k, n) = exp(z), weight (C, n) sums to 1, f (C, k) all above 0.
    """
    out = Closed(torch.empty_like(f), torch.empty_like(e), torch.empty_like(f))
    slack = 16 * torch.finfo(e.dtype).eps
    cell = torch.arange(e.shape[0], device=e.device)
    p = e / _over_classes(torch.add, e)[:, None]
    trial = torch.log(f / (p * weight[:, None]).sum(2))
    base, step, dual = trial, torch.zeros_like(trial), torch.full_like(trial[:, 0], torch.inf)
    for iteration in range(1, iterations + 1):
        p = e * trial.exp()[:, :, None]
        total = _over_classes(torch.add, p)
        p.div_(total[:, None])
        gradient = (p * weight[:, None]).sum(2) - f
        value = (weight * total.log_()).sum(1) - (f * trial).sum(1)
        done = (gradient.abs().amax(1) <= tolerance) | (iteration == iterations)
        if done.any():
            at = cell[done]
            out.offset[at], out.fractions[at], out.residual[at] = trial[done], p[done], gradient[done]
            if done.all():
                break
            go = torch.nonzero(~done)[:, 0]
            cell, e, weight, f, p, gradient, value, trial, base, step, dual = (
                x[go] for x in (cell, e, weight, f, p, gradient, value, trial, base, step, dual)
            )
        fell = (value <= dual + slack * (1 + dual.abs()))[:, None]
        base, dual = torch.where(fell, trial, base), torch.where(fell[:, 0], value, dual)
        step = torch.where(fell, _newton_step(p, weight, gradient, f), 0.5 * step)
        trial = base + step
    return out


def _newton_step(p: Tensor, weight: Tensor, gradient: Tensor, f: Tensor) -> Tensor:
    """-H^-1 gradient (C, k) with the first class held, scaled so that no entry is longer than LONGEST_STEP."""
    k = f.shape[1] - 1
    free = p[:, 1:]
    weighted = free * weight[:, None]
    system = torch.empty(f.shape[0], k, k + 1, dtype=f.dtype, device=f.device)
    for i in range(k):
        row = (weighted[:, i : i + 1] * free[:, i:]).sum(2).neg_()
        system[:, i, i:k] = row
        system[:, i:, i] = row
    damping = max(DAMPING, torch.finfo(f.dtype).eps / 16)
    system.diagonal(dim1=1, dim2=2).add_(gradient[:, 1:] + f[:, 1:] * (1 + damping))
    system[:, :, k] = -gradient[:, 1:]
    step = torch.zeros_like(f)
    step[:, 1:] = _eliminate(system)
    return step * (LONGEST_STEP / step.abs().amax(1, keepdim=True).clamp_(min=LONGEST_STEP))


def _eliminate(system: Tensor) -> Tensor:
    """Solutions (C, K) of the positive definite systems (C, K, K + 1), the right-hand side last, by Gauss and Jordan.

    No pivoting is needed there, and unlike LAPACK the order of operations does not depend on size or alignment.
    """
    k = system.shape[1]
    smallest = torch.finfo(system.dtype).tiny
    for j in range(k):
        row = system[:, j, :] / system[:, j, j].clamp(min=smallest)[:, None]
        system.sub_(system[:, :, j, None] * row[:, None, :])
        system[:, j, :] = row
    return system[:, :, k]


def _over_classes(combine: Callable[..., Tensor], x: Tensor) -> Tensor:
    """The classes of (C, K, n) combined one after another: (C, n)."""
    result = x[:, 0].clone()
    for k in range(1, x.shape[1]):
        combine(result, x[:, k], out=result)
    return result


def quota(
    fractions: NDArray[np.float64], land: NDArray[np.bool_], cell_id: NDArray[np.int64], totals: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Class map (C, n), 1..K and 0 off land, with the counts the totals ask for in every coarse cell.

    fractions (C, K, n); land (C, n); cell_id (C, n) global fine ids; totals (C, K). Of n land pixels class k gets
    floor or ceil of n F_k: the pixels left over go to the largest remainders, the lower class first among equals.
    Which pixels: from any map with these counts, pairs of classes share their pixels anew, each pixel to the class it
    is likelier in, until no exchange of two pixels raises the expected number of right pixels. Equal fractions go in
    the order of a hash of the cell id. Raises CellError where the totals of a cell with land do not sum to 1.
    """
    counts = _counts(totals, land.sum(1))
    draw = np.where(land, _splitmix64(cell_id) >> np.uint64(1), np.iinfo(np.uint64).max)
    pixels = np.argsort(draw, axis=1, kind="stable")
    frequent_first = np.argsort(-counts, axis=1, kind="stable")
    present = (counts > 0).sum(1)
    classes = np.zeros(land.shape, np.uint8)
    for k in range(1, totals.shape[1] + 1):
        cells = np.flatnonzero(present == k)
        kinds, order = frequent_first[cells, :k], pixels[cells]
        p = fractions[cells[:, None, None], kinds[:, :, None], order[:, None, :]]
        place = _share_out(p, counts[cells[:, None], kinds])
        names = np.pad(kinds + 1, ((0, 0), (0, 1))).astype(np.uint8)
        classes[cells[:, None], order] = np.take_along_axis(names, place, axis=1)
    return classes


def _counts(totals: NDArray[np.float64], pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels of each class (C, K) by largest remainder, of `pixels` (C,) in all."""
    exact = np.where(pixels[:, None] > 0, totals * pixels[:, None], 0.0)
    wrong = np.flatnonzero(~(np.abs(exact.sum(1) - pixels) <= WHOLE * np.maximum(pixels, 1)))
    if wrong.size:
        cell = int(wrong[0])
        raise CellError(cell, 0, f"totals that sum to 1 are expected, the sum is {totals[cell].sum():.15g}")
    counts = np.floor(exact + WHOLE).astype(np.int64)
    left = pixels - counts.sum(1)
    ranked = np.argsort(counts - exact, axis=1, kind="stable")
    extra = (np.arange(totals.shape[1]) < left[:, None]).astype(np.int64)
    np.put_along_axis(counts, ranked, np.take_along_axis(counts, ranked, axis=1) + extra, axis=1)
    return counts


def _share_out(p: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place 0..k-1 of the class of each pixel (C, n), k beyond the last counted one, from p (C, k, n)."""
    k, n = p.shape[1:]
    rank = np.arange(n)
    place = (rank >= counts.cumsum(1)[:, :, None]).sum(1)
    for _ in range(MAX_SWEEPS):
        settled = True
        for i, j in itertools.combinations(range(k), 2):
            prefers_j = p[:, j] - p[:, i]
            keenest = np.where(place == i, prefers_j, -np.inf).max(1)
            gain = np.flatnonzero(keenest > np.where(place == j, prefers_j, np.inf).min(1))
            if gain.size == 0:
                continue
            settled = False
            now, first, both = place[gain], counts[gain, i, None], counts[gain, i, None] + counts[gain, j, None]
            order = np.argsort(np.where((now == i) | (now == j), prefers_j[gain], np.inf), axis=1, kind="stable")
            others = np.take_along_axis(now, order, axis=1)
            np.put_along_axis(now, order, np.where(rank < first, i, np.where(rank < both, j, others)), axis=1)
            place[gain] = now
        if settled:
            break
    return place


def _splitmix64(x: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): ids to bits that look drawn at random."""
    z = x.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _refuse_unusable(z: Tensor, area: Tensor, totals: Tensor) -> None:
    """Raise for arrays that do not fit, and for the first cell with land whose totals or logits cannot be closed."""
    if z.ndim != 3 or area.shape != (z.shape[0], z.shape[2]) or totals.shape != tuple(z.shape[:2]):
        raise ConstraintError(
            f"logits (C, K, n), area (C, n) and totals (C, K) are expected, got {tuple(z.shape)}, "
            f"{tuple(area.shape)} and {tuple(totals.shape)}"
        )
    if not bool(((area >= 0) & torch.isfinite(area)).all()):
        raise ConstraintError("areas are expected to be finite and not negative, 0 where there is no land")
    land = area > 0
    has_land = land.any(1)[:, None]
    total = totals.sum(1, keepdim=True).expand_as(totals)
    usable = torch.isfinite(totals) & (totals >= 0)
    _refuse_first(~usable & has_land, totals, "a total in 0..1 is expected, got")
    _refuse_first(((total - 1).abs() > PROMISE / 2) & has_land, total, "totals that sum to 1 are expected, the sum is")
    _refuse_first(~torch.isfinite(z) & land[:, None], z, "the network gave a logit that is not finite:")


def _refuse_first(bad: Tensor, value: Tensor, what: str) -> None:
    where = torch.nonzero(bad)
    if where.numel():
        first = tuple(where[0].tolist())
        raise CellError(first[0], first[1], f"{what} {float(value[first]):.15g}")
