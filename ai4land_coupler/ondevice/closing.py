"""The closing and the quota of `constraint.py` on any torch device, without a look at a result until all is done.

The problem and its solution are those of `constraint.py`. What differs is how the loops end: here each takes a fixed
number of passes in which finished cells stay as they are, so that nothing has to be asked of the device on the way,
and says in the end which cells are still open; those go to the solver there. Nothing is scattered or added up by
atomics: every result is elementwise, a gather, or a sum along one axis. Has not yet run on a GPU.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ai4land_coupler import constraint
from ai4land_coupler.constraint import DAMPING, DEEPEST_LOGIT, LONGEST_STEP, PROMISE, SLACK, TOLERANCE

PASSES = 8
"""Trials of a cell; on real maps the last one that needs it needs 6."""
SWEEPS = 4
"""Sweeps over the pairs of classes, the last of which is to find nothing left to exchange."""


@dataclass(frozen=True, eq=False)
class Closed:
    """Fractions (C, K, n) float64, residual (C, K) float64 as shares of the land, and the cells still open (C,)."""

    fractions: Tensor
    residual: Tensor
    open: Tensor


@dataclass(frozen=True, eq=False)
class Places:
    """Where the pixels of C coarse cells stand when they are drawn: what of a quota does not change with the year.

    order (C, n) int16: pixels in order of the hash of their ids, those off land last; back (C, n) int16: its inverse;
    pixels (C,) int64: on land.
    """

    order: Tensor
    back: Tensor
    pixels: Tensor

    @classmethod
    def of(cls, land: NDArray[np.bool_], cell_id: NDArray[np.int64], device: torch.device) -> "Places":
        """From the land (C, n) and the global ids (C, n) of its pixels."""
        drawn = np.where(land, constraint._splitmix64(cell_id), 0)
        order = np.lexsort((drawn, ~land), axis=1)
        back = np.argsort(order, axis=1)
        parts = order.astype(np.int16), back.astype(np.int16), land.sum(1)
        return cls(*(torch.from_numpy(part).to(device) for part in parts))


def close(
    logits: ArrayLike, area: ArrayLike, totals: ArrayLike, device: torch.device | str = "cpu"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What `constraint.close` returns for the same arrays, by the device; raises CellError as it does."""
    z, a, f = np.asarray(logits), np.asarray(area, np.float64), np.asarray(totals, np.float64)
    if z.ndim != 3 or a.shape != (len(z), z.shape[2]) or f.shape != z.shape[:2] or not len(z):
        return constraint.close(z, a, f)
    closed = solve(*(torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in (z, a, f)))
    fractions, residual = closed.fractions.cpu().numpy(), closed.residual.cpu().numpy()
    if closed.open.any():
        cells = np.flatnonzero(closed.open.cpu().numpy())
        fractions[cells], residual[cells] = close_open(cells, z[cells], a[cells], f[cells])
    return fractions, residual


def quota(
    fractions: NDArray[np.float64],
    land: NDArray[np.bool_],
    cell_id: NDArray[np.int64],
    totals: NDArray[np.float64],
    device: torch.device | str = "cpu",
) -> NDArray[np.uint8]:
    """What `constraint.quota` returns for the same arrays, by the device; raises CellError as it does."""
    wanted, device = constraint._counts(totals, land.sum(1)), torch.device(device)
    places = Places.of(land, cell_id, device)
    on_device = [torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in (fractions, wanted)]
    classes, unsettled = (part.cpu().numpy() for part in draw(on_device[0], places, on_device[1]))
    cells = np.flatnonzero(unsettled)
    if cells.size:
        classes[cells] = constraint.quota(fractions[cells], land[cells], cell_id[cells], totals[cells])
    return classes


