"""`constraint.mode: change`: the base map plus the host's change, exact, stateless, and the same on any deal."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import small_emulator
from mpi import mpirun
from mpi4py import MPI

from ai4land_coupler.component import Component
from ai4land_coupler.config import Config
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import RestartError
from ai4land_coupler.grids import HostGrid
from ai4land_coupler.replay import run as replay

LEGEND = small_emulator.LEGEND


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_emulator.build(tmp_path_factory.mktemp("emulator"))


def hosts(side: float) -> HostGrid:
    south, west = np.meshgrid(np.arange(-90, 90, side), np.arange(-180, 180, side), indexing="ij")
    south, west = south.ravel(), west.ravel()
    lon, lat = (
        np.stack([west, west + side, west + side, west]).T,
        np.stack([south, south, south + side, south + side]).T,
    )
    return HostGrid(np.arange(south.size) * 5, lon, lat, np.full(south.size, 0.8))


def even(n: int) -> np.ndarray:
    return np.full((len(LEGEND), n), 1 / len(LEGEND))


def moved(n: int) -> np.ndarray:
    """A quarter of the first class goes to the third, in every second cell; elsewhere nothing changes."""
    change = np.zeros((len(LEGEND), n))
    change[0, ::2], change[2, ::2] = -0.0625, 0.0625
    return even(n) + change


def component(folder: Path, side: float, **config: object) -> Component:
    land = Component.init(Config(emulator=str(folder), constraint={"mode": "change"}, **config), MPI.COMM_SELF)
    land.set_grid(hosts(side))
    return land


def fields(land: Component) -> dict[str, np.ndarray]:
    return {name: land.get("fine", name) for name in (*LEGEND, "class", "filled", "area", "lon", "lat", "cell_id")}


def step(land: Component, year: int, state: np.ndarray) -> dict[str, np.ndarray]:
    land.step(year, dict(zip(LEGEND, state, strict=True)))
    return fields(land)


def base_of(folder: Path, found: Mapping[str, np.ndarray]) -> np.ndarray:
    return Emulator.load(folder).base_map().ravel()[found["cell_id"].astype(int) - 1]


def same(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    return set(a) == set(b) and all(a[name].tobytes() == b[name].tobytes() for name in a)


def by_host(found: Mapping[str, np.ndarray], side: float) -> tuple[np.ndarray, np.ndarray]:
    """Areas (K, n) of the classes under each host cell of whole coarse cells, and the land (n,)."""
    across = int(360 / side)
    at = ((found["lat"] + 90) // side).astype(int) * across + ((found["lon"] + 180) // side).astype(int)
    n = across * int(180 / side)
    return (
        np.stack([np.bincount(at, weights=found[k] * found["area"], minlength=n) for k in LEGEND]),
        np.bincount(at, weights=found["area"], minlength=n),
    )


@pytest.mark.parametrize("side", [11.25, 22.5])
def test_a_year_without_change_is_the_base_map_bit_for_bit(folder: Path, side: float) -> None:
    state = moved(hosts(side).size)
    with component(folder, side) as land:
        first = step(land, 2000, state)
        base = base_of(folder, first)
        assert first["class"].tobytes() == base.astype(np.float64).tobytes()
        for k, name in enumerate(LEGEND):
            assert first[name].tobytes() == (base == k + 1).astype(np.float64).tobytes()
        other = step(land, 2001, even(hosts(side).size))
        assert not same(first, other)
        assert same(first, step(land, 2005, state)), "nothing depends on the years in between"


@pytest.mark.parametrize("side", [11.25, 22.5])
def test_the_change_of_every_host_is_made_or_reported_as_cut(folder: Path, tmp_path: Path, side: float) -> None:
    n = hosts(side).size
    output = {"folder": tmp_path, "fractions": "none"}
    with component(folder, side, output=output) as land:
        first = step(land, 2000, even(n))
        second = step(land, 2001, moved(n))
    assert not second["filled"].any()
    before, whole = by_host(first, side)
    after, _ = by_host(second, side)
    on_land, lands = whole > 0, np.maximum(whole, 1.0)
    change = ((after - before) / lands)[:, on_land]
    had = (before[0] / lands)[on_land]
    asked = np.where(np.arange(n) % 2, 0.0, 0.0625)[on_land]
    lost = np.minimum(asked, had)
    assert (lost < asked).any()
    assert (had > asked).any()
    if side == 22.5:  # a host cell of four coarse cells loses wherever it has something to lose
        assert np.abs(change - np.stack([-lost, 0 * lost, lost, 0 * lost])).max() <= 2e-12
    area = (second["class"] != first["class"]) * second["area"]
    assert (first["class"][area > 0] == 1).all()
    assert (second["class"][area > 0] == 3).all()
    untouched = first["class"] != 1
    for name in LEGEND:
        assert first[name][untouched].tobytes() == second[name][untouched].tobytes()
    report = json.loads((tmp_path / "report.json").read_text())["years"]
    assert not any(report[0]["cut_area_km2"].values())
    cut = report[1]["cut_area_km2"]
    expected = ((asked - lost) * whole[on_land]).sum() * 1e-6
    assert cut["forest"] == pytest.approx(-expected, rel=1e-9)
    assert cut["cropland"] == pytest.approx(expected, rel=1e-9)
    assert cut["grassland"] == cut["barren"] == 0
    assert max(year["closure"] for year in report) <= 1e-12
    assert max(year["largest_residual"] for year in report) <= 1e-12
    with netCDF4.Dataset(tmp_path / "ai4land_2001.nc") as file:
        assert float(np.nansum(file["cut"][0].filled(np.nan))) * 1e-6 == pytest.approx(-expected, rel=1e-9)


def test_land_without_a_state_of_its_own_keeps_the_base_map(folder: Path) -> None:
    grid = hosts(22.5)
    grid = HostGrid(grid.cell_id, grid.vertex_lon, grid.vertex_lat, np.where(np.arange(grid.size) % 3, 0.8, 0.0))
    config = Config(emulator=str(folder), constraint={"mode": "change"})
    with Component.init(config, MPI.COMM_SELF) as land:
        land.set_grid(grid)
        step(land, 2000, even(grid.size))
        found = step(land, 2001, moved(grid.size))
    alone = found["filled"] > 0
    assert set(np.unique(found["filled"])) == {0.0, 2.0}
    assert (found["class"] == base_of(folder, found))[alone].all()
    assert (found["class"] != base_of(folder, found)).any()


def test_restarts_keep_the_first_year_and_are_no_other_modes(folder: Path, tmp_path: Path) -> None:
    n = hosts(22.5).size
    with component(folder, 22.5) as land:
        step(land, 2000, even(n))
        second = step(land, 2001, moved(n))
        land.write_restart(tmp_path / "r.nc")
        third = step(land, 2002, moved(n)[::-1].copy())
    with component(folder, 22.5) as land:
        step(land, 1990, moved(n))
        land.read_restart(tmp_path / "r.nc")
        assert same(second, fields(land))
        assert same(third, step(land, 2002, moved(n)[::-1].copy())), "the base stays that of the restart"
    with Component.init(Config(emulator=str(folder)), MPI.COMM_SELF) as land:
        land.set_grid(hosts(22.5))
        with pytest.raises(RestartError, match="another constraint: it has change, this run has level"):
            land.read_restart(tmp_path / "r.nc")


def test_backward_in_time_with_a_lag_and_replayed(folder: Path, tmp_path: Path) -> None:
    n = hosts(22.5).size
    states = [even(n), moved(n), moved(n)[::-1].copy()]
    with component(folder, 22.5, time="backward") as land:
        plain = [step(land, 2000 - i, state) for i, state in enumerate(states)]
    kept = tmp_path / "record.nc"
    with component(folder, 22.5, time="backward", lag=1, record=kept) as land:
        lagged = [step(land, 2000 - i, state) for i, state in enumerate([*states, states[0]])]
    assert [same(a, b) for a, b in zip(plain, lagged[1:], strict=True)] == [True, True, True]
    assert replay(kept) == 0


def ranks(folder: Path, out: Path, n: int, how: str, *options: object) -> dict[str, np.ndarray]:
    program = Path(__file__).parent / "programs" / "deal.py"
    done = mpirun(n, sys.executable, program, folder, out, how, "--mode", "change", *options)
    assert done.returncode == 0, done.stderr
    with np.load(out) as file:
        return dict(file)


def test_same_bits_on_other_ranks_and_after_a_restart(folder: Path, tmp_path: Path) -> None:
    """12 degree hosts, some of them larger than the coarse cells."""
    one = ranks(folder, tmp_path / "1.npz", 1, "bands", "--years", "2001,2003,2004")
    kept = tmp_path / "restart.nc"
    ranks(folder, tmp_path / "2.npz", 3, "random", "--years", "2001,2003", "--lag", 1, "--restart-to", kept)
    on = ranks(folder, tmp_path / "3.npz", 2, "blocks", "--years", "2004", "--restart-from", kept)
    assert {name for name in one if one[name].tobytes() != on[name].tobytes()} == set()
