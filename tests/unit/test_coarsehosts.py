"""Totals under coarse hosts: the conservative regrid where it suffices, else the closest to the network's."""

import time

import numpy as np
import pytest
from scipy.optimize import minimize

from ai4land_coupler import kernel
from ai4land_coupler.coarsehosts import HostCellError, spread, totals
from ai4land_coupler.regrid import Overlap


@pytest.fixture(autouse=True, params=["kernel", "numpy"])
def by(request, monkeypatch):
    """Everything holds for both."""
    if request.param == "numpy":
        monkeypatch.setattr(kernel, "_module", None)
    elif not kernel.ready():
        pytest.skip("the kernel is not built: pip install -e .")


def shared(rng, classes, hosts, coarse, each=6, absent=0.4):
    """Host cells over `each` coarse cells, some of them shared; q with zeros, states with absent classes."""
    host = np.repeat(np.arange(hosts), each)
    cells = np.concatenate([np.sort(rng.choice(coarse, each, replace=False)) for _ in range(hosts)])
    q = rng.gamma(0.5, 1, (classes, coarse)) * (rng.random((classes, coarse)) < 0.8)
    q /= np.maximum(q.sum(axis=0), 1e-300)
    state = rng.gamma(0.5, 1, (classes, hosts)) * (rng.random((classes, hosts)) > absent)
    state[0] += 1e-3
    return q, host, cells, rng.uniform(1e8, 3e9, host.size), state / state.sum(axis=0)


def missed(f, host, area, state):
    """Largest |sum_c O f - S sum_c O| of a host cell, over its area."""
    whole = np.bincount(host, weights=area)
    sums = np.stack([np.bincount(host, weights=area * part) for part in f])
    return np.abs(sums / whole - state).max()


def test_two_coarse_cells_by_hand() -> None:
    """Equal areas, q = (0.8, 0.2) and (0.2, 0.8), half and half: beta is 0 by symmetry, the totals are q."""
    q = np.array([[0.8, 0.2], [0.2, 0.8]])
    found = totals(q, np.array([0, 0]), np.array([0, 1]), np.array([1.0, 1.0]), np.array([[0.5], [0.5]]))
    np.testing.assert_allclose(found, q, rtol=0, atol=1e-13)


def test_three_quarters_by_hand() -> None:
    """With x = exp(beta): 4x / (4x + 1) + x / (x + 4) = 1.5, which is 2 x^2 - 8.5 x - 6 = 0."""
    q = np.array([[0.8, 0.2], [0.2, 0.8]])
    x = (8.5 + np.sqrt(8.5**2 + 48)) / 4
    found = totals(q, np.array([0, 0]), np.array([0, 1]), np.array([1.0, 1.0]), np.array([[0.75], [0.25]]))
    np.testing.assert_allclose(found[0], [4 * x / (4 * x + 1), x / (x + 4)], rtol=0, atol=1e-12)


def test_hosts_inside_one_coarse_cell_are_the_conservative_regrid_bit_for_bit() -> None:
    rng = np.random.default_rng(1)
    host, coarse = np.arange(60), np.sort(rng.integers(0, 5, 60))
    area, q = rng.uniform(1e8, 1e9, 60), rng.random((4, 6))
    state = rng.dirichlet(np.ones(4), 60).T
    plain = Overlap(coarse, host, area, 6, 60).apply(state)
    plain /= np.maximum(plain.sum(axis=0), np.finfo(float).tiny)
    mixed = rng.permutation(60)
    assert totals(q, host[mixed], coarse[mixed], area[mixed], state).tobytes() == plain.tobytes()
    assert (plain[:, 5] == 0).all()


@pytest.mark.parametrize(("classes", "each"), [(2, 2), (8, 4), (17, 25), (5, 100)])
def test_the_state_of_each_host_is_kept_and_absent_classes_stay_absent(classes: int, each: int) -> None:
    q, host, coarse, area, state = shared(np.random.default_rng(each), classes, 200, 300, each)
    f = spread(q[:, coarse], host, coarse, area, state)
    assert missed(f, host, area, state) <= 1e-12
    assert (f[state[:, host] == 0] == 0).all()
    assert (f >= 0).all()
    assert np.abs(f.sum(axis=0) - 1).max() <= 1e-15 * classes
    found = totals(q, host, coarse, area, state)
    met = np.bincount(coarse, minlength=300) > 0
    assert np.abs(found[:, met].sum(axis=0) - 1).max() <= 1e-15 * classes


