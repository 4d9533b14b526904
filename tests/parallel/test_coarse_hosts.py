"""Host cells larger than coarse cells: the network decides how their state is shared out, and nothing is lost."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import small_emulator
from mpi import mpirun
from mpi4py import MPI

from ai4land_coupler.coarsehosts import totals
from ai4land_coupler.component import Component
from ai4land_coupler.config import Config
from ai4land_coupler.grids import HostGrid, RegularGrid
from ai4land_coupler.hostshares import are_large

sys.path.insert(0, str(Path(__file__).parent / "programs"))

import deal

LEGEND = small_emulator.LEGEND
SIDE = 22.5
"""Four coarse cells of the small emulator to a host cell."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_emulator.build(tmp_path_factory.mktemp("emulator"))


def hosts() -> HostGrid:
    south, west = np.meshgrid(-90 + SIDE * np.arange(8), -180 + SIDE * np.arange(16), indexing="ij")
    south, west = south.ravel(), west.ravel()
    lon, lat = (
        np.stack([west, west + SIDE, west + SIDE, west]).T,
        np.stack([south, south, south + SIDE, south + SIDE]).T,
    )
    return HostGrid(np.arange(128) * 5, lon, lat, np.full(128, 0.6))


def run(folder: Path, years: tuple[int, ...] = (2001,), **config: object) -> dict[str, np.ndarray]:
    grid = hosts()
    with Component.init(Config(emulator=str(folder), **config), MPI.COMM_SELF) as land:
        land.set_grid(grid)
        for year in years:
            land.step(year, deal.state(grid.cell_id, land.legend, year))
        found = {name: land.get("fine", name) for name in (*LEGEND, "area", "lon", "lat", "class", "filled")}
        return found | {f"host_{name}": land.get("host", name) for name in LEGEND}


def coarse_means(found: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means (K, m) of the fractions over the land of coarse cells (m,), and that land's area."""
    column, row = ((found["lon"] + 180) // 11.25).astype(int), ((found["lat"] + 90) // 11.25).astype(int)
    cells, at = np.unique(row * 32 + column, return_inverse=True)
    area = np.bincount(at, weights=found["area"])
    return np.stack([np.bincount(at, weights=found[k] * found["area"]) for k in LEGEND]) / area, cells, area


def test_the_totals_are_those_of_the_rule_and_the_state_of_every_host_is_kept(folder: Path, tmp_path: Path) -> None:
    """What the network says freely gives q; a host cell's land is the emulator's land in its four coarse cells."""
    output = {"folder": tmp_path, "fractions": "none"}
    found, free = run(folder, output=output), run(folder, constraint={"mode": "none"})
    q, cells, area = coarse_means(free)
    host = cells // 64 * 16 + cells % 32 // 2
    state = np.stack(list(deal.state(hosts().cell_id, LEGEND, 2001).values()))
    wanted = totals(q, host, np.arange(cells.size), area, state)
    means, same_cells, _ = coarse_means(found)
    assert same_cells.tolist() == cells.tolist()
    assert np.abs(means - wanted).max() <= 3e-12
    assert np.abs(wanted - state[:, host]).max() > 0.05, "spread evenly they would be the state itself"
    whole = np.bincount(host, weights=area, minlength=128)
    met = np.stack([np.bincount(host, weights=area * part, minlength=128) for part in means])[:, whole > 0]
    assert np.abs(met / whole[whole > 0] - state[:, whole > 0]).max() <= 1e-12
    assert not found["filled"].any()
    year = json.loads((tmp_path / "report.json").read_text())["years"][0]
    assert year["closure"] <= 1e-12
    assert year["largest_residual"] <= 1e-12
    assert year["roundtrip"] <= 1e-12, "host cells of whole coarse cells get their own state back"


def test_lag_serves_the_same_bits_a_year_later(folder: Path) -> None:
    plain, lagged = run(folder), run(folder, (2001, 2003, 2005), lag=1)
    again = run(folder, (2001, 2003))
    assert [k for k in LEGEND if lagged[k].tobytes() != again[k].tobytes()] == []
    assert any(plain[k].tobytes() != again[k].tobytes() for k in LEGEND)


def test_which_hosts_are_coarse() -> None:
    """Half a cell off or somewhat smaller is not; the 12 degree hosts of the tests of deals are."""
    grid = RegularGrid(16, 32)
    for shift in (0.0, 0.5):
        same = RegularGrid(16, 32)
        lat = np.clip(same.lat + shift * 11.25, -84, 84)
        area = 6371000.0**2 * np.radians(11.25) * (np.sin(np.radians(lat + 5.6)) - np.sin(np.radians(lat - 5.6)))
        assert not are_large(grid, lat, area).any()
    everyone = deal.cells()
    lat = everyone.centre[1]
    area = 6371000.0**2 * np.radians(12) * (np.sin(np.radians(lat + 6)) - np.sin(np.radians(lat - 6)))
    assert are_large(grid, lat, area)[np.abs(lat) < 70].mean() > 0.5


@pytest.fixture(scope="module")
def one_rank(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return ranks(folder, tmp_path_factory.mktemp("one") / "out.npz", 1, "bands", "--years", "2001,2003")


def ranks(folder: Path, out: Path, n: int, how: str, *options: object) -> dict[str, np.ndarray]:
    program = Path(__file__).parent / "programs" / "deal.py"
    done = mpirun(n, sys.executable, program, folder, out, how, "--grid", "latlon:30", *options)
    assert done.returncode == 0, done.stderr
    with np.load(out) as file:
        return dict(file)


@pytest.mark.parametrize(("n", "how"), [(2, "random"), (3, "bands")])
def test_hosts_over_several_ranks_give_the_same_bits(folder, one_rank, tmp_path, n, how) -> None:
    """A restart on those ranks, the rest of the run on others with a lag."""
    kept = tmp_path / "restart.nc"
    first = ranks(folder, tmp_path / "1.npz", n, how, "--years", "2001", "--restart-to", kept)
    second = ranks(
        folder, tmp_path / "2.npz", 5 - n, how, "--years", "2003,2004", "--lag", 1, "--restart-from", kept
    )  # fmt: skip
    assert {name for name in one_rank if one_rank[name].tobytes() != second[name].tobytes()} == set()
    assert first["year"] == 2001
