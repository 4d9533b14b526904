"""The compiled kernel: numpy's answer on the same cells, any layout, any place among other cells, and no memory."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_constraint import batch

from ai4land_coupler import constraint, doctor, kernel
from ai4land_coupler.change import close_change, quota_change
from ai4land_coupler.coarsehosts import _by_kernel, _by_numpy
from ai4land_coupler.constraint import close, quota
from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.pixels import pick
from ai4land_coupler.tiles import Tile, TileCells

pytestmark = pytest.mark.skipif(not kernel.ready(), reason="the kernel is not built: pip install -e .")
ALIKE = 1e-10  # fractions of kernel and numpy: both miss their totals by up to 1e-13 of the land


@pytest.fixture
def by_numpy(monkeypatch):
    """A function's value without the kernel."""

    def call(function, *args):
        with monkeypatch.context() as without:
            without.setattr(kernel, "_module", None)
            assert not kernel.ready()
            return function(*args)

    return call


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), spread=st.sampled_from([0.0, 1.0, 5.0, 50.0]), classes=st.integers(1, 12))
def test_the_same_fractions_and_maps_as_numpy(seed, spread, classes):
    logits, area, totals = batch(seed, cells=20, classes=classes, pixels=37, spread=spread)
    fractions, residual = close(logits, area, totals)
    other, other_residual = constraint._close_numpy(logits, area, totals, None)
    assert np.abs(residual).max() <= constraint.PROMISE
    assert np.abs(other_residual).max() <= constraint.PROMISE
    assert np.abs(fractions - other).max() < ALIKE / min(1.0, totals[totals > 1e-6].min())
    land, ids = area > 0, np.random.default_rng(seed).permutation(area.size).reshape(area.shape)
    found = quota(fractions, land, ids, totals)
    wanted = constraint._counts(totals, land.sum(1))
    assert np.array_equal(found, constraint._quota_numpy(fractions, land, ids, wanted))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), classes=st.integers(1, 12), each=st.integers(1, 40))
def test_shares_of_coarse_hosts_are_numpys(seed, classes, each):
    """Some of q are 0, also for all the classes that a state has; hosts with fewer parts than others."""
    rng = np.random.default_rng(seed)
    parts = rng.integers(1, each + 1, 30)
    q = rng.gamma(0.3, 1, (classes, parts.sum())) * (rng.random((classes, parts.sum())) < 0.7)
    totals = rng.gamma(0.5, 1, (classes, 30)) * (rng.random((classes, 30)) < 0.7)
    totals[0] += 1e-3
    given = np.concatenate([[0], np.cumsum(parts)]), rng.uniform(1e8, 3e9, parts.sum()), totals / totals.sum(axis=0)
    (found, left), (expected, other) = (by(q, *given) for by in (_by_kernel, _by_numpy))
    assert max(np.abs(left).max(), np.abs(other).max()) <= constraint.PROMISE
    np.testing.assert_allclose(found, expected, rtol=0, atol=ALIKE)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), spread=st.sampled_from([0.0, 1.0, 50.0]), classes=st.integers(1, 12))
def test_means_are_numpys(seed, spread, classes):
    """Also of logits so far apart that the share of a class is beyond the smallest double."""
    random, fine = np.random.default_rng(seed), RegularGrid(80, 160)
    cells = TileCells.of(Tile(6, 40, 80, 40), random.random((40, 40)) < 0.4, fine, 10)
    window = (spread * random.normal(size=(20, 20, 4 * classes))).astype(np.float32)
    some, out = np.arange(cells.coarse.size), np.empty((classes, cells.size), np.float32)
    given_to = cells, some, fine.area_rows, window, (0, 0), out, True
    found = pick(*given_to)
    with pytest.MonkeyPatch.context() as without:
        without.setattr(kernel, "_module", None)
        expected = pick(*given_to)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    row, column = divmod(int(cells.inside[0]), 40)
    window[row // 2, column // 2, 4 * (classes - 1) + row % 2 * 2 + column % 2] = np.nan
    found = pick(*given_to)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1:]).all()


def test_two_pixels_by_hand():
    """Logits 0 and d of class 1, totals 1/2: p, 1 - p with odds e^d apart, so p = 1 / (1 + e^(d / 2))."""
    d = 3.0
    z = np.zeros((1, 2, 2), np.float32)
    z[0, 0, 1] = d
    fractions, _ = close(z, np.ones((1, 2)), np.array([[0.5, 0.5]]))
    p = 1 / (1 + np.exp(d / 2))
    np.testing.assert_allclose(fractions[0], [[p, 1 - p], [1 - p, p]], rtol=0, atol=1e-13)


