"""The closed loss: cross-entropy of softmax(z + b), b such that every coarse cell meets its totals.

Since that b minimises the loss itself (its derivative by b_k is the mean of p_k less the total F_k, which is 0), the
gradient by the logits is a (p - y) with b held fixed, and b is solved without gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

SCORES = ("weight", "loss", "argmax", "majority", "drawn", "random")
"""What a loss sums beside itself: the right share of the most likely class, of majority fill, of a draw from the
closed fractions and of random placement, each times the weight."""

SHARPNESS = 40.0
"""Scores p are multiplied by it before they are closed again for a class map: 20 / SHARPNESS is the largest difference
of two probabilities that `closing_offset` tells from larger ones."""


def closing_offset(logits: Tensor, area: Tensor, totals: Tensor, iterations: int = 25) -> Tensor:
    """Return b (C, K) with sum_i a_i softmax(z + b)_ik close to F_k sum_i a_i, without gradient.

    Iterative proportional fitting in the exponentials of z (C, K, n): two products a pass, enough for training;
    what ships is closed by `constraint.close`.
    """
    with torch.no_grad():
        share = area / area.sum(1, keepdim=True)
        present = totals > 0
        z = logits.masked_fill(~present[:, :, None], -torch.inf)
        e = (z - z.amax(1, keepdim=True)).clamp_(min=-20).exp_() * present[:, :, None]
        scale = present.to(z.dtype)
        for _ in range(iterations):
            norm = torch.bmm(scale[:, None], e)[:, 0]  # (C, n)
            mean = torch.bmm(e, (share / norm)[:, :, None])[:, :, 0] * scale
            scale = scale * torch.where(present, totals / mean.clamp(min=1e-30), 0.0)
            scale = scale / scale.amax(1, keepdim=True)
        return torch.where(present, scale.clamp(min=1e-30).log(), -1e9)


def to_cells(values: Tensor, size: int) -> Tensor:
    """Rearrange (B, K, M, M) to (B (M / size)^2, K, size^2)."""
    b, k, m, _ = values.shape
    n = m // size
    return values.reshape(b, k, n, size, n, size).permute(0, 2, 4, 1, 3, 5).reshape(b * n * n, k, size * size)


def from_cells(cells: Tensor, number: int, size: int) -> Tensor:
    """Undo `to_cells`: (B n^2, K, size^2) of `number` crops B to (B, K, n size, n size)."""
    k, n = cells.shape[1], round((len(cells) / number) ** 0.5)
    return cells.reshape(number, n, n, k, size, size).permute(0, 3, 1, 4, 2, 5).reshape(number, k, n * size, n * size)


def closed_cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor, area: Tensor, totals: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return -sum_i w_i log softmax(z_i + b)_y, the sums named SCORES (6,) and log softmax(z + b), (C, K, n).

    Coarse cells one by one: logits (C, K, n) float32, labels (C, n) 1..K (0: not land, weight 0), weights (C, n),
    area (C, n) with some land in each cell, totals (C, K).
    """
    b = closing_offset(logits, area, totals)
    log_p = torch.log_softmax(logits + b[:, :, None], dim=1)
    index = (labels.long() - 1).clamp(min=0)
    chosen = log_p.gather(1, index[:, None])[:, 0]
    loss = -(weights * chosen).sum()
    with torch.no_grad():
        sums = (
            weights.sum(),
            loss,
            (weights * (log_p.argmax(1) == index)).sum(),
            (weights * (totals.argmax(1)[:, None] == index)).sum(),
            (weights * chosen.exp()).sum(),
            (weights * totals.gather(1, index)).sum(),
        )
    return loss, torch.stack([value.detach().double() for value in sums]), log_p


def sharp_map(fractions: Tensor, area: Tensor, totals: Tensor) -> Tensor:
    """Return the classes 1..K (C, n) of a map whose totals are nearly met: on any device, close to `constraint.quota`.

    The map of most right pixels with given totals takes each pixel's largest p_k + v_k, v the prices of the totals;
    closing a sharpened p gives them. fractions (C, K, n) are closed ones, area (C, n), totals (C, K).
    """
    with torch.no_grad():
        scores = fractions * SHARPNESS
        v = closing_offset(scores, area, totals, iterations=50)
        return (scores + v[:, :, None]).argmax(1) + 1
