"""Where the host's land goes: hand-made overlaps on a grid of 10 degree cells."""

import numpy as np
import pytest

from ai4land_coupler.comm import MPI, Communicator
from ai4land_coupler.errors import GridError
from ai4land_coupler.exchange import HostExchange
from ai4land_coupler.grids import EARTH_RADIUS, HostGrid, RegularGrid
from ai4land_coupler.placement import BASE, NEAREST, OWN, Budget, Placement, Plot, check_coverage, nearest
from ai4land_coupler.regrid import Overlap

COARSE = RegularGrid(18, 36)
AREA = np.repeat(COARSE.area_rows, COARSE.nlon)
EQUATOR = 9 * 36


@pytest.fixture(scope="module")
def comm():
    return Communicator(MPI.COMM_SELF)


def overlaps(pairs: dict[tuple[int, int], float], n_host: int) -> Overlap:
    """From {(coarse, host): share of the coarse cell's area}."""
    row, col = (np.array(x) for x in zip(*pairs, strict=True))
    return Overlap.from_triplets(row, col, np.array(list(pairs.values())) * AREA[row], AREA.size, n_host)


def fine_land(cells: dict[int, float]) -> np.ndarray:
    out = np.zeros(AREA.size)
    for cell, share in cells.items():
        out[cell] = share * AREA[cell]
    return out


def hosts(comm: Communicator, land: np.ndarray) -> HostExchange:
    """Cells of one rank, all of which reach it; their corners play no part here."""
    n = land.size
    corner = np.zeros((n, 3))
    grid = HostGrid(np.arange(1, n + 1), corner, corner, land)
    return HostExchange.build(comm, grid, np.arange(n), np.zeros(n, dtype=np.int64))