def test_exponentials_are_exact_to_a_unit_in_the_last_place():
    """One class more with logit x against one with 0, both totals those of softmax: b stays 0, p = e^x / (1 + e^x)."""
    x = np.linspace(-19.9, 0, 4001).astype(np.float32)
    z = np.stack([np.zeros_like(x), x], axis=1)[:, :, None]
    exact = np.exp(x.astype(np.longdouble))
    share = np.stack([1 / (1 + exact), exact / (1 + exact)], axis=1).astype(np.float64)
    pixels = np.concatenate([z, z], axis=2)
    fractions, residual = close(pixels, np.ones((x.size, 2)), share)
    assert np.abs(residual).max() < 3e-16
    assert np.abs(fractions[:, :, 0] / share - 1).max() < 1e-12


def test_any_layout_and_company_gives_a_cell_the_same_bits():
    """Logits as planes of a window, fractions as planes of a list of pixels, cells one by one."""
    logits, area, totals = batch(3, cells=9, pixels=25)
    fractions, residual = close(logits, area, totals)
    land = area > 0
    first = np.concatenate([[0], np.cumsum(land.sum(1))])
    planes = np.ascontiguousarray(logits.swapaxes(0, 1)).reshape(8, -1)
    at, n = np.flatnonzero(land), int(land.sum())
    out = np.full((8, n), np.nan)
    left, bad = kernel.close(first, area[land], planes, at, planes.shape[1], None, totals, out, np.arange(n), n)
    assert bad is None
    assert np.array_equal(out, fractions.swapaxes(0, 1)[:, land])
    assert np.array_equal(left, residual)
    for cell in range(9):
        alone = close(logits[cell : cell + 1], area[cell : cell + 1], totals[cell : cell + 1])[0]
        assert np.array_equal(alone[0], fractions[cell])


def test_arrays_in_any_order_of_memory():
    logits, area, totals = batch(4, cells=9, pixels=25)
    fractions, residual = close(logits, area, totals)
    turned = [np.asfortranarray(part) for part in (logits, area, totals)]
    for one, other in zip((fractions, residual), close(*turned), strict=True):
        assert np.array_equal(one, other)
    ids = np.arange(area.size).reshape(area.shape)
    parts = [np.asfortranarray(part) for part in (fractions, area > 0, ids, totals)]
    assert np.array_equal(quota(*parts), quota(fractions, area > 0, ids, totals))


def test_the_first_cell_with_a_bad_logit_is_named():
    z = np.zeros((2, 12), np.float32)
    z[1, 7] = np.inf
    first, out = np.array([0, 4, 4, 8, 12]), np.empty((2, 12))
    half = np.full((4, 2), 0.5)
    assert kernel.close(first, np.ones(12), z, np.arange(12), 12, None, half, out, np.arange(12), 12)[1] == 2


def test_change_mode_is_numpys(by_numpy):
    """What may not be is exactly 0, and the maps are the same pixel by pixel."""
    rng = np.random.default_rng(8)
    base = rng.integers(1, 5, (12, 49)).astype(np.uint8)
    area = rng.uniform(1.0, 2.0, base.shape)
    mine = base[:, None] == np.arange(1, 5)[:, None]
    before = (mine * area[:, None]).sum(2) / area.sum(1)[:, None]
    after = before.copy()
    after[:, 0] -= (cut := 0.3 * before[:, 0])
    after[:, 2] += cut
    logits = rng.normal(0, 2, (12, 4, 49)).astype(np.float32)
    given_to = logits, area, base, after, before
    fractions, residual = close_change(*given_to)
    other, _ = by_numpy(close_change, *given_to)
    assert np.abs(residual).max() <= constraint.PROMISE
    assert np.abs(fractions - other).max() < ALIKE
    assert np.array_equal(fractions == 0, other == 0)
    rest = base, area > 0, np.arange(base.size).reshape(base.shape), after, before
    assert np.array_equal(quota_change(fractions, *rest), by_numpy(quota_change, fractions, *rest))


