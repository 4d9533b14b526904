"""`ai4land run` on files as they come: LUH2's misspelt fill value and year axis, north first, icwtr, all-NaN land."""

import json
import sys
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import small_emulator
from mpi import mpirun

from ai4land_coupler.driver import CoarseStates
from ai4land_coupler.errors import BadInputError, Status

LEGEND = small_emulator.LEGEND
YEARS = (2013, 2014, 2015)
BUDGET = ("host", "fine", "filled", "unplaced", "coast_gap")
AI4LAND = (sys.executable, "-m", "ai4land_coupler")


def luh2_like(path: Path) -> np.ndarray:
    """States of whole cells on a 10 degree grid, north first, sea at 1e20 under `_Fillvalue`; returns 1 - icwtr."""
    lat, lon = 85.0 - 10 * np.arange(18), -175.0 + 10 * np.arange(36)
    icwtr = np.clip(0.5 + 0.6 * np.sin(np.radians(3 * lon))[None, :] * np.cos(np.radians(2 * lat))[:, None], 0, 1)
    rng = np.random.default_rng(0)
    with netCDF4.Dataset(path, "w") as file:
        for name, values in (("lat", lat), ("lon", lon)):
            file.createDimension(name, values.size)
            file.createVariable(name, "f8", (name,))[:] = values
        file.createDimension("time", None)
        time = file.createVariable("time", "f8", ("time",))
        time.setncatts({"units": "years since 850-01-01 0:0:0", "calendar": "noleap"})
        time[:] = np.array(YEARS) - 850
        parts = rng.random((len(LEGEND), len(YEARS), 18, 36))
        parts *= (1 - icwtr) / parts.sum(axis=0)
        for name, values in zip(LEGEND, parts, strict=True):
            variable = file.createVariable(name, "f4", ("time", "lat", "lon"))
            variable.setncatts({"units": "1", "_Fillvalue": np.float32(1e20), "missing_value": np.float32(1e20)})
            variable[:] = np.where(icwtr < 1, values, 1e20)
    return 1 - icwtr


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    folder = tmp_path_factory.mktemp("run")
    small_emulator.build(folder / "emulator")
    (folder / "run.yaml").write_text(
        "emulator: ./emulator\nstate: {fraction_of: cell}\noutput: {folder: out, fractions: [2015]}\n"
    )
    return folder, luh2_like(folder / "states.nc")


def test_the_file_is_read_as_it_is_meant(files: tuple[Path, np.ndarray]) -> None:
    folder, land = files
    states = CoarseStates.open(folder / "states.nc", LEGEND, "cell")
    assert states.years == YEARS
    assert states.shape == land.shape
    assert np.allclose(states.grid.land_fraction, land.ravel(), atol=1e-6)
    assert (states.grid.land_fraction[land.ravel() == 0] == 0).all()
    assert states.grid.vertex_lat[:36].max() == 90.0
    assert states.grid.vertex_lat[-36:].min() == -90.0
    second = CoarseStates.open(folder / "states.nc", LEGEND, "cell", rank=1, size=3)
    assert second.grid.cell_id.tolist() == list(range(217, 433))
    assert np.array_equal(second.read(2014)["forest"], states.read(2014)["forest"][216:432])
    with pytest.raises(BadInputError, match="'woods'"):
        CoarseStates.open(folder / "states.nc", ("woods",), "cell")