def place(comm, grid: RegularGrid, over: Overlap, land: np.ndarray, fine: np.ndarray, base: np.ndarray) -> Placement:
    """One rank that holds all coarse cells, in tiles of a row each."""
    cells = np.arange(grid.size)
    plot = Plot(cells, cells // grid.nlon, np.empty(0, np.int64), np.zeros_like)
    return Placement.build(comm, hosts(comm, land), grid, plot, over, base, fine)


NO_BASE = np.zeros((2, AREA.size))


def test_host_land_goes_where_the_emulator_has_land(comm) -> None:
    a, b = EQUATOR, EQUATOR + 1
    over = overlaps({(a, 0): 1.0, (b, 0): 1.0}, 1)
    found = place(comm, COARSE, over, np.array([0.5]), fine_land({a: 0.75, b: 0.25}), NO_BASE)
    # one cell over two coarse cells: its land, half of 2, is shared 3 : 1
    land = found.land.row_sum()
    assert np.isclose(land[a] / AREA[a], 0.75, rtol=1e-14)
    assert np.isclose(land[b] / AREA[b], 0.25, rtol=1e-14)
    assert np.isclose(land.sum(), 0.5 * found.host_area[0], rtol=1e-15)


def test_land_over_the_emulators_sea_is_unplaced_and_the_budget_closes(comm) -> None:
    a, sea, far = EQUATOR, EQUATOR + 1, EQUATOR + 20
    over = overlaps({(a, 0): 1.0, (sea, 1): 1.0, (far, 2): 1.0}, 3)
    land = np.array([0.4, 0.3, 0.0])
    area = fine_land({a: 0.5, far: 0.5})
    state = np.array([[0.9, 0.2, 0.0], [0.1, 0.8, 0.0]])
    base = NO_BASE.copy()
    base[:, far] = [0.25, 0.75]
    found = place(comm, COARSE, over, land, area, base)
    regridded = found.land.apply(state)
    totals = found.totals(comm, regridded)
    assert np.allclose(totals[:, a], [0.9, 0.1], rtol=1e-15)
    assert totals[:, sea].tolist() == [0.0, 0.0]
    assert found.filled[far] == BASE
    assert np.allclose(totals[:, far], [0.25, 0.75])
    delivered = totals @ (found.own_land * found.delivered)
    filled = totals[:, far] * area[far]
    host = state * (found.host_area * land)
    budget = Budget.of(comm, found, host, regridded, totals, delivered[:, None], filled[:, None])
    assert np.allclose(budget.unplaced, state[:, 1] * 0.3 * AREA[sea], rtol=1e-13)
    assert np.allclose(budget.coast_gap, state[:, 0] * (0.4 - 0.5) * AREA[a], rtol=1e-12)
    assert budget.unplaced_cells == 1
    assert budget.closure < 1e-15


def test_fine_land_without_a_state_takes_the_nearest_within_reach(comm) -> None:
    grid = RegularGrid(180, 360)
    area = np.repeat(grid.area_rows, grid.nlon)
    here, near, far = 90 * 360 + 10, 90 * 360 + 12, 90 * 360 + 14
    over = Overlap.from_triplets([here, near, far], [0, 1, 2], area[[here, near, far]], area.size, 3)
    fine = np.zeros(area.size)
    fine[[here, near, far]] = 0.5 * area[[here, near, far]]
    base = np.zeros((2, area.size))
    base[1] = 1.0
    found = place(comm, grid, over, np.array([1.0, 0.0, 0.0]), fine, base)
    # two degrees on the equator are 222 km, four are 445 km
    assert found.filled[[here, near, far]].tolist() == [OWN, NEAREST, BASE]
    totals = found.totals(comm, found.land.apply(np.array([[0.3, 0, 0], [0.7, 0, 0]])))
    assert np.allclose(totals[:, [here, near, far]], [[0.3, 0.3, 0.0], [0.7, 0.7, 1.0]], rtol=1e-15)
    kept = totals.copy()
    other = [found.totals(comm, found.land.apply(np.array([[x, 0, 0], [1 - x, 0, 0]]))) for x in (0.5, 0.25)]
    assert np.array_equal(totals, kept), "totals that are held stay as they are"
    assert [float(one[0, near]) for one in other] == [0.5, 0.25]
    blocks = {one.ctypes.data for one in (totals, *other)}
    del totals, other
    assert found.totals(comm, np.zeros((2, found.cells.size))).ctypes.data in blocks, "others are lent again"


def test_nearest_breaks_ties_to_the_lowest_id_and_wraps() -> None:
    grid = RegularGrid(180, 360)
    row = 90 * 360
    assert nearest(grid, np.array([row + 9, row + 11]), np.array([row + 10])).tolist() == [row + 9]
    assert nearest(grid, np.array([row + 100, row + 359]), np.array([row])).tolist() == [row + 359]
    assert nearest(grid, np.array([row]), np.array([row + 3, row + 2])).tolist() == [-1, row]
    # rows 87.5 and 89.5 N are within 300 km of each other for every longitude difference over the pole
    assert nearest(grid, np.array([179 * 360]), np.array([179 * 360 + 180])).tolist() == [179 * 360]


def test_brute_force_nearest_agrees() -> None:
    grid = RegularGrid(90, 180)
    rng = np.random.default_rng(3)
    chosen = rng.permutation(grid.size)[:600]
    states, needy = np.sort(chosen[:300]), np.sort(chosen[300:])
    lat, lon = np.radians(grid.lat), np.radians(grid.lon)
    point = np.stack([
        np.cos(lat)[:, None] * np.cos(lon), np.cos(lat)[:, None] * np.sin(lon), np.sin(lat)[:, None] + 0 * lon,
    ], axis=-1).reshape(-1, 3)  # fmt: skip
    angle = np.arccos(np.clip(point[needy] @ point[states].T, -1, 1)) * EARTH_RADIUS
    expected = np.where(angle.min(1) <= 300_000, states[np.round(angle, 1).argmin(1)], -1)
    found = nearest(grid, states, needy)
    assert (found == expected).all()
    assert 0 < (found >= 0).sum() < needy.size


def test_global_coverage_is_demanded_where_asked(comm) -> None:
    over = overlaps({(c, 0): 1.0 for c in range(AREA.size - 1)}, 1)
    with pytest.raises(GridError, match=r"leave 1 of 648 coarse cells open, the first at 85\.00 N 175\.00 E"):
        check_coverage(comm, COARSE, np.arange(AREA.size), over.row_sum(), AREA)
    over = overlaps({(c, 0): 1.0 for c in range(AREA.size)}, 1)
    check_coverage(comm, COARSE, np.arange(AREA.size), over.row_sum(), AREA)
