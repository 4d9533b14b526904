"""Figures of `ai4land bench`: values from raw samples, fitted exponents, the file that hosts read, tiles of 1 km."""

from pathlib import Path

import numpy as np
import pytest
import small_emulator

from ai4land_coupler.bench.apply import cubed_sphere, weights
from ai4land_coupler.bench.balance import TILE, land_tiles
from ai4land_coupler.bench.figures import BARS, Figure, exponent, ratios
from ai4land_coupler.bench.hostfile import HostCells, crowd, global_host
from ai4land_coupler.bench.report import document
from ai4land_coupler.bench.timer import alternate
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import UsageError
from ai4land_coupler.grids import EARTH_RADIUS, RegularGrid


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    return Emulator.load(small_emulator.build(tmp_path_factory.mktemp("emulator")))


def test_a_figure_is_the_statistic_of_its_samples() -> None:
    odd = Figure("put_get_ratio", (1.3, 1.0, 1.1, 9.0, 1.2))
    assert (odd.value, odd.spread) == (1.2, pytest.approx(0.2))  # sorted 1.0 1.1 1.2 1.3 9.0: quartiles 1.1 and 1.3
    p99 = Figure("hook_us_p99", tuple(range(1, 102)), "p99")
    assert p99.value == 100.0
    assert odd.entry()["repeats"] == 5
    assert odd.entry()["bar"] == 1.2


def test_a_figure_without_samples_says_why() -> None:
    missing = Figure("peak_gb", why="nobody looked")
    assert (missing.value, missing.spread, missing.entry()["why"]) == (None, None, "nobody looked")
    for wrong in ({"raw": ()}, {"raw": (1.0,), "why": "both"}, {"raw": (float("nan"),)}):
        with pytest.raises(UsageError, match="peak_gb"):
            Figure("peak_gb", **wrong)
    with pytest.raises(UsageError, match="above 0"):
        Figure("apply_ratio", (1.0, 0.0))
    with pytest.raises(UsageError, match="known name"):
        Figure("apply", (1.0,))


def test_a_report_has_every_figure_once() -> None:
    figures = [Figure(name, why="not tried") for name in BARS]
    assert list(document(figures[::-1], {}, {})["figures"]) == list(BARS)
    for wrong in (figures[1:], [*figures, figures[0]]):
        with pytest.raises(UsageError, match="once"):
            document(wrong, {}, {})


def test_samples_taken_in_turn_are_paired() -> None:
    calls: list[str] = []
    seconds = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2, warm=1)
    assert calls == list("ababab")
    assert [len(taken) for taken in seconds.values()] == [2, 2]
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    with pytest.raises(UsageError, match="paired"):
        ratios([1.0], [1.0, 2.0])


def test_exponents_of_powers() -> None:
    size = np.array([1, 2, 8, 50])
    assert exponent(size, 3.0 * size**1.5) == pytest.approx(1.5)


def test_hosts_read_what_was_written(emulator: Emulator, tmp_path: Path) -> None:
    whole = global_host(emulator)
    whole.write(tmp_path / "globe.bin")
    read = HostCells.read(tmp_path / "globe.bin")
    assert read.names == emulator.legend
    for name in ("cell_id", "vertex_lon", "vertex_lat", "land_fraction"):
        assert np.array_equal(getattr(read.grid, name), getattr(whole.grid, name))
    assert np.array_equal(read.state, whole.state)
    bands = [read.band(rank, 3) for rank in range(3)]
    assert np.array_equal(np.concatenate([band.grid.cell_id for band in bands]), whole.grid.cell_id)
    assert np.array_equal(np.concatenate([band.state for band in bands], axis=1), whole.state)


def test_the_globe_has_the_land_of_the_base_map(emulator: Emulator) -> None:
    whole, fine = global_host(emulator), emulator.fine
    classes = emulator.base_map()
    area = np.broadcast_to(fine.area_rows[:, None], classes.shape)
    host_area = RegularGrid(8, 16).area_rows[np.arange(128) // 16]
    for k in range(len(emulator.legend)):
        expected = area[classes == k + 1].sum()
        assert (whole.state[k] * whole.grid.land_fraction * host_area).sum() == pytest.approx(expected, rel=1e-9)
    assert np.allclose(whole.state.sum(axis=0), whole.grid.land_fraction > 0)


def test_a_crowd_is_small_cells_over_two_coarse_cells(emulator: Emulator) -> None:
    cells = crowd(emulator, 512)
    lon, lat = cells.grid.vertex_lon, cells.grid.vertex_lat
    assert cells.grid.size == 512
    assert np.ptp(lon) == pytest.approx(2 * 180 / emulator.coarse.nlat)
    assert np.ptp(lat) == pytest.approx(np.ptp(lon))
    inside = np.ptp(lon, axis=1) * np.ptp(lat, axis=1)
    assert inside.sum() == pytest.approx(np.ptp(lon) * np.ptp(lat))  # no gap, no overlap
    empty = crowd(emulator, 0)
    assert (empty.grid.size, empty.state.shape) == (0, (len(emulator.legend), 0))


def test_weights_of_the_cubed_sphere_cover_the_globe() -> None:
    overlap = weights(cubed_sphere(6), RegularGrid(18, 36))
    sphere = 4 * np.pi * EARTH_RADIUS**2
    assert overlap.row_sum().sum() == pytest.approx(sphere, rel=1e-9)
    each = overlap.col_sum()
    assert each.sum() == pytest.approx(sphere, rel=1e-9)
    # cells of one place on their faces have one area, by symmetry; what is left are the edges of regular cells,
    # which are parallels here and great circles there
    assert np.allclose(each.reshape(6, 36)[0], each.reshape(6, 36)[1], rtol=2e-3)


def test_tiles_with_land_of_a_1_km_globe() -> None:
    land = np.zeros((3600, 7200), dtype=bool)
    edge = TILE // 5  # cells of 0.05 degree along a tile of 400 cells of 0.01
    land[0, 0] = land[edge - 1, edge - 1] = True  # one tile
    land[edge, 7199] = True  # another
    assert land_tiles(land) == 2
    assert land_tiles(np.ones((3600, 7200), dtype=bool)) == 45 * 90
