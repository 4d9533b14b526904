"""Change mode: the change is made, nothing else moves, and no change is the base map bit for bit."""

import numpy as np
import pytest

from ai4land_coupler.change import close_change, quota_change, share_out, target


def scene(seed: int, cells: int = 60, classes: int = 6, pixels: int = 100, strength: float = 0.3):
    """Logits, areas, base classes, the base map's shares (C, K) and a change that sums to 0, some of it too large."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4, (cells, classes, pixels)).astype(np.float32)
    area = rng.uniform(1e7, 3e7, (cells, pixels)) * (rng.random((cells, pixels)) < 0.9)
    likely = rng.dirichlet(np.full(classes, 0.4), cells)
    base = 1 + (rng.random((cells, pixels, 1)) > np.cumsum(likely, axis=1)[:, None, :-1]).sum(2).astype(np.uint8)
    base[area == 0] = 0
    before = np.stack([(area * (base == k + 1)).sum(1) for k in range(classes)], 1) / area.sum(1, keepdims=True)
    change = rng.normal(0, strength, (cells, classes)) * (rng.random((cells, classes)) < 0.6)
    change[:, 0] -= change.sum(1)
    change[:5] = 0
    change[5:9] *= 1e-9
    return logits, area, base, before, change


def made(seed: int, **options):
    logits, area, base, before, change = scene(seed, **options)
    totals, cut = (x.T for x in target(before.T, change.T))
    return logits, area, base, before, totals, cut


def test_the_target_by_hand() -> None:
    """0.3 of a class that has 0.2 cannot be lost: 0.1 is cut, a third of the gains."""
    totals, cut = target(np.array([[0.2], [0.5], [0.3]]), np.array([[-0.3], [0.2], [0.1]]))
    np.testing.assert_allclose(totals[:, 0], [0.0, 0.5 + 0.4 / 3, 0.3 + 0.2 / 3], rtol=0, atol=1e-16)
    np.testing.assert_allclose(cut[:, 0], [-0.1, 0.2 / 3, 0.1 / 3], rtol=0, atol=1e-16)


def test_targets_are_fractions_and_what_is_asked_for_is_made_or_cut() -> None:
    _, _, _, before, change = scene(1, cells=500)
    totals, cut = (x.T for x in target(before.T, change.T))
    assert (totals >= 0).all()
    assert np.abs(totals.sum(1) - 1).max() <= 1e-15 * totals.shape[1]
    assert np.abs(cut.sum(1)).max() <= 1e-14
    assert np.abs(before + change - cut - totals).max() <= 1e-15 + 1e-13
    assert not cut[(before + change >= 0).all(1)].any()
    assert cut.any()
    assert totals[:5].tobytes() == before[:5].tobytes()
    assert ((totals < before) <= (change < 0)).all()
    assert ((totals > before) <= (change > 0)).all()


def test_coarse_hosts_lose_where_there_is_something_to_lose() -> None:
    """Two halves, all of class 1 in one: the host's loss of 0.25 of it falls there, its gains too."""
    base = np.array([[0.5, 0.0], [0.5, 1.0], [0.0, 0.0]])
    mean = base.mean(axis=1, keepdims=True) * np.ones(2)
    found = share_out(base, mean, np.array([[-0.2, -0.2], [0.0, 0.0], [0.2, 0.2]]))
    np.testing.assert_allclose(found, [[-0.4, 0.0], [0.0, 0.0], [0.4, 0.0]], rtol=0, atol=1e-16)
    rng = np.random.default_rng(2)
    base = rng.dirichlet(np.ones(5), 30).T
    mean = np.repeat(base.mean(axis=1, keepdims=True), 30, axis=1)
    change = np.repeat(np.array([[-0.1], [-0.05], [0.0], [0.12], [0.03]]), 30, axis=1)
    found = share_out(base, mean, change)
    np.testing.assert_allclose(found.mean(axis=1), change[:, 0], rtol=0, atol=1e-15)
    assert (base + found >= 0).all()
    assert not share_out(base, mean, 0 * change).any()


