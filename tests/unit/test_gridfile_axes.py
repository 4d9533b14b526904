"""CF grids on axes, curvilinear or unstructured, and regular grids by name."""

import tracemalloc

import numpy as np
import pytest
from grid_files import (
    BOXES,
    PRISM,
    PRISM_LAT,
    PRISM_LON,
    assert_boxes,
    assert_is,
    axes_of,
    box_corners,
    every_format,
    repeated,
    write,
)

from ai4land_coupler.errors import GridError
from ai4land_coupler.gridfile import read_grid


def test_cf_axes_without_bounds(tmp_path):
    path = axes_of(tmp_path / "a.nc", [-45.0, 45.0], [-135.0, -45.0, 45.0, 135.0])
    assert_boxes(read_grid(path), (2, 4))
    path = axes_of(tmp_path / "north_first.nc", [45.0, -45.0], [-135.0, -45.0, 45.0, 135.0])
    assert_boxes(read_grid(path), (2, 4), BOXES[4:] + BOXES[:4])
    path = axes_of(tmp_path / "from_greenwich.nc", [-45.0, 45.0], [45.0, 135.0, 225.0, 315.0])
    turned = [2, 3, 0, 1, 6, 7, 4, 5]
    assert_boxes(read_grid(path), (2, 4), [BOXES[i] for i in turned])
    path = axes_of(tmp_path / "split.nc", [-45.0, 45.0], [45.0, 135.0, -135.0, -45.0])
    assert_boxes(read_grid(path), (2, 4), [BOXES[i] for i in turned])
    path = axes_of(tmp_path / "lon_first.nc", [-45.0, 45.0], [-135.0, -45.0, 45.0, 135.0], dims=("lon", "lat"))
    assert_boxes(read_grid(path), (4, 2), [BOXES[i] for i in (0, 4, 1, 5, 2, 6, 3, 7)])


def test_cf_bounds_of_any_order_and_turn(tmp_path):
    path = axes_of(
        tmp_path / "b.nc", [-45.0, 45.0], [0.0, 90.0, 180.0, 270.0],
        [[0, -90], [0, 90]], [[315, 45], [45, 135], [135, 225], [225, -45]],
    )  # fmt: skip
    named = read_grid(path)
    west = [-45.0, 45.0, 135.0, 225.0]
    assert_boxes(named, (2, 4), [(w, s) for s in (-90.0, 0.0) for w in west])
    path = axes_of(tmp_path / "ring.nc", [-45.0, 45.0], [180.0], [[-90, 0], [0, 90]], [[0, 360]])
    assert read_grid(path).grid.vertex_lon[0].tolist() == [0, 360, 360, 0]
    path = axes_of(tmp_path / "empty.nc", [-45.0, 45.0], [0.0], [[0, 0], [0, 0]], [[0, 360]])
    with pytest.raises(GridError, match="value 1 of 'lat' has the edges"):
        read_grid(path)
    path = axes_of(tmp_path / "one.nc", [-45.0, 45.0], [0.0], [[-90, 0], [0, 90]])
    with pytest.raises(GridError, match="'lon' has a single value and no bounds"):
        read_grid(path)


def test_gaussian_latitudes_get_the_edges_of_their_quadrature(tmp_path):
    root, weight = np.polynomial.legendre.leggauss(48)
    lat = np.round(np.degrees(np.arcsin(root)), 3)[::-1]  # north first, as rounded as files are
    lon = np.arange(96) * 3.75
    named = read_grid(axes_of(tmp_path / "g.nc", lat, lon))
    rows = named.grid.vertex_lat.reshape(48, 96, 4)[:, 0]
    bands = np.sin(np.radians(rows.max(1))) - np.sin(np.radians(rows.min(1)))
    assert np.allclose(bands, weight[::-1], rtol=1e-12)
    assert (rows[0].max(), rows[-1].min()) == (90.0, -90.0)
    regular = read_grid(axes_of(tmp_path / "r.nc", np.linspace(-88.125, 88.125, 48), lon))
    assert np.allclose(np.diff(np.unique(regular.grid.vertex_lat)), 3.75)


def test_axes_in_single_precision_close_round_the_globe_and_at_the_poles(tmp_path):
    lat = (-90 + (np.arange(1080) + 0.5) / 6).astype("f4")
    lon = ((np.arange(2160) + 0.5) / 6).astype("f4")
    grid = read_grid(axes_of(tmp_path / "f.nc", lat, lon)).grid
    assert (grid.vertex_lat.min(), grid.vertex_lat.max()) == (-90.0, 90.0)
    assert grid.vertex_lon.max() - grid.vertex_lon.min() == 360.0


def test_axes_with_rows_on_the_poles_end_there(tmp_path):
    grid = read_grid(axes_of(tmp_path / "p.nc", np.linspace(90, -90, 5), np.arange(8) * 45.0)).grid
    assert np.unique(grid.vertex_lat).tolist() == [-90.0, -67.5, -22.5, 22.5, 67.5, 90.0]


