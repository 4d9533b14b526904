"""A batch through the network, year after year: inputs, closed loss, the map the next year is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ai4land_coupler.training.fit.closing import closed_cross_entropy, from_cells, sharp_map, to_cells
from ai4land_coupler.training.fit.samples import Batch

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Year:
    """One year of a batch: its loss, a mean over the crops; the sums named closing.SCORES; log of the closed fractions
    (C, K, n) of the cells `index` (C,) in the order of `to_cells`."""

    loss: Tensor
    scores: Tensor
    log_p: Tensor
    index: Tensor


@dataclass(frozen=True)
class View:
    """A batch and what follows from its shape."""

    batch: Batch
    classes: int

    @property
    def years(self) -> int:
        """Years that are predicted."""
        return self.batch.totals.shape[1]

    @property
    def has_prior(self) -> bool:
        """Whether the year before the first is there."""
        return self.batch.classes.shape[1] > self.years

    @property
    def margin(self) -> int:
        """Fine cells around the interior."""
        return (self.batch.classes.shape[-1] - self.batch.trained.shape[-1]) // 2

    @property
    def inner(self) -> slice:
        """The interior along a row or column."""
        return slice(self.margin, self.batch.classes.shape[-1] - self.margin)

    def target(self, t: int) -> Tensor:
        """Observed classes of the interior (B, M, M)."""
        return self.batch.classes[:, t + int(self.has_prior), self.inner, self.inner]

    def totals(self, t: int) -> Tensor:
        """Totals of the interior's coarse cells (B n n, K)."""
        rim = -(-self.margin // self.batch.size)
        side = self.batch.totals.shape[-1]
        inner = self.batch.totals[:, t, :, rim : side - rim, rim : side - rim]
        return inner.flatten(2).transpose(1, 2).reshape(-1, self.classes)

    def coarse(self, t: int) -> Tensor:
        """What the network is given of the coarse cells, spread over the fine ones of the crop, (B, K, N, N)."""
        size, edge = self.batch.size, self.batch.classes.shape[-1]
        given = self.batch.states if self.batch.states.numel() else self.batch.totals
        fine = F.interpolate(given[:, t], scale_factor=float(size))
        skip = -(-self.margin // size) * size - self.margin
        return fine[:, :, skip : skip + edge, skip : skip + edge]

    def inputs(self, t: int, prior: Tensor | None) -> Tensor:
        """Input channels of year t (B, C, N, N); prior (B, N, N) classes 0..K, 0 where not known."""
        shift, kept = self.batch.shift[..., None, None], self.batch.kept[..., None, None]
        parts = [(self.batch.static.float() + shift) * kept]
        if self.batch.climate.numel():
            parts.append(self.batch.climate[:, None].float())
        parts.append(self.coarse(t))
        if prior is not None:
            parts.append(one_hot(prior, self.classes))
        return torch.cat(parts, dim=1)


def one_hot(classes: Tensor, number: int) -> Tensor:
    """Return (B, number, N, N) float32 of classes (B, N, N) 1..number; 0 is no class."""
    names = torch.arange(1, number + 1, dtype=classes.dtype, device=classes.device)
    return (classes[:, None] == names[:, None, None]).float()


def years(
    net: Network,
    batch: Batch,
    classes: int,
    autocast: Callable[[], AbstractContextManager[object]],
    choose: Callable[[View, int, Year], Tensor] | None = None,
) -> Iterator[Year]:
    """Yield year after year of a batch.

    Each year's graph is its own, so that backward may be called before the next one: the map that a year hands on has
    no gradient. Where a later year is not given the observed map of the year before, it is given the network's own in
    the interior, and around it what the year before was given. choose: what makes that map of (view, t, year) after
    every year, (B, M, M); without it `own_map`, where a next year is to be given it.
    """
    view = View(batch, classes)
    prior = batch.classes[:, 0] * batch.known[:, None, None] if view.has_prior else None
    for t in range(view.years):
        if prior is not None and t > 0:
            given = batch.teacher[:, t, None, None]
            prior = torch.where(given, batch.classes[:, t], prior)
        with autocast():
            logits = net(view.inputs(t, prior))
        year = _score(view, t, logits[:, :, view.inner, view.inner])
        yield year
        if prior is not None and (choose is not None or t + 1 < view.years):
            prior = prior.clone()
            prior[:, view.inner, view.inner] = (choose or own_map)(view, t, year)


def _score(view: View, t: int, logits: Tensor) -> Year:
    batch, target, index = view.batch, view.target(t), view.batch.cells[t]
    size, crops = batch.size, len(batch.trained)
    area = ((target > 0) * batch.area[:, :, None]).to(logits.dtype)

    def cells(values: Tensor) -> Tensor:
        return to_cells(values, size)[index]

    weights = to_cells((area * batch.trained)[:, None], size)[:, 0]
    mixed = weights.new_zeros(len(weights), 1).index_fill_(0, index, 1.0)
    per_crop = (weights * mixed).reshape(crops, -1).sum(1)
    scale = 1 / (per_crop.clamp(min=1e-6) * crops)
    weight = weights[index] * scale.repeat_interleave(len(weights) // crops)[index, None]
    labels = cells(target[:, None])[:, 0]
    loss, scores, log_p = closed_cross_entropy(
        cells(logits), labels, weight, cells(area[:, None])[:, 0], view.totals(t)[index].to(logits.dtype)
    )
    return Year(loss, scores, log_p, index)


def own_map(view: View, t: int, year: Year) -> Tensor:
    """Return the network's class map of the interior (B, M, M): one class a cell where the totals have one."""
    batch, target = view.batch, view.target(t)
    crops, totals = len(batch.trained), view.totals(t)
    cells = (totals.argmax(1) + 1)[:, None].repeat(1, batch.size**2)
    area = to_cells(((target > 0) * batch.area[:, :, None])[:, None], batch.size)[:, 0]
    cells[year.index] = sharp_map(
        year.log_p.detach().exp(), area[year.index].to(year.log_p.dtype), totals[year.index].to(year.log_p.dtype)
    )
    classes = from_cells(cells[:, None], crops, batch.size)[:, 0]
    return torch.where(target > 0, classes, 0).to(target.dtype)
