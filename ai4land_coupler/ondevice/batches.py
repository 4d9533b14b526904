"""The coarse cells of many tiles, closed and drawn on a device in batches of one shape.

Closing and drawing are some 4,000 operations, each of which takes the host as long to hand over for one cell as for
thousands. All batches of an emulator have one shape, so that the device goes the same way through each, and the bits of
a cell do not depend on those it shares a batch with.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ai4land_coupler.ondevice import closing
from ai4land_coupler.ondevice.closing import Places

VALUES = 2**23
"""Fractions at a time, of as many whole coarse cells; the last batch is filled up with cells without land."""


class Cells(NamedTuple):
    """Coarse cells (c,) of n pixels that the network was run for.

    logits (c, K, n) float32; area (c, n) float64, m2, 0 off land; wanted (c, K) float64, their totals; counts (c, K)
    int64, pixels of each class; order, back and pixels: of Places.
    """

    logits: Tensor
    area: Tensor
    wanted: Tensor
    counts: Tensor
    order: Tensor
    back: Tensor
    pixels: Tensor

    def batches(self) -> "Iterator[Cells]":
        """As many cells each as VALUES has room for, at least one batch."""
        cells, classes, n = self.logits.shape
        size = max(1, VALUES // (classes * n))

        def some(part: Tensor, start: int) -> Tensor:
            here = part[start : start + size]
            return torch.cat([here, here.new_zeros((size - len(here), *here.shape[1:]))])

        for start in range(0, max(cells, 1), size):
            yield Cells(*(some(part, start) for part in self))


class Drawn(NamedTuple):
    """Their fractions (c, K, n) float64, classes (c, n) uint8, residual (c, K) float64, and which are open (c,)."""

    fractions: Tensor
    classes: Tensor
    residual: Tensor
    open: Tensor


def means(logits: Tensor, area: Tensor) -> Tensor:
    """As `constraint.means` of logits (c, K, n) and area (c, n); NaN in cells with a logit that is not finite."""
    land = (area > 0)[:, None]
    weight = area / area.sum(1, keepdim=True)
    sound = (torch.isfinite(logits) | ~land).flatten(1).all(1, keepdim=True)
    mean = (torch.where(land, logits.double(), 0.0).softmax(1) * weight[:, None]).sum(2)
    return torch.where(sound, mean, torch.nan)


def closed_and_drawn(tiles: Sequence[Cells]) -> list[Drawn]:
    """Of the cells of each tile; nothing is asked of the device."""
    if not tiles:
        return []
    whole = Cells(*map(torch.cat, zip(*tiles, strict=True)))
    made = [_of_batch(batch) for batch in whole.batches()]
    fractions, classes, residual, still = map(torch.cat, zip(*made, strict=True))
    drawn, first = list[Drawn](), 0
    for tile in tiles:
        some = slice(first, first := first + len(tile.wanted))
        drawn.append(Drawn(fractions[some], classes[some], residual[some], still[some]))
    return drawn


def _of_batch(cells: Cells) -> Drawn:
    closed = closing.solve(cells.logits, cells.area, cells.wanted)
    places = Places(cells.order, cells.back, cells.pixels)
    classes, unsettled = closing.draw(closed.fractions, places, cells.counts)
    return Drawn(closed.fractions, classes, closed.residual, closed.open | unsettled)
