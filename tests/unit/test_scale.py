"""Balance, plans of simulated ranks and a slice of a finer globe."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import small_emulator
from mpi import mpirun
from typer.testing import CliRunner

from ai4land_coupler.cli import app
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import GridError
from ai4land_coupler.gridfile import read_grid
from ai4land_coupler.scale import globe, plans
from ai4land_coupler.scale.balance import balance, tiles_with_land
from ai4land_coupler.scale.simulated import on_ranks
from ai4land_coupler.tiles import all_tiles

PROGRAM = Path(__file__).parents[1] / "parallel" / "programs" / "plan_of_ranks.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_emulator.build(tmp_path_factory.mktemp("emulator"))


def test_the_tiles_of_a_1_km_globe_fall_evenly_on_any_number_of_workers() -> None:
    """The bars of the issue: largest / mean at most 1.04 at 1,024 workers, never more than ceil(tiles / workers)."""
    has_land = tiles_with_land(Emulator.load("igbp-0p05").base_map() > 0, 400, 0.01)
    assert has_land.shape == (45, 90)
    for workers in range(1, 4097, 61):
        made = balance(has_land, workers)
        assert made.largest == -(-made.tiles // workers)
        assert made.tiles + made.sea == 4050
    many = balance(has_land, 1024)
    assert many.ratio == pytest.approx(2 * 1024 / int(has_land.sum()))  # two tiles at most where the mean is below two
    assert many.ratio <= 1.04


def test_tiles_have_land_where_their_cells_have(folder: Path) -> None:
    emulator = Emulator.load(folder)
    land = emulator.base_map() > 0
    tiles = all_tiles(emulator.fine, emulator.coarse, 40)
    expected = [bool(land[tile.rows, tile.cols].any()) for tile in tiles]
    assert tiles_with_land(land, 40, 180 / 160).ravel().tolist() == expected
    assert tiles_with_land(land, 80, 180 / 320).ravel().tolist() == expected
    with pytest.raises(GridError, match="do not divide the globe"):
        tiles_with_land(land, 41, 180 / 160)


def test_simulated_ranks_plan_what_ranks_of_mpi_do(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "plans.json"
    done = mpirun(3, sys.executable, PROGRAM, folder, "latlon:12", out)
    assert done.returncode == 0, done.stderr
    ours = plans.plan(Emulator.load(folder), read_grid("latlon:12").grid, 3)
    theirs = json.loads(out.read_text())
    for mine, its in zip(ours, theirs, strict=True):
        assert [mine.host_cells, mine.tiles, mine.fine_cells, mine.plan_bytes] == its["held"]
        assert mine.step_bytes == its["step_bytes"]
    assert sum(one.fine_cells for one in ours) == np.count_nonzero(Emulator.load(folder).base_map())


def test_a_ranks_share_shrinks_as_ranks_grow(folder: Path) -> None:
    emulator, host = Emulator.load(folder), read_grid("latlon:6").grid
    few, many = (plans.plan(emulator, host, ranks) for ranks in (2, 16))
    for name in ("plan_bytes", "field_bytes", "step_bytes"):
        assert max(getattr(one, name) for one in many) < 0.5 * max(getattr(one, name) for one in few)


def test_a_simulated_rank_that_fails_ends_all() -> None:
    def program(comm) -> None:
        assert comm.sum(np.ones(1, np.int64))[0] == 4
        if comm.rank == 2:
            raise KeyError("rank 2")
        comm.barrier()
        comm.max(0.0)

    with pytest.raises(KeyError, match="rank 2"):
        on_ranks(4, program)


def test_a_slice_is_run_and_the_globe_follows(folder: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(globe, "NATIVE", (90, 180))
    monkeypatch.setattr(globe.build, "__defaults__", ((90, 180),))
    out = tmp_path / "plan.json"
    asked = [
        "plan",
        "--emulator",
        folder,
        "--step",
        180 / 320,
        "--tile",
        80,
        "--tiles",
        2,
        "--ranks",
        "4",
        "--out",
        out,
    ]
    done = CliRunner().invoke(app, [str(part) for part in asked])
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text())
    run = report["slice"]
    assert run["tiles"] == 2
    assert run["land_tiles"] == balance(tiles_with_land(Emulator.load(folder).base_map() > 0, 80, 180 / 320), 1).tiles
    assert run["land_cells"] == 4 * np.count_nonzero(Emulator.load(folder).base_map())
    assert run["globe_year_s"] == run["land_tiles"] * run["year_s"] > 0
    assert len(report["plans"]["4"]) == 4
    assert [one["workers"] for one in report["balance"]][-1] == 4096
    assert "1024 workers" in done.output.replace(",", "")


def test_steps_that_do_not_divide_the_cells_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(GridError, match="do not divide those of small"):
        globe.build(tmp_path / "made", Emulator.load(folder), 0.5, 80)
