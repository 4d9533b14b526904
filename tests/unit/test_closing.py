"""The closed loss: its gradient is that with the offsets held fixed, and its class map nearly meets the totals."""

import numpy as np
import torch

from ai4land_coupler.constraint import quota
from ai4land_coupler.training.fit import closing


def problem(cells: int = 6, classes: int = 4, pixels: int = 25) -> tuple[torch.Tensor, ...]:
    """Logits, labels, areas and the totals of the labels, float64; one cell lacks a class."""
    rng = torch.Generator().manual_seed(3)
    z = 2 * torch.randn(cells, classes, pixels, generator=rng, dtype=torch.float64)
    labels = torch.randint(1, classes + 1, (cells, pixels), generator=rng)
    labels[0][labels[0] == 2] = 1
    area = 0.5 + torch.rand(cells, pixels, generator=rng, dtype=torch.float64)
    hit = (labels[:, None] == torch.arange(1, classes + 1)[:, None]) * area[:, None]
    return z, labels, area, hit.sum(2) / area.sum(1, keepdim=True)


def test_gradient_is_that_of_the_loss_with_the_offsets_solved_again() -> None:
    z, labels, area, totals = problem()

    def loss(logits: torch.Tensor) -> float:
        b = closing.closing_offset(logits, area, totals, iterations=3000)
        log_p = torch.log_softmax(logits + b[:, :, None], dim=1)
        return float(-(area * log_p.gather(1, labels[:, None] - 1)[:, 0]).sum())

    b = closing.closing_offset(z, area, totals, iterations=3000)
    p = torch.softmax(z + b[:, :, None], dim=1)
    y = torch.nn.functional.one_hot(labels - 1, 4).transpose(1, 2)
    expected = area[:, None] * (p - y)
    for cell, klass, pixel in ((0, 0, 3), (0, 2, 7), (3, 1, 0), (5, 3, 24)):
        step = torch.zeros_like(z)
        step[cell, klass, pixel] = 1e-5
        slope = (loss(z + step) - loss(z - step)) / 2e-5
        assert abs(slope - float(expected[cell, klass, pixel])) < 1e-6
        assert abs(slope) > 1e-3


def test_backward_gives_weight_times_p_minus_y_and_scores_by_hand() -> None:
    z, labels, area, totals = problem()
    z.requires_grad_()
    weights = area / area.sum()
    loss, sums, log_p = closing.closed_cross_entropy(z, labels, weights, area, totals)
    loss.backward()
    y = torch.nn.functional.one_hot(labels - 1, 4).transpose(1, 2)
    assert z.grad is not None
    torch.testing.assert_close(z.grad, weights[:, None] * (log_p.detach().exp() - y))
    scores = dict(zip(closing.SCORES, sums.tolist(), strict=True))
    assert abs(scores["weight"] - 1) < 1e-12
    right = log_p.argmax(1) == labels - 1
    assert abs(scores["argmax"] - float((weights * right).sum())) < 1e-12
    by_hand = sum(float(weights[c, i] * totals[c, labels[c, i] - 1]) for c in range(6) for i in range(25))
    assert abs(scores["random"] - by_hand) < 1e-12


def test_sharp_map_is_close_to_the_map_that_ships() -> None:
    z, labels, area, totals = problem(cells=40, pixels=100)
    area = torch.ones_like(area)
    hit = labels[:, None] == torch.arange(1, 5)[:, None]
    totals = hit.double().mean(2)
    p = torch.softmax(z + closing.closing_offset(z, area, totals, 200)[:, :, None], dim=1)
    found = closing.sharp_map(p, area, totals).numpy()
    ids = np.arange(found.size).reshape(found.shape)
    shipped = quota(p.numpy(), np.ones(found.shape, bool), ids, totals.numpy())
    likeliest = p.argmax(1).numpy() + 1

    def off(classes: np.ndarray) -> float:
        counts = (classes[:, None] == np.arange(1, 5)[:, None]).sum(2)
        return float(np.abs(counts - hit.sum(2).numpy()).mean())

    def right(classes: np.ndarray) -> float:
        return float(np.take_along_axis(p.numpy(), classes[:, None].astype(int) - 1, 1).mean())

    assert off(shipped) == 0
    assert off(found) < 0.5 < off(likeliest)
    assert abs(right(found) - right(shipped)) < 0.005
    assert (found == shipped).mean() > 0.94


def test_cells_go_back_where_they_came_from() -> None:
    values = torch.arange(2 * 3 * 20 * 20).reshape(2, 3, 20, 20)
    assert torch.equal(closing.from_cells(closing.to_cells(values, 5), 2, 5), values)
