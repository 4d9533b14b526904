"""Areas, nesting and what makes host cells refusable."""

import numpy as np
import pytest

from ai4land_coupler.errors import GridError
from ai4land_coupler.grids import EARTH_RADIUS, HostGrid, RegularGrid, refuse_radians, wrap_longitude


def squares(n: int = 3, **changes: np.ndarray) -> HostGrid:
    west = np.arange(n) * 10.0
    parts = {
        "cell_id": np.arange(1, n + 1),
        "vertex_lon": np.stack([west, west + 10, west + 10, west], axis=1),
        "vertex_lat": np.tile([0.0, 0.0, 10.0, 10.0], (n, 1)),
        "land_fraction": np.full(n, 0.5),
    }
    return HostGrid(**{**parts, **changes})


def test_areas_sum_to_the_sphere_and_match_a_hand_computed_cell() -> None:
    grid = RegularGrid(180, 360)
    assert np.isclose(grid.area_rows.sum() * grid.nlon, 4 * np.pi * EARTH_RADIUS**2, rtol=1e-14)
    # R^2 * (pi/180) * (sin 1 deg - sin 0 deg), row 90 begins at the equator
    assert np.isclose(grid.area_rows[90], EARTH_RADIUS**2 * np.pi / 180 * np.sin(np.pi / 180), rtol=1e-13)


def test_rows_run_north_and_columns_east_from_the_date_line() -> None:
    grid = RegularGrid(2, 4)
    assert grid.lat.tolist() == [-45.0, 45.0]
    assert grid.lon.tolist() == [-135.0, -45.0, 45.0, 135.0]


def test_ratio_refuses_grids_that_do_not_nest() -> None:
    assert RegularGrid(18, 36).ratio_to(RegularGrid(180, 360)) == 10
    with pytest.raises(GridError, match="do not nest"):
        RegularGrid(18, 36).ratio_to(RegularGrid(180, 350))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vertex_lat": np.full((3, 4), 91.0)}, "cell 1 has a latitude beyond 90"),
        ({"vertex_lon": np.full((3, 4), np.nan)}, "corner that is not finite"),
        ({"land_fraction": np.array([0.5, 1.5, 0.5])}, "cell 2 has a land fraction that is not in 0..1"),
        ({"land_fraction": np.array([0.5, 0.5, np.nan])}, "cell 3 has a land fraction"),
        ({"land_fraction": np.array([0.5])}, "one value a cell"),
        ({"vertex_lon": np.zeros((3, 2)), "vertex_lat": np.zeros((3, 2))}, "nvertex >= 3"),
    ],
)
def test_host_grid_refuses(changes: dict, says: str) -> None:
    with pytest.raises(GridError, match=says):
        squares(**changes)


def test_latitudes_just_beyond_a_pole_are_clipped() -> None:
    lat = np.tile([80.0, 80.0, 90.0 + 5e-7, 90.0 + 5e-7], (3, 1))
    assert squares(vertex_lat=lat).vertex_lat.max() == 90.0


def test_centre_lies_in_a_cell_over_the_date_line() -> None:
    grid = HostGrid([1], [[175.0, 185.0, 185.0, 175.0]], [[-5.0, -5.0, 5.0, 5.0]], [1.0])
    lon, lat = grid.centre
    assert np.isclose(lon[0], -180.0)
    assert np.isclose(lat[0], 0.0, atol=1e-12)


def test_radians_are_suspected_only_of_large_grids() -> None:
    with pytest.raises(GridError, match="no corner of the 1001 host cells exceeds 2 pi"):
        refuse_radians(1001, 2 * np.pi)
    refuse_radians(1000, 2 * np.pi)
    refuse_radians(1001, 6.3)


def test_wrap_longitude_is_half_open() -> None:
    assert wrap_longitude(np.array([180.0, -180.0, 540.0, 359.5, -180.0 - 1e-15])).tolist() == [
        -180.0, -180.0, -180.0, -0.5, -180.0,
    ]  # fmt: skip
