"""One rank, many hosts: what comes back is what went in, on any grid the emulator can be driven from."""

import sys
from pathlib import Path

import numpy as np
import pytest
import small_emulator
from mpi import mpirun
from mpi4py import MPI

from ai4land_coupler.component import Component
from ai4land_coupler.config import Config
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import GridError
from ai4land_coupler.grids import EARTH_RADIUS, HostGrid

LEGEND = small_emulator.LEGEND


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_emulator.build(tmp_path_factory.mktemp("emulator"))


def rectangles(south: np.ndarray, west: np.ndarray, dlat: float, dlon: float, land: float = 1.0) -> HostGrid:
    south, west = (x.ravel() for x in np.meshgrid(south, west, indexing="ij"))
    return HostGrid(
        np.arange(1, south.size + 1),
        np.stack([west, west + dlon, west + dlon, west], axis=1),
        np.stack([south, south, south + dlat, south + dlat], axis=1),
        np.full(south.size, land),
    )


def random_state(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.random((len(LEGEND), n)) * (rng.random((len(LEGEND), n)) < 0.7) + 1e-9
    x[:, rng.random(n) < 0.2] = np.eye(len(LEGEND))[0][:, None]
    return x / x.sum(axis=0)


def run(folder: Path, grid: HostGrid, state: np.ndarray, **config: object) -> Component:
    land = Component.init(Config(emulator=str(folder), **config), MPI.COMM_SELF)
    land.set_grid(grid)
    land.step(2000, dict(zip(LEGEND, state, strict=True)))
    return land


def fine(land: Component) -> np.ndarray:
    return np.stack([land.get("fine", name) for name in LEGEND])


def test_host_cells_of_whole_coarse_cells_get_their_state_as_the_mean_of_their_fine_land(folder: Path) -> None:
    grid = rectangles(-90 + 22.5 * np.arange(8), -180 + 22.5 * np.arange(16), 22.5, 22.5, land=0.7)
    state = random_state(grid.size)
    with run(folder, grid, state) as land:
        p, area = fine(land), land.get("fine", "area")
        column = (land.get("fine", "lon") + 180) // 22.5 + 16 * ((land.get("fine", "lat") + 90) // 22.5)
        host = column.astype(int)
        total = np.bincount(host, weights=area, minlength=grid.size)
        assert (total > 0).sum() > 60
        for k, name in enumerate(LEGEND):
            mean = np.bincount(host, weights=p[k] * area, minlength=grid.size)[total > 0] / total[total > 0]
            assert np.abs(mean - state[k][total > 0]).max() < 1e-12
            assert np.abs(land.get("host", name) - state[k]).max() < 1e-12
        assert np.abs(p.sum(axis=0) - 1).max() <= 1e-15 * len(LEGEND)
        assert (land.get("fine", "filled") == 0).all()


def test_classes_absent_from_the_state_are_exactly_absent(folder: Path) -> None:
    grid = rectangles(-90 + 22.5 * np.arange(8), -180 + 22.5 * np.arange(16), 22.5, 22.5)
    state = np.zeros((len(LEGEND), grid.size))
    state[1], state[2] = 0.25, 0.75
    with run(folder, grid, state) as land:
        p = fine(land)
        assert (p[0] == 0).all()
        assert (p[3] == 0).all()
        drawn = land.get("fine", "class")
        assert set(np.unique(drawn)) == {2.0, 3.0}


def test_the_class_map_draws_floor_or_ceil_of_every_total(folder: Path) -> None:
    grid = rectangles(-90 + 11.25 * np.arange(16), -180 + 11.25 * np.arange(32), 11.25, 11.25)
    state = random_state(grid.size, 4)
    with run(folder, grid, state) as land:
        host = ((land.get("fine", "lon") + 180) // 11.25 + 32 * ((land.get("fine", "lat") + 90) // 11.25)).astype(int)
        n = np.bincount(host, minlength=grid.size)
        for k in range(len(LEGEND)):
            drawn = np.bincount(host, weights=land.get("fine", "class") == k + 1, minlength=grid.size)
            assert (np.abs(drawn - n * state[k])[n > 0] < 1 + 1e-9).all()


def test_a_regional_host_gets_only_its_own_land(folder: Path) -> None:
    grid = rectangles(np.array([0.0, 10.0]), np.array([170.0, 180.0]), 10.0, 10.0)
    with run(folder, grid, random_state(grid.size)) as land:
        lon, lat = land.get("fine", "lon") % 360, land.get("fine", "lat")
        assert lon.size > 0
        assert lon.min() > 168.75 - 1e-9
        assert lon.max() < 191.25 + 1e-9
        assert lat.min() > 0
        assert lat.max() < 22.5
        emulator = Emulator.load(folder)
        cells = land.get("fine", "cell_id").astype(int) - 1
        assert (emulator.base_map().ravel()[cells] > 0).all()
        # every land cell of every coarse cell touched: rows of 11.25 degree from the equator, columns from 168.75 E
        mask = np.zeros((160, 320), dtype=bool)
        mask[80:100, 310:] = mask[80:100, :10] = True
        assert cells.size == (emulator.base_map()[mask] > 0).sum()


def test_a_host_without_land_fills_from_the_base_map(folder: Path) -> None:
    grid = rectangles(-90 + 22.5 * np.arange(8), -180 + 22.5 * np.arange(16), 22.5, 22.5, land=0.0)
    with run(folder, grid, np.zeros((len(LEGEND), grid.size))) as land:
        assert (land.get("fine", "filled") == 2).all()
        cells = land.get("fine", "cell_id").astype(int) - 1
        assert (land.get("fine", "class") == Emulator.load(folder).base_map().ravel()[cells]).all()
        assert all((land.get("host", name) == 0).all() for name in LEGEND)


def test_geometry_of_both_grids(folder: Path) -> None:
    grid = rectangles(np.array([0.0]), np.array([175.0, 185.0]), 10.0, 10.0, land=0.5)
    land = Component.init(Config(emulator=str(folder)), MPI.COMM_SELF)
    with land:
        land.set_grid(grid)
        assert np.allclose(land.get("host", "lon"), [-180.0, -170.0])
        expected = EARTH_RADIUS**2 * np.radians(10) * np.sin(np.radians(10))
        assert np.allclose(land.get("host", "area"), expected, rtol=1e-12)
        assert land.get("host", "cell_id").tolist() == [1.0, 2.0]
        ids = land.get("fine", "cell_id").astype(int) - 1
        assert np.allclose(land.get("fine", "lon"), -180 + (ids % 320 + 0.5) * 1.125)
        assert np.allclose(land.get("fine", "lat"), -90 + (ids // 320 + 0.5) * 1.125)
        assert (land.get("fine", "land_fraction") == 1).all()
        assert land.size("fine") == ids.size


def test_two_components_live_at_once(folder: Path) -> None:
    grid = rectangles(-90 + 22.5 * np.arange(8), -180 + 22.5 * np.arange(16), 22.5, 22.5)
    state = random_state(grid.size)
    with run(folder, grid, state) as a, run(folder, grid, state[::-1].copy()) as b:
        assert a.get("fine", "forest").tobytes() != b.get("fine", "forest").tobytes()
        a.step(2001, dict(zip(LEGEND, state[::-1], strict=True)))
        assert a.get("fine", "forest").tobytes() == b.get("fine", "forest").tobytes()


def test_two_components_on_two_communicators(tmp_path: Path) -> None:
    """Their hooks in turn, one with `lag: 1` on some of the ranks in another order: each serves what it does alone."""
    emulator = small_emulator.build(tmp_path / "small", coarse=(8, 16))
    program = Path(__file__).parent / "programs" / "two_components.py"
    done = mpirun(3, sys.executable, program, emulator, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "same\n"


def test_backward_runs_go_back(folder: Path) -> None:
    grid = rectangles(np.array([0.0]), np.array([0.0]), 10.0, 10.0)
    with run(folder, grid, random_state(1), time="backward") as land:
        land.step(1990, dict(zip(LEGEND, random_state(1, 2), strict=True)))
        assert land.get("host", "year") == 1990


def test_overlapping_cells_are_refused_by_name(folder: Path) -> None:
    grid = rectangles(np.array([0.0]), np.array([0.0, 9.0]), 10.0, 10.0)
    land = Component.init(Config(emulator=str(folder)), MPI.COMM_SELF)
    with land, pytest.raises(GridError, match=r"1.*2.*overlap|overlap.*1.*2"):
        land.set_grid(grid)


def test_mode_none_leaves_the_network_alone(folder: Path) -> None:
    grid = rectangles(-90 + 22.5 * np.arange(8), -180 + 22.5 * np.arange(16), 22.5, 22.5)
    state = random_state(grid.size)
    with run(folder, grid, state) as closed, run(folder, grid, state, constraint={"mode": "none"}) as free:
        assert np.abs(fine(free).sum(axis=0) - 1).max() < 1e-12
        assert np.abs(fine(free) - fine(closed)).max() > 0.01
