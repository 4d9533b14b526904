"""Yearly files of a run, scored against observed maps of a part of its grid."""

import json
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import small_emulator
from mpi4py import MPI
from typer.testing import CliRunner

from ai4land_coupler.cli import app
from ai4land_coupler.component import Component
from ai4land_coupler.config import Config
from ai4land_coupler.domain import base_state
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import ConfigError
from ai4land_coupler.grids import HostGrid
from ai4land_coupler.training.scores import rollout, runscore

YEARS = (2019, 2021)
ROWS, COLS = slice(60, 110), slice(35, 128)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Emulator, Path]:
    folder = tmp_path_factory.mktemp("run")
    emulator = Emulator.load(small_emulator.build(folder / "small"))
    corners = emulator.coarse.corners(np.arange(emulator.coarse.size))
    totals, area = base_state(emulator, np.arange(emulator.coarse.size))
    config = Config.model_validate({"emulator": str(emulator.path), "output": {"folder": str(folder / "out")}})
    with Component.init(config, MPI.COMM_SELF) as land:
        land.set_grid(HostGrid(np.arange(area.size), *corners, (area > 0) * 1.0))
        for year, moved in zip(YEARS, (0.0, 0.3), strict=True):
            state = np.where(area > 0, totals, 0.25)
            state = np.stack([state[0] * (1 - moved), state[1], state[2] + moved * state[0], state[3]])
            land.step(year, dict(zip(land.legend, state / state.sum(0), strict=True)))
    return emulator, folder / "out"


def observe(path: Path, emulator: Emulator, maps: list[np.ndarray], years: tuple[int, ...], flip: bool = False) -> Path:
    """Maps of a part of the grid, north first where `flip`, with class numbers of their own."""
    order = np.s_[::-1] if flip else np.s_[:]
    with netCDF4.Dataset(path, "w") as file:
        for name, values in (
            ("year", years),
            ("lat", emulator.fine.lat[ROWS][order]),
            ("lon", emulator.fine.lon[COLS]),
        ):
            file.createDimension(name, len(values))
            file.createVariable(name, "f8" if name != "year" else "i4", (name,))[:] = values
        field = file.createVariable("lulc", "u1", ("year", "lat", "lon"))
        codes = np.array([0, 40, 30, 20, 10], np.uint8)
        field.flag_values, field.flag_meanings = codes, "none forest grassland cropland barren"
        field[:] = codes[np.stack([values[ROWS, COLS] for values in maps])][:, order]
    return path


def of_run(folder: Path, year: int) -> np.ndarray:
    with netCDF4.Dataset(folder / f"ai4land_{year}.nc") as file:
        file.set_auto_mask(False)
        return np.asarray(file["class"][0])


@pytest.mark.parametrize("flip", [False, True])
def test_a_run_that_is_right_has_a_figure_of_merit_of_one(
    run: tuple[Emulator, Path], tmp_path: Path, flip: bool
) -> None:
    emulator, folder = run
    maps = [of_run(folder, year) for year in YEARS]
    path = observe(tmp_path / "observed.nc", emulator, maps, YEARS, flip)
    result, last = runscore.score_run(folder, path)
    assert result["base"] == 2019
    ((entry,), (other,)) = (result["scores"][name] for name in ("model", "neighbours"))
    assert entry["year"] == 2021
    assert entry["figure_of_merit"]["1"]["figure_of_merit"] == 1
    assert entry["accuracy"] == 1
    assert entry["observed_change"] > 0.02
    assert other["figure_of_merit"]["1"]["figure_of_merit"] < 1
    for name in ("neighbours", "random"):
        assert np.bincount(last["maps"][name].ravel()).tolist() == np.bincount(last["maps"]["model"].ravel()).tolist()


def test_scores_are_those_of_the_maps(run: tuple[Emulator, Path], tmp_path: Path) -> None:
    emulator, folder = run
    base = emulator.base_map()
    seen = np.where(base == 1, 3, base).astype(np.uint8)
    path = observe(tmp_path / "observed.nc", emulator, [seen, base], (2021, 1990))
    done = CliRunner().invoke(app, [
        "evaluate", "--run", str(folder), "--observed", str(path), "--json", str(tmp_path / "scores.json"),
        "--plots", str(tmp_path / "plots"),
    ])  # fmt: skip
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "scores.json").read_text())
    assert result["base"] == 1990
    area = np.repeat(emulator.fine.area_rows[ROWS, None], COLS.stop - COLS.start, axis=1)
    made = of_run(folder, 2021)
    parts = [values[ROWS, COLS] for values in (base, seen, made)]
    expected = rollout.figure_of_merit(*parts, area, 5)
    assert result["scores"]["model"][0]["figure_of_merit"]["5"] == pytest.approx(expected)
    assert (tmp_path / "plots" / "change_2021.png").stat().st_size > 10_000
    assert "neighbours" in done.output


def test_maps_that_do_not_fit_are_refused(run: tuple[Emulator, Path], tmp_path: Path) -> None:
    emulator, folder = run
    base = emulator.base_map()
    with pytest.raises(ConfigError, match="base year"):
        runscore.score_run(folder, observe(tmp_path / "a.nc", emulator, [base], (2021,)))
    path = observe(tmp_path / "b.nc", emulator, [base, base], YEARS)
    with netCDF4.Dataset(path, "a") as file:
        file["lat"][:] = file["lat"][:] + 0.3
    with pytest.raises(ConfigError, match="no centre"):
        runscore.score_run(folder, path)
    with pytest.raises(ConfigError, match="no ai4land_YYYY"):
        runscore.score_run(tmp_path, path)
