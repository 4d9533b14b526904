"""Climate shares of host cells: from their own corners alone, over the date line and beyond the emulator's land."""

from dataclasses import dataclass
from pathlib import Path

import netCDF4
import numpy as np
import pytest

from ai4land_coupler import climate
from ai4land_coupler.errors import EmulatorError
from ai4land_coupler.grids import HostGrid, RegularGrid

FINE, COARSE = RegularGrid(36, 72), RegularGrid(18, 36)


@dataclass(frozen=True)
class Planet:
    """What the module needs of an emulator."""

    path: Path
    fine: RegularGrid = FINE
    coarse: RegularGrid = COARSE


def planet(folder: Path, name: str, values: np.ndarray) -> Planet:
    with netCDF4.Dataset(folder / "statics.nc", "w") as file:
        for axis, n in (("lat", 36), ("lon", 72)):
            file.createDimension(axis, n)
        file.createVariable(name, "i2", ("lat", "lon"))[:] = values
    return Planet(folder)


def cells(*boxes: tuple[float, float, float, float]) -> HostGrid:
    west, east, south, north = np.array(boxes, float).T
    lon, lat = np.stack([west, east, east, west], 1), np.stack([south, south, north, north], 1)
    return HostGrid(np.arange(len(boxes)), lon, lat, np.ones(len(boxes)))


def test_a_cell_takes_the_mean_of_the_coarse_cells_below_it(tmp_path: Path) -> None:
    groups = np.zeros((36, 72), int)
    groups[:, 36:] = 1  # A in the east
    groups[:, :36] = 2
    groups[20, 36] = 5  # a quarter of the coarse cell from 0 E, 10 N
    groups[0:2] = 0
    world = planet(tmp_path, "koppen", groups)
    shares = climate.of_cells(
        cells((0, 10, 10, 20), (-20, 20, 20, 40), (170, 190, 0, 10), (0, 10, -90, -80), (350, 370, 0, 10)), world
    )
    assert shares[:, 0].tolist() == [0.75, 0, 0, 0, 0.25]
    assert shares[:, 1].tolist() == [0.6, 0.4, 0, 0, 0]  # its middle lies on 0 E, which the east owns
    assert shares[:, 2].tolist() == [0.4, 0.6, 0, 0, 0]
    assert shares[:, 3].tolist() == [1, 0, 0, 0, 0]  # no climate there: the nearest coarse cell's
    assert shares[:, 4].tolist() == [0.6, 0.4, 0, 0, 0]


def test_thirty_classes_count_by_their_main_groups(tmp_path: Path) -> None:
    classes = np.tile(np.repeat([1, 4, 8, 17, 29, 30], 12), (36, 1))
    shares = climate.of_coarse(planet(tmp_path, "climate_class", classes))
    assert shares.argmax(0)[0].tolist() == np.repeat([0, 1, 2, 3, 4, 4], 6).tolist()
    assert (shares.sum(0) == 1).all()


def test_cells_in_any_company_have_the_same_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    world = planet(tmp_path, "koppen", rng.integers(0, 6, (36, 72)))
    south, west = rng.uniform(-90, 70, 400), rng.uniform(-180, 180, 400)
    width = rng.uniform(1, 20, 400)
    many = cells(*zip(west, west + width, south, south + width, strict=True))
    whole = climate.of_cells(many, world)
    assert np.allclose(whole.sum(0), 1, atol=1e-15)
    for part in (np.arange(1), np.arange(399, 3, -7), np.arange(5, 8)):
        assert climate.of_cells(many.take(part), world).tobytes() == whole[:, part].tobytes()


def test_an_emulator_without_climate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmulatorError, match="has no climate"):
        climate.of_cells(cells((0, 1, 0, 1)), planet(tmp_path, "height", np.zeros((36, 72))))
    with pytest.raises(EmulatorError, match="classes 0 to 30"):
        climate.of_cells(cells((0, 1, 0, 1)), planet(tmp_path, "koppen", np.full((36, 72), 31)))
