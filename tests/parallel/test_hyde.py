"""The example that goes back to 1700, on made-up classes and the small emulator."""

import subprocess
import sys
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import small_emulator
from matplotlib.image import imread
from mpi import ROOT, environment, mpirun

from ai4land_coupler.crosswalk import load

EXAMPLE = ROOT / "examples" / "hyde"
AI4LAND = (sys.executable, "-m", "ai4land_coupler")
YEARS = (1700, 1850, 1990)


def run(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def classes(path: Path) -> None:
    """Classes of HYDE on 4 degrees, north first, that become cropland and pasture from year to year."""
    lat, lon = 88.0 - 4 * np.arange(45), -178.0 + 4 * np.arange(90)
    codes = np.array(sorted(load("hyde1-igbp").codes))
    rng = np.random.default_rng(3)
    first = rng.choice(codes[3:], (45, 90))
    turn = rng.integers(0, 4, (45, 90))
    land = small_emulator.planet(lat, lon, 8) > 0
    with netCDF4.Dataset(path, "w") as file:
        for name, values in (("year", YEARS), ("lat", lat), ("lon", lon)):
            file.createDimension(name, len(values))
            file.createVariable(name, "f8", (name,))[:] = values
        used = [np.where(turn == step, 1, np.where(turn < step, 2, first)) for step in range(3)]
        file.createVariable("landuse", "u1", ("year", "lat", "lon"))[:] = np.where(land, np.stack(used), 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two ranks."""
    folder = tmp_path_factory.mktemp("hyde")
    small_emulator.build(folder / "emulator", legend=load("hyde1-igbp").target)
    classes(folder / "hyde.nc")
    prepared = (EXAMPLE / "prepare.py", folder / "hyde.nc", folder, "--emulator", folder / "emulator", "--cells", "1")
    run(sys.executable, *prepared, "--mode", MODE)
    done = mpirun(2, *AI4LAND, "run", folder / "run.yaml", folder / "states.nc", timeout=400)
    assert done.returncode == 0, done.stderr
    return folder


MODE = "change"


def test_states_are_the_shares_of_the_classes(folder: Path) -> None:
    with netCDF4.Dataset(folder / "states.nc") as file, netCDF4.Dataset(folder / "hyde.nc") as given:
        landuse, land = given["landuse"][:, ::-1], file["land_fraction"][:]
        assert np.array_equal(land > 0, landuse[0] > 0)
        for code, name in load("hyde1-igbp").codes.items():
            assert np.array_equal(file[name][:], landuse == code)


def test_every_total_is_met_in_every_year(folder: Path) -> None:
    told = run(sys.executable, EXAMPLE / "check.py", folder)
    assert "every total is met" in told
    assert [line for line in told.splitlines() if line.isdigit()] == ["1990", "1850", "1700"]


def test_maps_and_areas_are_drawn(folder: Path) -> None:
    drawn = run(*AI4LAND, "plot", folder / "years", "--series", "--years", "1700,1990").split()
    assert sorted(Path(path).name for path in drawn) == [
        "area_series.png", "change_globe.png", "change_region.png", "map_globe.png", "map_region.png",
    ]  # fmt: skip
    for path in drawn:
        assert np.ptp(imread(path)[..., :3]) > 0.5
