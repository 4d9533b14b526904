"""Closing of totals: what it promises, on the numbers that break naive solvers, and the closed forms it must meet."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ai4land_coupler.constraint import CellError, close, means
from ai4land_coupler.errors import ConstraintError, Status

TOTALS_TO = 1e-12  # of the land of a cell: DESIGN, conservation


def softmax(z, axis):
    e = np.exp(z - z.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def batch(seed, cells=40, classes=8, pixels=100, spread=4.0):
    """Logits, areas with sea in between, and totals of which some are 0, some tiny and some all but 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (cells, classes, pixels)).astype(np.float32)
    area = rng.uniform(1e7, 3e7, (cells, pixels)) * (rng.random((cells, pixels)) < 0.8)
    area[0] = 0
    area[1, 1:] = 0
    area[1, 0] = 2e7
    totals = rng.gamma(0.3, 1, (cells, classes)) * (rng.random((cells, classes)) < 0.6)
    totals[2:6, 0] = 1e-17, 1e-12, 1e-9, 1e9
    totals[totals.sum(1) == 0, 0] = 1
    return logits, area, totals / totals.sum(1, keepdims=True)


def assert_promises(fractions, residual, area, totals):
    """The totals to 1e-12 of the land, the sums to 1e-15 a class, exact 0 for absent classes, nothing off land."""
    land = area > 0
    has_land = land.any(1)
    classes = totals.shape[1]
    assert fractions.dtype == residual.dtype == np.float64
    assert (fractions >= 0).all()
    assert (fractions <= 1).all()
    assert not fractions.transpose(0, 2, 1)[~land].any()
    assert np.abs(fractions.sum(1)[land] - 1).max(initial=0) <= 1e-15 * classes
    assert not fractions[totals == 0].any()
    met = np.einsum("cn,ckn->ck", area, fractions)[has_land] / area.sum(1)[has_land, None]
    assert np.abs(met - totals[has_land]).max(initial=0) <= TOTALS_TO
    np.testing.assert_allclose(residual[has_land], met - totals[has_land], rtol=0, atol=4e-16 * area.shape[1])
    assert not residual[~has_land].any()


@pytest.mark.parametrize("spread", [0.0, 1.0, 10.0, 1e4])
def test_totals_and_sums_are_kept(spread):
    logits, area, totals = batch(1, spread=spread)
    assert_promises(*close(logits, area, totals), area, totals)


def test_two_classes_and_one_pixel_have_a_closed_form():
    """With one pixel of land the fractions are the totals, whatever the network says."""
    totals = np.array([[0.3, 0.7], [1.0, 0.0], [1e-17, 1.0]])
    fractions, _ = close(np.array([[[5.0], [-5.0]]] * 3), np.ones((3, 1)), totals)
    np.testing.assert_allclose(fractions[:, :, 0], totals, rtol=0, atol=TOTALS_TO)


def test_equal_logits_spread_the_totals_evenly():
    """The closest answer to a uniform one gives every pixel the totals themselves."""
    _, area, totals = batch(2)
    fractions, _ = close(np.zeros((*totals.shape, area.shape[1])), area, totals)
    spread = totals[:, :, None] * (area > 0)[:, None]
    np.testing.assert_allclose(fractions, spread, rtol=0, atol=TOTALS_TO)


def test_totals_the_network_meets_already_change_nothing():
    """The network's own means as totals make b = 0: the fractions are the softmax itself."""
    logits, area, _ = batch(3, spread=2.0)
    logits, area = logits[1:].astype(np.float64), area[1:]
    plain = softmax(logits, 1) * (area > 0)[:, None]
    totals = np.einsum("cn,ckn->ck", area, plain) / area.sum(1)[:, None]
    fractions, _ = close(logits, area, totals / totals.sum(1, keepdims=True))
    np.testing.assert_allclose(fractions, plain, rtol=0, atol=1e-10)


def test_odds_between_pixels_are_the_networks():
    """softmax(z + b): b cancels from the odds of two classes between two pixels, so log p_ik/p_il keeps z_ik - z_il."""
    logits, area, _ = batch(4, spread=2.0)
    area[:] = 1.0
    totals = np.random.default_rng(4).dirichlet(np.ones(8), len(area))
    fractions, _ = close(logits, area, totals)
    shift = np.log(fractions) - logits
    shift -= shift[:, :1]
    np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :, :1], shift.shape), rtol=0, atol=1e-9)


