"""Class maps by quota: exact counts, the best placement beside SciPy's optimum, ties that no order can change."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from test_constraint import batch

from ai4land_coupler.constraint import CellError, close, quota

GAP_TO_OPTIMUM = 0.005  # of the expected number of right pixels


def ids_of(land):
    return 1 + np.arange(land.size).reshape(land.shape)


def drawn(seed, cells=60, spread=2.0):
    logits, area, totals = batch(seed, cells=cells, spread=spread)
    fractions, _ = close(logits, area, totals)
    land = area > 0
    return fractions, land, totals, quota(fractions, land, ids_of(land), totals)


def counts_of(classes, k):
    return (classes[:, None, :] == np.arange(1, k + 1)[:, None]).sum(2)


def expected_right(fractions, classes):
    """Expected number of right pixels of each cell (C,) if p are the odds."""
    picked = np.take_along_axis(fractions, np.maximum(classes.astype(int) - 1, 0)[:, None], 1)[:, 0]
    return (picked * (classes > 0)).sum(1)


def optimum(fractions, counts):
    """The most expected right pixels of one cell: p (K, m) on its land, the assignment problem solved by SciPy."""
    seats = fractions[np.repeat(np.arange(len(counts)), counts)]
    return seats[linear_sum_assignment(seats, maximize=True)].sum()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_every_class_gets_floor_or_ceil_of_its_total(seed):
    _, land, totals, classes = drawn(seed, cells=20)
    assert classes.dtype == np.uint8
    assert np.array_equal(classes > 0, land)
    exact, counts = totals * land.sum(1)[:, None], counts_of(classes, 8)
    assert (counts >= np.floor(exact)).all()
    assert (counts <= np.ceil(exact)).all()
    assert not counts[totals == 0].any()


def test_left_over_pixels_go_to_the_largest_remainders():
    """Of 10 pixels 0.26 0.34 0.40: 2.6 3.4 4.0 make 2 3 4 and one left for 0.6. Equal thirds: the lower class."""
    land = np.ones((2, 10), bool)
    totals = np.array([[0.26, 0.34, 0.40], [1 / 3, 1 / 3, 1 / 3]])
    classes = quota(np.broadcast_to(totals[:, :, None], (2, 3, 10)), land, ids_of(land), totals)
    assert counts_of(classes, 3).tolist() == [[3, 3, 4], [4, 3, 3]]


@pytest.mark.parametrize("n", [1, 3, 7, 49, 97, 100])
def test_totals_that_are_counts_return_the_counts(n):
    """c/n times n may round to just below c; the quota is c all the same."""
    counts = np.random.default_rng(n).multinomial(n, [0.5, 0.3, 0.15, 0.05], 200)
    land = np.ones((200, n), bool)
    totals = counts / n
    classes = quota(np.broadcast_to(totals[:, :, None], (200, 4, n)), land, ids_of(land), totals)
    assert np.array_equal(counts_of(classes, 4), counts)


def test_a_map_of_certain_pixels_is_returned_as_it_is():
    """With p of 0 and 1 and the totals of the map itself, drawing gives the map back."""
    rng = np.random.default_rng(3)
    truth = rng.integers(1, 6, (50, 100)) * (rng.random((50, 100)) < 0.7)
    certain = (truth[:, None] == np.arange(1, 6)[:, None]).astype(float)
    totals = certain.sum(2) / (truth > 0).sum(1)[:, None]
    assert np.array_equal(quota(certain, truth > 0, ids_of(truth), totals), truth)


def test_two_classes_are_placed_at_the_optimum():
    """With two classes the best placement is the n F pixels of the largest p: sort and cut."""
    p = np.random.default_rng(4).random((30, 1, 100))
    fractions = np.concatenate([p, 1 - p], axis=1)
    totals = np.stack([np.linspace(0.05, 0.95, 30), np.linspace(0.95, 0.05, 30)], axis=1)
    land = np.ones((30, 100), bool)
    classes = quota(fractions, land, ids_of(land), totals)
    for cell, chosen in enumerate(classes):
        n = counts_of(classes, 2)[cell, 0]
        assert set(np.flatnonzero(chosen == 1)) == set(np.argsort(-p[cell, 0])[:n])


@pytest.mark.parametrize("spread", [0.5, 1.0, 4.0])
def test_placement_is_close_to_the_optimum_with_eight_classes(spread):
    rng = np.random.default_rng(5)
    totals = rng.dirichlet(np.ones(8), 60)
    fractions, _ = close(rng.normal(0, spread, (60, 8, 100)), np.ones((60, 100)), totals)
    land = np.ones((60, 100), bool)
    classes = quota(fractions, land, ids_of(land), totals)
    best = sum(optimum(p, counts) for p, counts in zip(fractions, counts_of(classes, 8), strict=True))
    assert best * (1 - GAP_TO_OPTIMUM) <= expected_right(fractions, classes).sum() <= best * (1 + 1e-12)


def test_ties_are_drawn_and_depend_on_the_cell_id_alone():
    """Equal odds everywhere: every column is as likely to get the class, and the order of the pixels is immaterial."""
    land = np.ones((2000, 100), bool)
    totals = np.tile([0.3, 0.7], (2000, 1))
    even = np.broadcast_to(totals[:, :, None], (2000, 2, 100))
    ids = ids_of(land)
    classes = quota(even, land, ids, totals)
    share = (classes == 1).mean(0)
    assert np.abs(share - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 2000)
    turned = np.random.default_rng(0).permutation(100)
    assert np.array_equal(quota(even, land, ids[:, turned], totals), classes[:, turned])


def test_a_cell_does_not_depend_on_its_neighbours():
    fractions, land, totals, classes = drawn(6, cells=200)
    order = np.random.default_rng(0).permutation(200)
    ids = ids_of(land)
    assert np.array_equal(quota(fractions[order], land[order], ids[order], totals[order]), classes[order])
    for part in np.array_split(np.arange(200), 50):
        assert np.array_equal(quota(fractions[part], land[part], ids[part], totals[part]), classes[part])


def test_totals_that_do_not_sum_to_one_are_refused():
    fractions, land, totals, _ = drawn(7)
    totals[5] *= 0.9
    with pytest.raises(CellError, match=r"sum is 0\.9") as caught:
        quota(fractions, land, ids_of(land), totals)
    assert caught.value.cell == 5
