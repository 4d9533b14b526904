"""Networks that are given the map of the year before: the same bits on any deal, after restarts and with a lag."""

import sys
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import small_emulator
from mpi import mpirun
from mpi4py import MPI

from ai4land_coupler.comm import Communicator
from ai4land_coupler.component import Component
from ai4land_coupler.config import Config
from ai4land_coupler.domain import Domain
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.priormap import PriorMap

sys.path.insert(0, str(Path(__file__).parent / "programs"))

import deal

LEGEND = small_emulator.LEGEND


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_emulator.build(tmp_path_factory.mktemp("emulator"), prior=True)


def test_windows_hold_the_maps_of_the_tiles_around_and_the_base_map_elsewhere(folder: Path) -> None:
    """Every delivered cell is given the class of a made-up field; halos are wider than a tile and cross the date line.

    Only the eastern half has host cells.
    """
    emulator, comm = Emulator.load(folder), Communicator(MPI.COMM_SELF)
    everyone = deal.cells()
    domain = Domain.build(comm, emulator, Config(emulator=str(folder)).regrid, everyone.take(everyone.centre[0] > 0))
    prior = PriorMap.build(emulator, domain, comm.rank)
    made = (emulator.base_map() % 4 + 1).astype(np.uint8)
    whole = emulator.base_map().copy()
    whole.reshape(-1)[domain.cells()] = made.reshape(-1)[domain.cells()]
    assert (whole != emulator.base_map()).any()
    maps = [whole[cells.tile.rows, cells.tile.cols] for cells in domain.own]
    halo, nlat, nlon = emulator.halo, *whole.shape
    padded = np.zeros((nlat + 2 * halo, nlon), np.uint8)
    padded[halo:-halo] = whole
    for cells, window in zip(domain.own, prior.windows(comm, maps), strict=True):
        rows = slice(cells.tile.row0, cells.tile.row0 + cells.tile.size + 2 * halo)
        cols = np.arange(cells.tile.col0 - halo, cells.tile.col0 + cells.tile.size + halo) % nlon
        assert window.tobytes() == np.ascontiguousarray(padded[rows][:, cols]).tobytes()
    assert prior.gather(comm, maps).tobytes() == whole.tobytes()
    assert [a.tobytes() for a in prior.scatter(comm, whole)] == [b.tobytes() for b in maps]
    comm.free()


def test_the_first_year_is_given_the_base_map_and_later_ones_the_map_before(folder: Path) -> None:
    """With the state held still the fields still change: from 2001 to 2003 the map before is another one."""
    grid = deal.cells()
    state = deal.state(grid.cell_id, LEGEND, 2001)
    with Component.init(Config(emulator=str(folder)), MPI.COMM_SELF) as land:
        land.set_grid(grid)
        first = np.stack(list(land.step(2001, state).values()))
        drawn = land.get("fine", "class")
        second = np.stack(list(land.step(2003, state).values()))
        assert land.get("fine", "class").tobytes() != drawn.tobytes()
        years = land._years
        assert years is not None
        fields = years.served
        assert fields.priors is not None
        inner = slice(land.emulator.halo, land.emulator.halo + land.emulator.tile)
        seen = [
            window[inner, inner].reshape(-1)[c.inside]
            for window, c in zip(fields.priors, years.domain.own, strict=True)
        ]
        assert np.concatenate(seen).astype(np.float64).tobytes() == drawn.tobytes()
    assert np.abs(first - second).max() > 0.01


def ranks(folder: Path, out: Path, n: int, how: str, *options: object) -> dict[str, np.ndarray]:
    program = Path(__file__).parent / "programs" / "deal.py"
    done = mpirun(n, sys.executable, program, folder, out, how, *options, timeout=300)
    assert done.returncode == 0, done.stderr
    with np.load(out) as file:
        return dict(file)


def test_the_same_bits_on_other_ranks_after_a_restart_and_with_a_lag(folder: Path, tmp_path: Path) -> None:
    """Three years on one rank; two on 3 ranks with a lag, a restart with 2003 in the making, the third on 2."""
    kept = tmp_path / "restart.nc"
    one = ranks(folder, tmp_path / "1.npz", 1, "bands", "--years", "2001,2003,2004")
    ranks(folder, tmp_path / "2.npz", 3, "random", "--years", "2001,2003", "--lag", 1, "--restart-to", kept)
    on = ranks(folder, tmp_path / "3.npz", 2, "bands", "--years", "2004", "--restart-from", kept)
    assert {name for name in one if one[name].tobytes() != on[name].tobytes()} == set()
    with netCDF4.Dataset(kept) as file:
        assert (file["prior"][:] == Emulator.load(folder).base_map()).all(), "2001 was the first"