@pytest.mark.parametrize("strength", [0.001, 0.3])
def test_totals_are_met_and_only_losing_cells_change_to_gaining_classes(strength: float) -> None:
    logits, area, base, before, totals, _ = made(3, strength=strength)
    fractions, residual = close_change(logits, area, base, totals, before)
    land = area > 0
    met = np.einsum("ckn,cn->ck", fractions, area) / area.sum(1, keepdims=True)
    assert np.abs(met - totals).max() <= 1e-12
    np.testing.assert_allclose(residual, met - totals, rtol=0, atol=1e-15)
    assert np.abs(fractions.sum(1)[land] - 1).max() <= 1e-15 * totals.shape[1]
    assert not fractions.swapaxes(1, 2)[~land].any()
    mine = base[:, None, :] == np.arange(1, 7)[:, None]
    losing, growing = (totals < before)[:, :, None], (totals > before)[:, :, None]
    active = (mine & losing).any(1, keepdims=True)
    assert (fractions[~(mine | (growing & active))] == 0).all()
    kept = np.broadcast_to(~active, mine.shape) & mine
    assert (fractions[kept] == 1).all()
    assert ((fractions > 0) & (fractions < 1)).any()


def test_no_change_is_the_base_map_bit_for_bit() -> None:
    logits, area, base, before, _, _ = made(4)
    fractions, residual = close_change(logits, area, base, before, before)
    one_hot = (base[:, None, :] == np.arange(1, 7)[:, None]).astype(np.float64)
    assert fractions.tobytes() == one_hot.tobytes()
    assert np.abs(residual).max() <= 1e-15
    ids = np.arange(base.size).reshape(base.shape)
    assert quota_change(fractions, base, area > 0, ids, before, before).tobytes() == base.tobytes()


def test_the_closest_to_the_network_in_two_classes() -> None:
    """Class 1 gives half its area to class 2: among its pixels p = sigmoid(z2 - z1 + b) with one b."""
    logits, area, base, _, _, _ = made(5, cells=1, classes=3)
    base[0] = np.where(area[0] > 0, np.where(np.arange(100) < 60, 1, 3), 0)
    share = (area[0] * (base[0] == 1)).sum() / area.sum()
    before, totals = np.array([[share, 0, 1 - share]]), np.array([[share / 2, share / 2, 1 - share]])
    fractions, _ = close_change(logits, area, base, totals, before)
    p = fractions[0, 1, base[0] == 1]
    offset = np.log(p / (1 - p)) - (logits[0, 1] - logits[0, 0])[base[0] == 1]
    ordinary = np.abs(logits[0, 1] - logits[0, 0])[base[0] == 1] < 15
    assert ordinary.sum() > 40
    assert np.ptp(offset[ordinary]) < 1e-6


@pytest.mark.parametrize("strength", [0.005, 0.3])
def test_the_map_changes_as_many_pixels_as_the_totals_ask_for(strength: float) -> None:
    logits, area, base, before, totals, _ = made(6, strength=strength, cells=200)
    fractions, _ = close_change(logits, area, base, totals, before)
    land, ids = area > 0, np.arange(base.size).reshape(base.shape)
    drawn = quota_change(fractions, base, land, ids, totals, before)
    cell = np.arange(len(base))[:, None]
    was, now = np.where(land, base, 1) - 1, np.where(land, drawn, 1) - 1
    changed = (was != now) & land
    assert changed.any()
    assert (totals < before)[cell, was][changed].all()
    assert (totals > before)[cell, now][changed].all()
    assert (fractions[cell, now, np.arange(100)][changed] > 0).all()
    counts = np.stack([(drawn == k + 1).sum(1) for k in range(6)], 1)
    had = np.stack([(base == k + 1).sum(1) for k in range(6)], 1)
    exact = had + land.sum(1, keepdims=True) * (totals - before)
    assert (np.abs(counts - exact)[((exact > 0) & ((totals > 0) | (before == 0))).all(1)] < 1 + 1e-9).all()
    assert (drawn[~land] == 0).all()
    likely = np.take_along_axis(fractions, now[:, None], 1)[:, 0][changed].mean()
    mixed = np.take_along_axis(fractions, np.where(land, np.roll(now, 1, 1), 0)[:, None], 1)[:, 0][changed].mean()
    assert likely > mixed, "the changed pixels are the likely ones"


def test_the_bits_of_a_cell_do_not_depend_on_its_neighbours() -> None:
    logits, area, base, before, totals, _ = made(7)
    ids = np.arange(base.size).reshape(base.shape)
    fractions, _ = close_change(logits, area, base, totals, before)
    drawn = quota_change(fractions, base, area > 0, ids, totals, before)
    for i in (7, 30, 59):
        some = slice(i, i + 1)
        alone, _ = close_change(logits[some], area[some], base[some], totals[some], before[some])
        assert alone.tobytes() == fractions[some].tobytes()
        again = quota_change(alone, base[some], area[some] > 0, ids[some], totals[some], before[some])
        assert again.tobytes() == drawn[some].tobytes()
