"""Scores of a run on what it never sees: withheld regions, years after those trained on."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from ai4land_coupler.constraint import quota
from ai4land_coupler.training.fit.closing import SCORES, to_cells
from ai4land_coupler.training.fit.crops import Rectangle
from ai4land_coupler.training.fit.samples import Batch, Samples
from ai4land_coupler.training.fit.team import Control
from ai4land_coupler.training.fit.unrolled import View, Year, years
from ai4land_coupler.training.scores.rollout import FALSE_ALARM, HIT, MISS, WRONG, outcome_map
from ai4land_coupler.unet import UNet

MOST = 64  #: crops that a validation looks at: those that cover the regions, or so many drawn alike each time


def validate(net: UNet, samples: Samples, device: torch.device, control: Control | None = None) -> dict[str, float]:
    """Return the mean scores of a folded network; coarse cells of the store's own size. Collective over `control`.

    loss, argmax, majority, drawn, random: as in training, area-weighted over mixed coarse cells, each year given the
    observed map of the year before. With several years also, over all land: `merit`, the figure of merit of the
    class map that ships (persistence has 0), `accuracy` and that of `persistence`; the same of the free rollout, which
    starts from the last map trained on and is given its own maps, as `free_merit`, `free_accuracy` and
    `free_persistence`, change counted from that map.
    """
    sums = np.zeros(len(SCORES))
    change = {"": np.zeros((2, 5)), "free_": np.zeros((2, 5))}
    targets = samples.years.validation
    for corner, box in _crops(samples)[samples.team.rank :: samples.team.size]:
        for t in targets:
            part, outcome = _crop(net, samples, corner, range(t, t + 1), box, device)
            sums += part
            change[""] += outcome
        if samples.prior and len(targets) > 1 and targets[-1] - targets[0] == len(targets) - 1:
            _, outcome = _crop(net, samples, corner, range(targets[0], targets[-1] + 1), box, device)
            change["free_"] += outcome
    if control is not None:
        sums, change = control.sum(sums), {name: control.sum(values) for name, values in change.items()}
    scores = {name: float(value / max(sums[0], 1e-30)) for name, value in zip(SCORES[1:], sums[1:], strict=True)}
    for name, (counts, right) in change.items():
        if samples.prior and counts.sum() > 0:
            acted = counts[[HIT, WRONG, MISS, FALSE_ALARM]].sum()
            scores[f"{name}merit"] = float(counts[HIT] / acted) if acted > 0 else 0.0
            scores[f"{name}accuracy"] = float(right[0] / counts.sum())
            scores[f"{name}persistence"] = float(counts[[0, FALSE_ALARM]].sum() / counts.sum())
    return scores


def _crops(samples: Samples) -> list[tuple[tuple[int, int], Rectangle | None]]:
    """Corners of interiors and the region each belongs to; without regions, crops of what is trained on."""
    crops = samples.crops
    inside = [(corner, box) for box in crops.withheld for corner in crops.covering(box)]
    if inside:
        return inside  # type: ignore[return-value]
    corners, probability = samples.origins
    drawn = np.random.default_rng(0).random(min(MOST, len(corners)))
    chosen = np.unique(np.searchsorted(probability, drawn, side="right"))
    return [((int(corners[i][0]), int(corners[i][1])), None) for i in chosen]


def _crop(
    net: UNet, samples: Samples, corner: tuple[int, int], span: range, box: Rectangle | None, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted sums named SCORES of the last year of a crop, and areas of its outcomes and right cells."""
    item = samples.item(*corner, span, 1)
    interior = samples.crops.shape.interior
    if box is not None:
        rows, cols = (np.arange(start, start + interior) for start in corner)
        item["trained"] = box.holds(rows, cols)
    item["teacher"][1:] = False
    batch = samples.join([item], 1)
    share = _mixed_area(batch, len(span) - 1, net.config.classes)
    maps: list[np.ndarray] = []

    def shipped(view: View, t: int, year: Year) -> Tensor:
        maps.append(_quota(view, t, year))
        return torch.from_numpy(maps[-1]).to(device)

    with torch.inference_mode():
        found = list(years(net, batch.to(device), net.config.classes, nullcontext, shipped if samples.prior else None))
    sums = found[-1].scores.cpu().numpy() * share
    return sums, _outcomes(batch, len(span) - 1, maps[-1][0]) if maps else np.zeros((2, 5))


def _mixed_area(batch: Batch, t: int, classes: int) -> float:
    """Area of the cells that count in a crop's loss."""
    view = View(batch, classes)
    weights = to_cells((((view.target(t) > 0) * batch.area[:, :, None]) * batch.trained)[:, None], batch.size)[:, 0]
    return float(weights[batch.cells[t]].sum())


def _quota(view: View, t: int, year: Year) -> np.ndarray:
    """The class map that ships (1, M, M), of one crop."""
    batch, target = view.batch, view.target(t)
    size, side = batch.size, target.shape[-1] // batch.size
    land = to_cells((target > 0)[:, None], size)[:, 0].cpu().numpy()
    totals = view.totals(t).cpu().numpy().astype(np.float64)
    some = totals.sum(1) > 0
    totals[some] /= totals[some].sum(1, keepdims=True)
    p = np.repeat(totals[:, :, None], size**2, axis=2)
    p[year.index.cpu().numpy()] = year.log_p.exp().double().cpu().numpy()
    ids = np.arange(land.size).reshape(land.shape)
    cells = quota(p, land & some[:, None], ids, totals)
    return cells.reshape(side, side, size, size).transpose(0, 2, 1, 3).reshape(1, side * size, side * size)


def _outcomes(batch: Batch, t: int, predicted: np.ndarray) -> np.ndarray:
    """Areas (2, 5) of the outcomes since the first map of a crop, and of the cells that are right."""
    margin = (batch.classes.shape[-1] - predicted.shape[-1]) // 2
    inner = slice(margin, margin + predicted.shape[-1])
    base, observed = (batch.classes[0, n, inner, inner].numpy() for n in (0, t + 1))
    outcome = outcome_map(base, observed, predicted)
    area = batch.trained[0].numpy() * batch.area[0].numpy()[:, None]
    counted = outcome < 5
    counts = np.bincount(outcome[counted], area[counted], 5)
    right = float((area * (counted & (observed == predicted))).sum())
    return np.stack([counts, np.array([right, 0, 0, 0, 0])])