def test_sums_by_hand_and_in_order():
    """Rows of 2, 0 and 3 entries; ten fields, more than are summed at a time."""
    first, column = np.array([0, 2, 2, 5]), np.array([0, 1, 1, 2, 3])
    weight = np.array([2.0, 3.0, 1e16, 1.0, -1e16])
    x = np.arange(1.0, 11.0)[:, None] * np.array([1.0, 10.0, 1.0, 10.0])
    expected = np.arange(1.0, 11.0)[:, None] * np.array([32.0, 0.0, 0.0])
    expected[:, 2] = [(v * 10 * 1e16 + v) - v * 10 * 1e16 for v in range(1, 11)]
    out = np.empty((10, 3))
    kernel.apply(kernel.Rows(first, column, weight, 4), x, out)
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("start", [0, 1, 5], ids=["aligned", "odd", "within a line"])
def test_sums_of_rows_of_any_length_wherever_they_are_put(start):
    """Rows of 0 to 6 entries, more than are held back at a time; values that are not finite stay in their rows."""
    random = np.random.default_rng(start)
    count = random.integers(0, 7, 101)
    first = np.concatenate([[0], np.cumsum(count)])
    column, weight = random.integers(0, 20, first[-1]), random.random(first[-1])
    x = random.random((9, 20))
    x[3, 7] = np.nan
    out = np.full(start + 9 * 101 + 1, -1.0)
    kernel.apply(kernel.Rows(first, column, weight, 20), x, out[start:-1].reshape(9, 101))
    for f, r in np.ndindex(9, 101):
        expected = 0.0
        for i in range(first[r], first[r + 1]):
            expected += weight[i] * x[f, column[i]]
        np.testing.assert_equal(out[start + f * 101 + r], expected)
    assert (np.delete(out, range(start, out.size - 1)) == -1.0).all()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), classes=st.integers(1, 12), at_random=st.booleans())
def test_counts_are_numpys(seed, classes, at_random):
    """Totals that are whole pixels but for their rounding, halves that tie, and any others; also of no pixels."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 101, 40)
    totals = random.dirichlet(np.full(classes, 0.4), 40)
    if not at_random:
        whole = random.multinomial(2 * np.maximum(pixels, 1), np.full(classes, 1 / classes))
        totals = whole / whole.sum(axis=1, keepdims=True)
    found = constraint._counts(totals, pixels)
    assert np.array_equal(found, constraint._counts_numpy(totals * pixels[:, None], pixels))
    assert np.array_equal(found.sum(axis=1), pixels)
    assert np.abs(found - totals * pixels[:, None]).max() < 1


def test_no_memory_is_an_error():
    """Cells so large that nothing can hold their work; no value of theirs is touched."""
    first, nothing, index = np.array([0, 2**46]), np.empty(0), np.empty(0, np.int64)
    z, totals = np.empty(0, np.float32), np.full((1, 2), 0.5)
    with pytest.raises(MemoryError):
        kernel.close(first, nothing, z, index, 1, None, totals, nothing, index, 1)
    with pytest.raises(MemoryError):
        kernel.quota(first, nothing, index, 1, index, np.ones((1, 2), np.int64))
    with pytest.raises(MemoryError):
        kernel.spread(first, nothing, np.empty((2, 0)), totals)
    tile, cell = kernel.Tile(first, np.empty(0, np.int32), 1, (0, 0), np.ones(1), 1), np.zeros(1, np.int64)
    with pytest.raises(MemoryError):
        kernel.pick(tile, cell[:0], np.empty((0, 1, 8), np.float32), (0, 0), np.empty((2, 0), np.float32), True)
    byte = np.empty(0, np.uint8)
    with pytest.raises(MemoryError):
        kernel.tally(tile, np.empty((2, 0)), cell.astype(np.uint8), None, 0)
    with pytest.raises(MemoryError):
        kernel.fields(tile, np.zeros(1, np.uint8), np.empty((2, 0), np.float32), totals, 1e-9, byte, nothing, byte)


def test_other_threads_run_while_it_works():
    """A thread that counts goes on during one call."""
    logits, area, totals = batch(5, cells=4000)
    counted, stop = [0], threading.Event()

    def count():
        while not stop.is_set():
            counted[0] += 1
            time.sleep(1e-4)

    land = area > 0
    first, at = constraint._ragged(land, 8)
    out, some = np.zeros(logits.shape), area[land]
    counter = threading.Thread(target=count)
    counter.start()
    before = counted[0]
    kernel.close(first, some, logits, at, 100, None, totals, out, at, 100)
    during = counted[0] - before
    stop.set()
    counter.join()
    assert during > 2


def test_doctor_and_name_say_which_serves(by_numpy):
    assert kernel.name() == f"compiled kernel {kernel.VERSION}"
    assert doctor.compiled().ok
    assert by_numpy(kernel.name) == "numpy"
    assert not by_numpy(doctor.compiled).ok
    assert by_numpy(doctor.compiled).needed is False
