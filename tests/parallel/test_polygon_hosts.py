"""Hosts that are no latitude-longitude grids: each engine gives the same fields for any deal of cells.

The grids of the main job are ICON R2B4 and ne30pg2 from a folder of reference data; a cubed sphere and a grid of
pentagons and hexagons, made here, stand beside them.
"""

import os
import sys
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import small_emulator
from mpi import mpirun

from ai4land_coupler.regrid import esmf

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from regrid_hosts import cubed_sphere, hexagons

PROGRAM = Path(__file__).parent / "programs" / "deal.py"
DATA = Path(os.environ.get("AI4LAND_REFERENCE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "grids"
LEGEND = small_emulator.LEGEND

engines = pytest.mark.parametrize(
    "engine",
    [
        "yac",
        pytest.param("esmf", marks=pytest.mark.skipif(esmf.lacks() is not None, reason=f"no ESMF: {esmf.lacks()}")),
    ],
)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_emulator.build(tmp_path_factory.mktemp("emulator"))


@pytest.fixture(scope="module")
def grids(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Grids by name: files of the reference data where they are, and SCRIP files made here."""
    folder = tmp_path_factory.mktemp("grids")
    for name, grid in (("cubed sphere", cubed_sphere(8)), ("hexagons", hexagons(3))):
        with netCDF4.Dataset(folder / f"{name}.nc", "w") as file:
            file.createDimension("grid_size", grid.size)
            file.createDimension("grid_corners", grid.nvertex)
            for axis, values in (("lon", grid.vertex_lon), ("lat", grid.vertex_lat)):
                variable = file.createVariable(f"grid_corner_{axis}", "f8", ("grid_size", "grid_corners"))
                variable.units = "degrees"
                variable[:] = values
    names = {"ICON R2B4": "triangular_grid_ICON.nc", "ne30pg2": "ne30pg2_scrip.nc"}
    return {name: str(DATA / file) for name, file in names.items()} | {
        name: str(folder / f"{name}.nc") for name in ("cubed sphere", "hexagons")
    }


def run(emulator: Path, out: Path, ranks: int, deal: str, *options: object) -> dict[str, np.ndarray]:
    done = mpirun(ranks, sys.executable, PROGRAM, emulator, out, deal, "--years", "2001", *options, timeout=300)
    assert done.returncode == 0, done.stderr
    with np.load(out) as file:
        return dict(file)


@engines
@pytest.mark.parametrize("name", ["ICON R2B4", "ne30pg2", "cubed sphere", "hexagons"])
def test_three_of_four_ranks_and_a_random_deal_give_the_bits_of_one(emulator, grids, tmp_path, name, engine) -> None:
    if not Path(grids[name]).exists():
        pytest.skip(f"the grid {name} is not here; set AI4LAND_REFERENCE_DATA to a folder with grids/")
    options = ("--grid", grids[name], "--engine", engine)
    one = run(emulator, tmp_path / "one.npz", 1, "bands", *options)
    dealt = run(emulator, tmp_path / "dealt.npz", 4, "random", "--subset", *options)
    assert set(one) == set(dealt)
    assert [field for field in one if one[field].tobytes() != dealt[field].tobytes()] == []
    fractions = np.stack([one[f"fine_{name}"] for name in LEGEND])
    assert fractions.shape[1] > 5_000
    assert np.abs(fractions.sum(axis=0) - 1).max() <= 1e-15 * len(LEGEND)
    columns, land = np.stack([one[f"host_{name}"] for name in LEGEND]), one["host_land_fraction"] > 0
    assert np.abs(columns.sum(axis=0) - 1)[land].max() <= 1e-13
    if name in ("ICON R2B4", "ne30pg2"):  # some 2 degrees wide, the coarse cells 11.25
        row, column = (np.floor((one[f"host_{axis}"] + top) / 11.25) for axis, top in (("lat", 90), ("lon", 180)))
        inside = [columns[0][(row * 32 + column == cell) & land] for cell in range(512)]
        assert max(np.ptp(values) for values in inside if values.size) > 0.2, "they carry what the network placed"


def test_engines_agree_on_the_host_columns_and_areas(emulator, grids, tmp_path) -> None:
    """The network amplifies what the engines differ by; areas do not pass it."""
    if (reason := esmf.lacks()) is not None:
        pytest.skip(f"no ESMF: {reason}")
    by = {
        engine: run(emulator, tmp_path / f"{engine}.npz", 1, "bands", "--grid", grids["hexagons"], "--engine", engine)
        for engine in ("yac", "esmf")
    }
    assert np.allclose(by["yac"]["host_area"], by["esmf"]["host_area"], rtol=1e-9)
    for name in LEGEND:
        assert np.abs(by["yac"][f"host_{name}"] - by["esmf"][f"host_{name}"]).max() < 1e-6


def test_cached_overlaps_give_the_same_bits_on_other_ranks(emulator, grids, tmp_path) -> None:
    options = ("--grid", grids["hexagons"], "--engine", "yac", "--cache", tmp_path / "cache")
    made = run(emulator, tmp_path / "made.npz", 2, "random", *options)
    read = run(emulator, tmp_path / "read.npz", 3, "bands", *options)
    assert [field for field in made if made[field].tobytes() != read[field].tobytes()] == []


def test_columns_of_a_fine_host_carry_what_the_network_placed(emulator, grids, tmp_path) -> None:
    """A host finer than the coarse grid: its columns are the means of the fine cells under it, not the coarse totals.

    Where one host cell alone covers fine cells wholly, the mean lies within the range of the cells that touch it; and
    within a coarse cell the columns differ among host cells although their states are one and the same there.
    """
    found = run(emulator, tmp_path / "out.npz", 2, "random", "--grid", "latlon:1.125", "--engine", "latlon")
    fine_id, host_id = found["fine_cell_id"].astype(int) - 1, found["host_cell_id"].astype(int) - 1
    nlon = small_emulator.COARSE[1] * small_emulator.RATIO
    assert host_id.size == nlon * nlon // 2, "host cells are the fine cells themselves"
    land = found["host_land_fraction"][fine_id] > 0
    for name in LEGEND:
        assert np.abs(found[f"host_{name}"][fine_id] - found[f"fine_{name}"])[land].max() < 1e-14
    coarse = fine_id // nlon // small_emulator.RATIO * small_emulator.COARSE[1] + fine_id % nlon // small_emulator.RATIO
    inside = [found["host_forest"][fine_id[(coarse == c) & land]] for c in np.unique(coarse[land])]
    assert max(np.ptp(values) for values in inside if values.size) > 0.2
