"""States of LUH2 and LUH3: every trap of their files, on a globe of 4 x 8 cells with values worked out by hand."""

from pathlib import Path

import luhfiles
import netCDF4
import numpy as np
import pytest

from ai4land_coupler.errors import BadInputError, GridError
from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.training.data.luh import STATES, StateFile, grid_of

COARSE = RegularGrid(4, 8)
ROWS, COLS = np.arange(4), np.arange(8)
YEARS = (850, 1851, 2015)


def states(count: int = 12) -> np.ndarray:
    """North first: all sea but the cell in the second row from the north and fourth column, and the southern row.

    That cell is land to 0.8: half of the land primf, and in 2015 a quarter urban, the rest range.
    """
    values = np.full((count, 3, 4, 8), np.nan)
    values[:, :, 1, 3] = 0.0
    values[0, :, 1, 3] = 0.4
    values[4, 2, 1, 3] = 0.2
    values[11, :, 1, 3] = 0.4, 0.4, 0.2
    return values


def icwtr() -> np.ndarray:
    water = np.ones((4, 8))
    water[1, 3] = 0.2
    water[3] = 0.0  # Antarctica: land, and no states
    return water


@pytest.fixture
def static(tmp_path: Path) -> Path:
    return luhfiles.write_static(tmp_path / "staticData_quarterdeg.nc", icwtr())


def read(path: Path, static: Path | None, year: int = 2015, rows: np.ndarray = ROWS, cols: np.ndarray = COLS):
    return StateFile.open(path, COARSE, rows, cols, static).read(year)


def test_a_file_of_luh2_becomes_fractions_of_land_from_the_south(tmp_path: Path, static: Path) -> None:
    path = luhfiles.write_states(tmp_path / "states.nc", states(), YEARS)
    file = StateFile.open(path, COARSE, ROWS, COLS, static)
    assert file.years == YEARS  # the state at the start of each of them
    assert file.names == STATES[:12]
    out = file.read(2015)
    assert out.shape == (12, 4, 8)
    assert out.dtype == np.float32
    # the second row from the north is the third from the south
    assert out[0, 2, 3] == np.float32(0.5)
    assert out[4, 2, 3] == np.float32(0.25)
    assert out[11, 2, 3] == np.float32(0.25)
    assert abs(out[:, 2, 3].sum() - 1) < 1e-6
    assert np.isnan(out).sum() == 12 * 31  # sea, and the land without states: all NaN
    assert file.read(850)[11, 2, 3] == np.float32(0.5)
    assert np.isfinite(file.read(850)).sum() == 12


@pytest.mark.parametrize("calendar", ["noleap", ""])
def test_a_file_of_luh3_has_days_and_a_thirteenth_state(tmp_path: Path, static: Path, calendar: str) -> None:
    years = (850, 851, 1850, 1851, 1852, 2015)
    values = np.repeat(states(13)[:, 2:], 6, axis=1)
    values[12, 5, 1, 3], values[11, 5, 1, 3] = 0.2, 0.0
    path = luhfiles.write_states(tmp_path / "states.nc", values, years, luh3=True, calendar=calendar)
    file = StateFile.open(path, COARSE, ROWS, COLS, static)
    assert file.years == years  # 365 days a year, though the header may not say so
    assert file.names == STATES
    assert file.read(2015)[12, 2, 3] == np.float32(0.25)
    assert file.read(1852)[12, 2, 3] == 0


def test_the_coordinate_says_where_rows_and_columns_are(tmp_path: Path) -> None:
    lat, lon = -67.5 + 45 * np.arange(4), 22.5 + 45 * np.arange(8)
    values = np.roll(states()[:, :, ::-1], 4, axis=3)
    water = np.roll(icwtr()[::-1], 4, axis=1)
    path = luhfiles.write_states(tmp_path / "states.nc", values, YEARS, lat=lat, lon=lon)
    static = luhfiles.write_static(tmp_path / "static.nc", water, lat, lon)
    plain = luhfiles.write_states(tmp_path / "plain.nc", states(), YEARS)
    other = luhfiles.write_static(tmp_path / "other.nc", icwtr())
    for a, b in ((static, other), (other, static)):
        assert np.array_equal(read(path, a), read(plain, b), equal_nan=True)
    window = read(path, static, rows=np.array([2, 3]), cols=np.array([3, 4]))
    assert window[0, 0, 0] == np.float32(0.5)
    assert grid_of(path) == COARSE


def test_without_the_static_file_the_sum_is_the_land(tmp_path: Path) -> None:
    path = luhfiles.write_states(tmp_path / "states.nc", states(), YEARS)
    assert read(path, None)[0, 2, 3] == np.float32(0.5)


def test_a_cell_that_misses_some_states_is_refused_by_name(tmp_path: Path, static: Path) -> None:
    values = states()
    values[7, 2, 1, 3] = np.nan
    path = luhfiles.write_states(tmp_path / "states.nc", values, YEARS)
    with pytest.raises(BadInputError, match=r"in 2015 at 22\.5000 N -22\.5000 E some states are missing.*c3per nan"):
        read(path, static)
    assert np.isfinite(read(path, static, 850)).any()


@pytest.mark.parametrize(
    ("state", "value", "message"),
    [
        (4, 0.21, r"do not sum to the land fraction, 1 - icwtr.*they sum to 0\.81, the land fraction is 0\.8"),
        (4, -0.1, "a state is negative"),
    ],
)
def test_sums_are_checked_against_icwtr(tmp_path: Path, static: Path, state: int, value: float, message: str) -> None:
    values = states()
    values[state, 2, 1, 3] = value
    path = luhfiles.write_states(tmp_path / "states.nc", values, YEARS)
    with pytest.raises(BadInputError, match=message):
        read(path, static)


def test_the_noise_of_float32_is_no_error(tmp_path: Path, static: Path) -> None:
    values = states()
    values[4, 2, 1, 3] = 0.20008
    out = read(luhfiles.write_states(tmp_path / "states.nc", values, YEARS), static)
    assert abs(out[:, 2, 3].sum(dtype=np.float64) - 1) < 1e-7


def test_age_and_biomass_are_no_states(tmp_path: Path) -> None:
    path = luhfiles.write_states(tmp_path / "states.nc", states(), YEARS)
    with pytest.raises(BadInputError, match="'secma' is no state"):
        StateFile.open(path, COARSE, ROWS, COLS, names=("primf", "secma"))


def test_another_grid_or_file_is_refused(tmp_path: Path) -> None:
    path = luhfiles.write_states(tmp_path / "states.nc", states(), YEARS)
    with pytest.raises(GridError, match=r"45 x 45 degrees, the coarse grid has 22\.5 x 22\.5"):
        StateFile.open(path, RegularGrid(8, 16), np.arange(8), np.arange(16))
    with netCDF4.Dataset(path, "a") as file:
        file.renameVariable("range", "grazed")
    with pytest.raises(BadInputError, match=r"no states \['range'\]"):
        StateFile.open(path, COARSE, ROWS, COLS)
    own = StateFile.open(path, COARSE, ROWS, COLS, names=("primf", "urban", "grazed"))
    assert own.read(2015)[2, 2, 3] == np.float32(0.25)