def test_a_single_class_left_is_exactly_one():
    logits, area, _ = batch(5)
    totals = np.zeros((len(area), 8))
    totals[:, 3] = 1
    fractions, residual = close(logits, area, totals)
    assert np.array_equal(fractions[:, 3], (area > 0).astype(float))
    assert np.abs(residual).max() <= 4e-16 * area.shape[1]


@pytest.mark.parametrize("order", ["shuffled", "reversed", "one by one", "in sevens"])
def test_the_bits_of_a_cell_do_not_depend_on_its_neighbours(order):
    logits, area, totals = batch(6, cells=150)
    whole, whole_residual = close(logits, area, totals)
    n = len(area)
    parts = {
        "shuffled": [np.random.default_rng(0).permutation(n)],
        "reversed": [np.arange(n)[::-1]],
        "one by one": np.split(np.arange(n), n),
        "in sevens": np.array_split(np.arange(n), n // 7),
    }[order]
    for part in parts:
        fractions, residual = close(logits[part], area[part], totals[part])
        assert np.array_equal(fractions, whole[part])
        assert np.array_equal(residual, whole_residual[part])


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_the_numbers_that_break_solvers(data):
    classes = data.draw(st.integers(2, 8))
    pixels = data.draw(st.sampled_from([1, 2, 3, 7, 100]))
    levels = st.sampled_from([0.0, 1.0, -1.0, 20.0, -20.0, 1e4, -1e4]) | st.floats(-30, 30)
    logits = data.draw(arrays(np.float64, (1, classes, pixels), elements=levels))
    area = data.draw(arrays(np.float64, (1, pixels), elements=st.sampled_from([0.0, 1e7, 3.1e7, 1.0])))
    weights = st.sampled_from([0.0, 1e-300, 1e-17, 1e-14, 1e-12, 1e-9, 1e-3, 0.5, 1.0, 1e9, 1e14]) | st.floats(0, 1)
    totals = data.draw(arrays(np.float64, (1, classes), elements=weights))
    totals[0, 0] += not totals.any()
    totals /= totals.sum()
    assert_promises(*close(logits, area, totals), area, totals)


def test_what_cannot_be_closed_names_the_cell_and_the_class():
    logits, area, totals = batch(9)
    area[7, 5] = 1e7
    broken = logits.copy()
    broken[7, 2, 5] = np.nan
    with pytest.raises(CellError, match="not finite: nan") as caught:
        close(broken, area, totals)
    assert (caught.value.cell, caught.value.klass, caught.value.status) == (7, 2, Status.CONSTRAINT)

    unsummed = totals.copy()
    unsummed[9] *= 1 + 1e-6
    with pytest.raises(CellError, match=r"sum to 1.* 1\.000001") as caught:
        close(logits, area, unsummed)
    assert caught.value.cell == 9

    negative = totals.copy()
    negative[4, :2] = -0.25, 1.25
    negative[4, 2:] = 0
    with pytest.raises(CellError, match=r"0\.\.1.*-0\.25") as caught:
        close(logits, area, negative)
    assert (caught.value.cell, caught.value.klass) == (4, 0)


def test_numbers_off_land_and_in_cells_without_land_do_not_matter():
    logits, area, totals = batch(10)
    fractions, _ = close(logits, area, totals)
    logits.transpose(0, 2, 1)[area == 0] = np.nan
    totals[0] = np.nan
    again, residual = close(logits, area, totals)
    assert np.array_equal(again, fractions)
    assert not residual[0].any()


def test_shapes_that_do_not_fit_are_refused():
    logits, area, totals = batch(11)
    with pytest.raises(ConstraintError, match=r"\(40, 8, 100\)"):
        close(logits, area[:, :-1], totals)


def test_an_empty_batch_is_answered():
    fractions, residual = close(np.zeros((0, 8, 100)), np.zeros((0, 100)), np.zeros((0, 8)))
    assert fractions.shape == (0, 8, 100)
    assert residual.shape == (0, 8)


def test_means_of_the_network_depend_on_their_cell_alone():
    logits, area, _ = batch(5)
    logits, area = logits[1:], area[1:]
    found = means(logits, area)
    plain = np.einsum("cn,ckn->ck", area, softmax(logits.astype(np.float64), 1)) / area.sum(1)[:, None]
    np.testing.assert_allclose(found, plain, rtol=0, atol=1e-14)
    alone = [means(logits[[i]], area[[i]])[0] for i in range(len(logits))]
    assert np.stack(alone).tobytes() == found.tobytes()