@pytest.mark.parametrize("names", [("lon", "lat"), ("nav_lon", "nav_lat")])
def test_cf_curvilinear_and_unstructured_cells(tmp_path, names):
    lon, lat = box_corners()
    two, three = ("y", "x"), ("y", "x", "nv")
    variables = {}
    for name, values, unit in zip(names, (lon, lat), ("degrees_east", "degrees_north"), strict=True):
        variables[name] = (two, values.mean(1).reshape(2, 4), {"units": unit, "bounds": f"edges_{name}"})
        variables[f"edges_{name}"] = (three, values.reshape(2, 4, 4), {})
    path = write(tmp_path / "y.nc", {"y": 2, "x": 4, "nv": 4}, variables)
    assert_boxes(read_grid(path), (2, 4))
    table = repeated(PRISM)
    variables = {}
    for name, values, unit in zip(names, (PRISM_LON, PRISM_LAT), ("degrees_east", "degrees_north"), strict=True):
        variables[name] = (("cell",), values[table].mean(1), {"units": unit, "bounds": f"edges_{name}"})
        variables[f"edges_{name}"] = (("cell", "nv"), values[table], {})
    path = write(tmp_path / "u.nc", {"cell": 5, "nv": 4}, variables)
    assert_is(read_grid(path), PRISM_LON, PRISM_LAT, PRISM)
    del variables[f"edges_{names[0]}"], variables[names[0]][2]["bounds"]
    with pytest.raises(GridError, match=rf"'{names[0]}' on \('cell',\) has no bounds"):
        read_grid(write(tmp_path / "none.nc", {"cell": 5, "nv": 4}, variables))


def test_the_grid_of_a_variable_is_picked_by_its_name(tmp_path):
    fine = {
        "lat_2": (("lat_2",), np.linspace(-67.5, 67.5, 4), {"units": "degrees_north"}),
        "lon_2": (("lon_2",), np.linspace(22.5, 337.5, 8), {"units": "degrees_east"}),
        "fine": (("lat_2", "lon_2"), np.zeros((4, 8)), {}),
    }
    sizes = {"lat_2": 4, "lon_2": 8, "lat": 2, "lon": 4}
    coarse = {
        "lat": (("lat",), np.array([-45.0, 45.0]), {}),
        "lon": (("lon",), np.array([-135.0, -45.0, 45.0, 135.0]), {}),
        "coarse": (("lat", "lon"), np.zeros((2, 4)), {}),
    }
    path = write(tmp_path / "two.nc", sizes, fine | coarse)
    assert read_grid(f"{path}:fine").shape == (4, 8)
    assert_boxes(read_grid(f"{path}:coarse"), (2, 4))
    with pytest.raises(GridError, match="'other' is missing: it was asked for by name"):
        read_grid(f"{path}:other")


def test_land_fractions_are_read_in_percent_too(tmp_path):
    land = (("lat", "lon"), np.array([[0, 25, 50, 100], [1e20, 0, 0, 0]], "f4"), {"units": "%"})
    named = read_grid(axes_of(tmp_path / "l.nc", [-45.0, 45.0], [-135.0, -45.0, 45.0, 135.0], sftlf=land))
    assert named.grid.land_fraction.tolist() == [0, 0.25, 0.5, 1, 0, 0, 0, 0]
    assert named.land_from == "sftlf"


def test_packed_and_missing_values(tmp_path):
    lon, lat = box_corners()
    packed = np.round(lon / 0.01).astype("i2")
    two = ("grid_size", "grid_corners")
    notes = {"units": "degrees", "scale_factor": 0.01, "_FillValue": np.int16(-32768)}
    variables = {"grid_corner_lon": (two, packed, notes), "grid_corner_lat": (two, lat, {"units": "degrees"})}
    assert_boxes(read_grid(write(tmp_path / "p.nc", {"grid_size": 8, "grid_corners": 4}, variables)), (8,))
    packed[2, 1] = -32768
    path = write(tmp_path / "m.nc", {"grid_size": 8, "grid_corners": 4}, variables)
    with pytest.raises(GridError, match=r"m\.nc: cell 3 has a corner that is not finite.*grid_corner_lon"):
        read_grid(path)


def test_regular_grids_by_name():
    named = read_grid("latlon:90")
    assert_boxes(named, (2, 4))
    one = read_grid("latlon:1.0")
    assert (one.shape, one.grid.size, one.name) == ((180, 360), 64800, "latlon:1.0")
    assert one.grid.vertex_lon[360].tolist() == [-180, -179, -179, -180]  # the second row starts in the west again
    assert one.grid.vertex_lat[360].tolist() == [-89, -89, -88, -88]
    assert read_grid("latlon:0.1").shape == (1800, 3600)
    assert read_grid("latlon:96x192").shape == (96, 192)


@pytest.mark.parametrize("spec", ["latlon:7", "latlon:0.7", "latlon:360", "latlon:0", "latlon:-1", "latlon:nan"])
def test_steps_that_do_not_divide_the_globe_are_refused(spec):
    with pytest.raises(GridError, match="does not divide 180 degrees into whole rows"):
        read_grid(spec)


@pytest.mark.parametrize("spec", ["latlon:", "latlon:fine", "latlon:1x", "latlon:0x4"])
def test_what_is_no_regular_grid_is_refused(spec):
    with pytest.raises(GridError):
        read_grid(spec)


# What is wrong with a file is said with its name, and never as an error of the netCDF library.


def test_a_band_of_a_grid_is_part_of_the_whole(tmp_path):
    for spec in (*every_format(tmp_path).values(), "latlon:45"):
        whole = read_grid(spec)
        for band in (slice(0, 3), slice(2, 5), slice(4, 4), slice(3, None)):
            part = read_grid(spec, band)
            assert part.shape == whole.shape
            for name in ("cell_id", "vertex_lon", "vertex_lat", "land_fraction"):
                assert np.array_equal(getattr(part.grid, name), getattr(whole.grid, name)[band])


def test_a_band_of_axes_takes_memory_for_its_own_cells_only(tmp_path):
    """A hundredth of 6.5 million cells, whose corners alone would take 400 MB."""
    path = axes_of(tmp_path / "a.nc", np.linspace(-89.95, 89.95, 1800), np.linspace(-179.95, 179.95, 3600))
    tracemalloc.start()
    try:
        grid = read_grid(path, slice(0, 64800)).grid
        assert grid.size == 64800
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()