def close_open(
    cells: NDArray[np.intp], logits: NDArray, area: NDArray[np.float64], totals: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`constraint.close` of the cells (c,) of a batch that a device left open; CellError counts cells in the batch."""
    try:
        return constraint.close(logits, area, totals)
    except constraint.CellError as error:
        raise error.at(int(cells[error.cell])) from error


def solve(logits: Tensor, area: Tensor, totals: Tensor) -> Closed:
    """Fractions closest to softmax(logits) that meet the totals, of the cells where PASSES are enough.

    logits (C, K, n) float32 or float64; area (C, n) float64, m2, 0 off land; totals (C, K) float64, which sum to 1 in
    cells with land. A cell whose totals or logits are not usable is left open too. Nothing is asked of the device.
    """
    land = area > 0
    has_land = land.any(1, keepdim=True)
    f = torch.where(has_land, totals, 0.0)
    sound = ((totals >= 0) & ((totals.sum(1, keepdim=True) - 1).abs() <= PROMISE / 2)).all(1)
    sound &= (torch.isfinite(logits) | ~land[:, None]).flatten(1).all(1) & torch.isfinite(area).all(1)
    weight = area / torch.where(has_land, area.sum(1, keepdim=True), 1.0)
    present = f > 0
    target = torch.where(present, f / f.sum(1, keepdim=True), 0.0)
    e = _exponentials(logits, land, present)
    p, left = _newton(e, weight, target, present)
    p = p * (land[:, None] & present[:, :, None])
    residual = torch.where(has_land, left + (target - f), 0.0)
    still = ~((left.abs().amax(1) <= TOLERANCE) & sound) & has_land[:, 0]
    return Closed(torch.where(has_land[:, :, None], p, 0.0), residual, still)


def _exponentials(z: Tensor, land: Tensor, present: Tensor) -> Tensor:
    """exp(z - max z) (C, K, n) of the classes present, the others 0; any number off land."""
    z = torch.where(land[:, None], z.double(), 0.0).masked_fill(~present[:, :, None], -torch.inf)
    z = (z - z.amax(1, keepdim=True)).clamp(min=DEEPEST_LOGIT).exp()
    return z * present[:, :, None]


def _newton(e: Tensor, weight: Tensor, f: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Fractions p = a e / sum a e (C, K, n) and their residual (C, K), from weights (C, n) and totals f (C, K).

    Each pass judges a trial b = log a of every cell, then makes the next Newton step from it or halves the last; the
    offset of the largest class is held. A cell that is closed keeps its b.
    """
    held = torch.zeros_like(present).scatter(1, f.argmax(1, keepdim=True), True)
    free = present & ~held
    mean = (e / e.sum(1, keepdim=True) * weight[:, None]).sum(2)
    trial = torch.where(present, torch.log(f / mean), 0.0)
    base, step, dual = trial, torch.zeros_like(f), torch.full_like(f[:, 0], torch.inf)
    for _ in range(PASSES - 1):
        p, total, left = _judged(e, weight, f, trial)
        done = left.abs().amax(1, keepdim=True) <= TOLERANCE
        value = (weight * torch.log(total)).sum(1) - (f * trial).sum(1)
        fell = (value <= dual + SLACK * (1 + dual.abs()))[:, None]
        base, dual = torch.where(fell, trial, base), torch.where(fell[:, 0], value, dual)
        step = torch.where(fell, _newton_step(p, weight, left, f, free), 0.5 * step)
        trial = torch.where(done, trial, base + step)
    p, _, left = _judged(e, weight, f, trial)
    return p, left


def _judged(e: Tensor, weight: Tensor, f: Tensor, trial: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fractions (C, K, n), their common divisor (C, n) and residual (C, K) of a trial (C, K)."""
    p = e * trial.exp()[:, :, None]
    total = p.sum(1)
    p = p / total[:, None]
    return p, total, (p * weight[:, None]).sum(2) - f


def _newton_step(p: Tensor, weight: Tensor, left: Tensor, f: Tensor, free: Tensor) -> Tensor:
    """-H^-1 residual (C, K) of the free classes, 0 of the others, scaled so that no entry exceeds LONGEST_STEP."""
    weighted = p * weight[:, None]
    hessian = -torch.stack([(weighted[:, i, None] * p).sum(2) for i in range(p.shape[1])], dim=1)
    hessian = hessian + torch.diag_embed(left + f * (1 + DAMPING))
    unit = torch.eye(p.shape[1], dtype=p.dtype, device=p.device)
    system = torch.where(free[:, :, None] & free[:, None, :], hessian, unit)
    step = _eliminate(torch.cat([system, torch.where(free, -left, 0.0)[:, :, None]], dim=2))
    return step * (LONGEST_STEP / step.abs().amax(1, keepdim=True).clamp(min=LONGEST_STEP))


def _eliminate(system: Tensor) -> Tensor:
    """Solutions (C, K) of positive definite systems (C, K, K + 1), the right-hand side last, by Gauss and Jordan."""
    k, tiny = system.shape[1], torch.finfo(system.dtype).tiny
    for j in range(k):
        row = system[:, j] / system[:, j, j, None].clamp(min=tiny)
        system = system - system[:, :, j, None] * row[:, None]
        system[:, j] = row
    return system[:, :, k]


def draw(fractions: Tensor, places: Places, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Class map (C, n) uint8, 0 off land, with the counts (C, K) int64, and the cells (C,) it is not settled in.

    fractions (C, K, n). The map of a settled cell is that of `constraint.quota` from the same fractions. Pixels are
    kept in the order they are drawn in, so that a stable sort takes the first drawn of equals.
    """
    most_first = torch.argsort(counts, dim=1, descending=True, stable=True)
    counts = counts.gather(1, most_first)
    order = places.order.long()[:, None].expand_as(fractions)
    p = fractions.gather(1, most_first[:, :, None].expand_as(fractions)).gather(2, order)
    place = _first_places(counts, places.pixels, order.shape[2])
    moved = torch.zeros_like(counts[:, 0], dtype=torch.bool)
    for _ in range(SWEEPS):
        moved = torch.zeros_like(moved)
        for i, j in itertools.combinations(range(counts.shape[1]), 2):
            place, gain = _exchanged(place, p, counts, i, j)
            moved = moved | gain
    names = torch.cat([most_first + 1, torch.zeros_like(most_first[:, :1])], dim=1)
    return names.gather(1, place).gather(1, places.back.long()).to(torch.uint8), moved


def _first_places(counts: Tensor, pixels: Tensor, n: int) -> Tensor:
    """Place (C, n) of each pixel in the order drawn: 1.. as counts (C, K) say, the rest of the land 0, K off land."""
    k, rank = counts.shape[1], torch.arange(n, device=counts.device)
    edges = counts[:, 1:].cumsum(1)
    passed = (rank >= edges[:, :, None]).sum(1)
    return torch.where(rank < pixels[:, None], torch.where(passed == k - 1, 0, passed + 1), k)


def _exchanged(place: Tensor, p: Tensor, counts: Tensor, i: int, j: int) -> tuple[Tensor, Tensor]:
    """Places (C, n) after the pixels of two classes are shared out anew, and where that gains anything (C,)."""
    prefers_j = p[:, j] - p[:, i]
    of_i, of_j = place == i, place == j
    keenest = torch.where(of_i, prefers_j, -torch.inf).amax(1)
    gain = keenest > torch.where(of_j, prefers_j, torch.inf).amin(1)
    to_i = _smallest(torch.where(of_i | of_j, prefers_j, torch.inf), counts[:, i])
    shared = torch.where(to_i, i, j)
    return torch.where((of_i | of_j) & gain[:, None], shared, place), gain


def _smallest(key: Tensor, count: Tensor) -> Tensor:
    """The `count` (C,) smallest of each row of key (C, n), the first ones among equals; any where count is 0."""
    ranked = torch.sort(key, dim=1, stable=True).values
    cut = ranked.gather(1, (count - 1).clamp(min=0)[:, None])
    below, equal = key < cut, key == cut
    missing = count - below.sum(1)
    return below | (equal & (equal.cumsum(1) <= missing[:, None]))