def test_classes_the_network_excludes_come_where_the_state_has_them() -> None:
    q = np.array([[1.0, 1.0, 0.5], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
    state = np.array([[0.5], [0.3], [0.2]])
    f = spread(q, np.zeros(3, int), np.arange(3), np.array([1.0, 2.0, 3.0]), state)
    assert missed(f, np.zeros(3, int), np.array([1.0, 2.0, 3.0]), state) <= 1e-12


def test_equal_q_spreads_the_state_evenly() -> None:
    state = np.array([[0.2, 0.7], [0.5, 0.3], [0.3, 0.0]])
    host = np.repeat([0, 1], 5)
    f = spread(np.full((3, 10), 1 / 3), host, np.arange(10), np.random.default_rng(2).uniform(1, 9, 10), state)
    np.testing.assert_allclose(f, state[:, host], rtol=0, atol=1e-13)


def test_the_closest_to_q_by_another_optimiser() -> None:
    """The dual of the projection, minimised by BFGS: sum_c w_c log sum_k q_ck exp(b_k) - S b."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        q, host, coarse, area, state = shared(rng, 4, 1, 5, 5, absent=0.0)
        q = q + 0.01
        weight = area / area.sum()

        def dual(b, q=q[:, coarse], weight=weight, state=state):
            return weight @ np.log(np.exp(b) @ q) - state[:, 0] @ b

        b = minimize(dual, np.zeros(4), method="BFGS", options={"gtol": 1e-10}).x
        best = q[:, coarse] * np.exp(b)[:, None]
        found = spread(q[:, coarse], host, coarse, area, state)
        np.testing.assert_allclose(found, best / best.sum(axis=0), rtol=0, atol=1e-6)


def test_the_bits_of_a_host_depend_on_nothing_but_itself() -> None:
    rng = np.random.default_rng(4)
    q, host, coarse, area, state = shared(rng, 9, 300, 400, 7)
    drop = rng.random(host.size) < 0.2
    host, coarse, area = host[~drop], coarse[~drop], area[~drop]
    whole = spread(q[:, coarse], host, coarse, area, state)
    mixed = rng.permutation(host.size)
    again = spread(q[:, coarse[mixed]], host[mixed], coarse[mixed], area[mixed], state)
    assert again.tobytes() == whole[:, mixed].copy().tobytes()
    for one in (0, 17, 299):
        own = host == one
        alone = spread(q[:, coarse[own]], host[own] * 0, coarse[own], area[own], state[:, [one]])
        assert alone.tobytes() == whole[:, own].copy().tobytes()


def test_what_has_no_area_gets_the_state_and_takes_no_part() -> None:
    rng = np.random.default_rng(5)
    q, host, coarse, area, state = shared(rng, 4, 3, 20)
    area[2] = 0.0
    q[:, coarse[2]] = np.nan
    f = spread(q[:, coarse], host, coarse, area, state)
    assert f[:, 2].tolist() == state[:, 0].tolist()
    rest = spread(*(x[..., np.arange(host.size) != 2] for x in (q[:, coarse], host, coarse, area)), state)
    assert f[:, np.arange(host.size) != 2].tobytes() == rest.tobytes()


def test_what_cannot_be_used_names_the_host() -> None:
    q, host, coarse, area, state = shared(np.random.default_rng(6), 4, 3, 20)
    worse = q[:, coarse].copy()
    worse[1, 8] = np.nan
    with pytest.raises(HostCellError, match="host cell 1") as caught:
        spread(worse, host, coarse, area, state)
    assert caught.value.host == 1
    with pytest.raises(HostCellError, match=r"host cell 2.*sum to 1"):
        spread(q[:, coarse], host, coarse, area, state * [1.0, 1.0, 1.1])


@pytest.mark.parametrize("edge", [1.875, 2.0])
def test_the_globe_takes_a_fraction_of_a_second(edge: float) -> None:
    """A third of the globe is land, 17 classes: host cells of that edge over 0.5 degree cells, one in four at a coast.

    About 0.2 s on an idle core, three times that beside other jobs; the limit is for a busy machine.
    """
    rng = np.random.default_rng(7)
    hosts, each = int(360 * 180 / edge**2 / 3), 16 if edge == 2.0 else 25
    q, host, coarse, area, _ = shared(rng, 17, hosts, 4 * each, each)
    kept = rng.random(host.size) < np.where(host % 4 == 0, rng.random(host.size), 1.0)
    host, coarse, area = host[kept], coarse[kept], area[kept]
    state = np.stack([np.bincount(host, weights=area * part[coarse], minlength=hosts) for part in q])
    state *= np.exp(rng.normal(0, 0.7, state.shape)) * (rng.random(state.shape) < 0.5)
    state[0] += 1e-6
    seconds = []
    for _ in range(2):
        start = time.process_time()
        totals(q, host, coarse, area, state / state.sum(axis=0))
        seconds.append(time.process_time() - start)
    assert min(seconds) < 1.5