def test_a_run_on_two_ranks_writes_years_report_and_restart(files: tuple[Path, np.ndarray]) -> None:
    folder, _ = files
    done = mpirun(2, *AI4LAND, "run", "run.yaml", "states.nc", "--restart-to", "r.nc", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    for year in YEARS:
        assert f"ai4land: {year}" in done.stderr
        assert (folder / "out" / f"ai4land_{year}.nc").exists()
    assert (folder / "r.nc").exists()
    report = json.loads((folder / "out" / "report.json").read_text())
    assert [entry["year"] for entry in report["years"]] == list(YEARS)
    for entry in report["years"]:
        areas = {name: np.array(list(entry[f"{name}_area_km2"].values())) for name in BUDGET}
        host, fine, filled, unplaced, gap = (areas[name] for name in BUDGET)
        assert np.abs(host - (fine - filled + unplaced + gap)).max() < 1e-12 * host.sum()
        assert entry["largest_residual"] < 1e-12
        assert set(entry["seconds"]) >= {"regrid", "features", "unet", "constraint", "exchange", "output", "total"}


def test_outputs_restarts_and_the_report_say_what_made_them(files: tuple[Path, np.ndarray]) -> None:
    folder, _ = files
    assert mpirun(2, *AI4LAND, "run", "run.yaml", "states.nc", "--restart-to", "p.nc", cwd=folder).returncode == 0
    report = json.loads((folder / "out" / "report.json").read_text())
    said = report["provenance"]
    assert said["regrid_engine"] == "latlon"
    assert len(said["host_grid"]) == len(said["emulator_hash"]) == len(said["weights_hash"]) == 64
    assert "torch" in said["versions"]
    assert "emulator: " in said["configuration"]
    for path in (folder / "out" / f"ai4land_{YEARS[0]}.nc", folder / "p.nc"):
        with netCDF4.Dataset(path) as file:
            assert {name: file.getncattr(name) for name in said} == said
    with netCDF4.Dataset(folder / "out" / f"ai4land_{YEARS[0]}.nc") as file:
        lost = np.nansum(file["unplaced"][:].filled(np.nan), axis=(1, 2)) * 1e-6
    first = report["years"][0]
    assert np.allclose(lost, list(first["unplaced_area_km2"].values()), rtol=1e-12, atol=1e-9)
    assert (first["unplaced_cells"] > 0) == (lost.sum() > 0)


def test_a_run_is_taken_up_from_its_restart(files: tuple[Path, np.ndarray]) -> None:
    folder, _ = files
    first = (sys.executable, "-m", "ai4land_coupler", "run", "run.yaml", "states.nc")
    assert mpirun(1, *first, "--last", "2014", "--restart-to", "half.nc", cwd=folder).returncode == 0
    done = mpirun(2, *first, "--first", "2015", "--restart-from", "half.nc", cwd=folder)
    assert done.returncode == 0, done.stderr
    repeated = mpirun(1, *first, "--first", "2014", "--restart-from", "half.nc", cwd=folder)
    assert repeated.returncode == Status.TIME_ORDER
    assert "expected a year after 2014" in repeated.stderr


def test_a_wrong_configuration_ends_with_its_status_and_one_message(files: tuple[Path, np.ndarray]) -> None:
    folder, _ = files
    (folder / "wrong.yaml").write_text("emulator: ./emulator\nouput: {folder: out}\n")
    done = mpirun(2, *AI4LAND, "run", "wrong.yaml", "states.nc", cwd=folder)
    assert done.returncode == Status.CONFIG
    assert "unknown key `ouput`; did you mean `output`" in done.stderr
    assert "Traceback" not in done.stderr


TABLE = """
title: t
sources: [me]
to: [forest, grassland, cropland, barren]
percent:
  forest: {forest: 100}
  grassland:
    A: {forest: 12.3, grassland: 87.7}
    B: {barren: 70.7, grassland: 29.3}
    C: {grassland: 100}
    D: {grassland: 33.3, forest: 66.7}
    E: {grassland: 10.9, barren: 89.1}
  cropland: {cropland: 100}
  barren: {barren: 100}
  pltns: {forest: 100}
optional: [pltns]
"""


def test_a_crosswalk_by_climate_gives_the_same_bits_on_any_ranks(files: tuple[Path, np.ndarray]) -> None:
    folder, _ = files
    (folder / "own.yaml").write_text(TABLE)
    maps = []
    for ranks in (1, 3):
        (folder / "own_run.yaml").write_text(
            "emulator: ./emulator\nstate: {fraction_of: cell, crosswalk: own.yaml}\n"
            f"output: {{folder: by{ranks}, fractions: [2015]}}\n"
        )
        done = mpirun(ranks, *AI4LAND, "run", "own_run.yaml", "states.nc", "--first", "2015", cwd=folder)
        assert done.returncode == 0, done.stderr
        with netCDF4.Dataset(folder / f"by{ranks}" / "ai4land_2015.nc") as file:
            assert "own.yaml" in file.crosswalk
            maps.append([file[name][:].filled(-1).tobytes() for name in ("class", *LEGEND)])
    assert maps[0] == maps[1]
    with netCDF4.Dataset(folder / "out" / "ai4land_2015.nc") as file:
        assert file["forest"][:].filled(-1).tobytes() != maps[0][1]


def test_a_cell_that_lacks_some_classes_is_refused(tmp_path: Path) -> None:
    land = luh2_like(tmp_path / "states.nc")
    cell = int(np.flatnonzero(land.ravel() > 0)[40])
    with netCDF4.Dataset(tmp_path / "states.nc", "a") as file:
        file[LEGEND[2]][0, cell // 36, cell % 36] = 1e20
    with pytest.raises(BadInputError, match=f"cell {cell + 1} lacks {LEGEND[2]} and has the other classes"):
        CoarseStates.open(tmp_path / "states.nc", LEGEND, "cell")
    with pytest.raises(BadInputError, match=f"cell {cell + 1} lacks"):
        CoarseStates.open(tmp_path / "states.nc", LEGEND, "cell", rank=cell * 2 // 648, size=2)
