"""The closing and the quota as a GPU runs them, on torch's CPU device: what `constraint` gives, number for number."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_constraint import assert_promises, batch
from test_quota import ids_of

from ai4land_coupler import constraint
from ai4land_coupler.constraint import CellError
from ai4land_coupler.ondevice import closing

FRACTIONS_TO = 1e-10


def solved(logits, area, totals):
    return closing.solve(*(torch.from_numpy(part) for part in (logits, area, totals)))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    spread=st.sampled_from([0.0, 1.0, 4.0, 10.0]),
    classes=st.integers(1, 9),
    pixels=st.sampled_from([1, 4, 25, 100]),
)
def test_closing_is_that_of_the_processor(seed, spread, classes, pixels):
    logits, area, totals = batch(seed, cells=20, classes=classes, pixels=pixels, spread=spread)
    fractions, residual = closing.close(logits, area, totals)
    assert_promises(fractions, residual, area, totals)
    expected, left = constraint.close(logits, area, totals)
    np.testing.assert_allclose(fractions, expected, rtol=0, atol=FRACTIONS_TO)
    np.testing.assert_allclose(residual, left, rtol=0, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_the_numbers_that_break_solvers(data):
    classes, pixels = data.draw(st.integers(2, 8)), data.draw(st.sampled_from([1, 3, 7, 100]))
    levels = st.sampled_from([0.0, 1.0, -1.0, 20.0, -20.0, 1e4, -1e4]) | st.floats(-30, 30)
    logits = data.draw(arrays(np.float64, (1, classes, pixels), elements=levels))
    area = data.draw(arrays(np.float64, (1, pixels), elements=st.sampled_from([0.0, 1e7, 3.1e7, 1.0])))
    weights = st.sampled_from([0.0, 1e-300, 1e-17, 1e-12, 1e-3, 0.5, 1.0, 1e14]) | st.floats(0, 1)
    totals = data.draw(arrays(np.float64, (1, classes), elements=weights))
    totals[0, 0] += not totals.any()
    totals /= totals.sum()
    assert_promises(*closing.close(logits, area, totals), area, totals)


def test_the_device_closes_what_maps_look_like_by_itself():
    logits, area, totals = batch(3, cells=400, spread=2.0)
    totals = np.random.default_rng(3).dirichlet(np.ones(8), 400)
    closed = solved(logits, area, totals)
    assert not closed.open.any()
    land = area.any(1)
    expected, _ = constraint.close(logits, area, totals)
    np.testing.assert_allclose(closed.fractions[land].numpy(), expected[land], rtol=0, atol=FRACTIONS_TO)
    assert np.abs(closed.residual.numpy()).max() <= 1e-12


def test_a_cell_does_not_depend_on_its_neighbours():
    logits, area, totals = batch(6, cells=90)
    whole = solved(logits, area, totals)
    order = np.random.default_rng(0).permutation(90)
    for part in (order, order[::7]):
        again = solved(logits[part], area[part], totals[part])
        assert torch.equal(again.fractions, whole.fractions[part])
        assert torch.equal(again.residual, whole.residual[part])


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_what_cannot_be_closed_is_left_open_and_named(broken):
    logits, area, totals = batch(9)
    area[7, 5] = 1e7
    logits[7, 2, 5] = broken
    assert solved(logits, area, totals).open[7]
    with pytest.raises(CellError, match=r"coarse cell 7 .* not finite") as caught:
        closing.close(logits, area, totals)
    assert (caught.value.cell, caught.value.klass) == (7, 2)
    logits, area, totals = batch(9)
    totals[9] *= 1 + 1e-6
    with pytest.raises(CellError, match=r"coarse cell 9 .* sum to 1"):
        closing.close(logits, area, totals)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), spread=st.sampled_from([0.0, 2.0, 8.0]), pixels=st.sampled_from([1, 9, 100]))
def test_maps_are_those_of_the_processor(seed, spread, pixels):
    """The same fractions make the same map, equal ones (spread 0) drawn alike."""
    logits, area, totals = batch(seed, cells=25, pixels=pixels, spread=spread)
    fractions, _ = constraint.close(logits, area, totals)
    land = area > 0
    expected = constraint.quota(fractions, land, ids_of(land), totals)
    assert np.array_equal(closing.quota(fractions, land, ids_of(land), totals), expected)


def test_the_device_draws_most_maps_by_itself():
    logits, area, totals = batch(12, cells=200, spread=2.0)
    fractions, _ = constraint.close(logits, area, totals)
    land = area > 0
    places = closing.Places.of(land, ids_of(land), torch.device("cpu"))
    counts = torch.from_numpy(constraint._counts(totals, land.sum(1)))
    classes, unsettled = closing.draw(torch.from_numpy(fractions), places, counts)
    assert unsettled.float().mean() <= 0.02
    kept = ~unsettled.numpy()
    assert np.array_equal(classes.numpy()[kept], constraint.quota(fractions, land, ids_of(land), totals)[kept])
