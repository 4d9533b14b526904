"""Grid files of every format, written here with corners derived by hand, and those that models left."""

import os
import tracemalloc
from pathlib import Path

import netCDF4
import numpy as np
import pytest

from ai4land_coupler.errors import GridError
from ai4land_coupler.gridfile import read_grid
from ai4land_coupler.regrid.polygons import Polygons

DATA = Path(os.environ.get("AI4LAND_REFERENCE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "grids"

# A prism: three corners at 30 N, three at 30 S; a triangle around each pole, three quadrilaterals between them.
PRISM_LON = np.array([0.0, 120.0, -120.0, 0.0, 120.0, -120.0])
PRISM_LAT = np.array([30.0, 30.0, 30.0, -30.0, -30.0, -30.0])
PRISM = [[0, 1, 2], [3, 4, 1, 0], [4, 5, 2, 1], [5, 3, 0, 2], [5, 4, 3]]
# An octahedron: eight triangles of a right angle at every corner, 4 pi / 8 each.
OCTA_LON = np.array([0.0, 90.0, 180.0, 270.0, 0.0, 0.0])
OCTA_LAT = np.array([0.0, 0.0, 0.0, 0.0, 90.0, -90.0])
OCTA = [[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4], [1, 0, 5], [2, 1, 5], [3, 2, 5], [0, 3, 5]]
# Two rows of four cells, from the south-west: (west, south) of each; all are 90 degrees wide and high.
BOXES = [(w, s) for s in (-90.0, 0.0) for w in (-180.0, -90.0, 0.0, 90.0)]


def write(path, sizes, variables, **attributes):
    """A netCDF file: dimensions {name: length}, variables {name: (dimensions, values, attributes)}."""
    with netCDF4.Dataset(path, "w") as file:
        file.setncatts(attributes)
        for name, size in sizes.items():
            file.createDimension(name, size)
        for name, (dims, values, notes) in variables.items():
            notes = dict(notes)
            values = np.asarray(values)
            variable = file.createVariable(name, values.dtype, dims, fill_value=notes.pop("_FillValue", None))
            variable.set_auto_maskandscale(False)
            variable[...] = values
            variable.setncatts(notes)
    return str(path)


def padded(faces, fill, start=0, width=None):
    """Faces as a table counted from `start`, padded by `fill`."""
    width = width or max(map(len, faces))
    return np.array([[node + start for node in face] + [fill] * (width - len(face)) for face in faces], dtype=np.int32)


def repeated(faces):
    """Faces as a table padded by their last corner."""
    return np.array([face + face[-1:] * (4 - len(face)) for face in faces])


def points(lon, lat):
    lon, lat = np.radians(lon), np.radians(lat)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)


def corner_sets(lon, lat):
    """The distinct corners of every cell, as points in space."""
    return [{tuple(p) for p in np.round(points(a, b), 7) + 0.0} for a, b in zip(lon, lat, strict=True)]


def assert_is(named, lon, lat, faces):
    """The cells have these corners, in this order of cells, and cover the sphere once."""
    lon, lat = np.asarray(lon, dtype=float), np.asarray(lat, dtype=float)
    expected = corner_sets([lon[face] for face in faces], [lat[face] for face in faces])
    assert corner_sets(named.grid.vertex_lon, named.grid.vertex_lat) == expected
    assert named.grid.cell_id.tolist() == list(range(1, len(faces) + 1))
    assert np.prod(named.shape) == len(faces)
    polygons = Polygons.of(named.grid.vertex_lon, named.grid.vertex_lat)
    assert not polygons.degenerate.any()
    assert polygons.area.sum() == pytest.approx(4 * np.pi, rel=1e-6)


def assert_boxes(named, shape, boxes=BOXES, rel=1e-12):
    west, south = np.array(boxes).T
    expected = corner_sets(
        np.stack([west, west + 90, west + 90, west], 1), np.stack([south, south, south + 90, south + 90], 1)
    )
    assert corner_sets(named.grid.vertex_lon, named.grid.vertex_lat) == expected
    assert named.shape == shape
    assert named.grid.cell_id.tolist() == list(range(1, 9))
    area = Polygons.of(named.grid.vertex_lon, named.grid.vertex_lat).area
    assert np.allclose(area, np.pi / 2, rtol=rel)


def box_corners():
    west, south = np.array(BOXES).T
    return np.stack([west, west + 90, west + 90, west], 1), np.stack([south, south, south + 90, south + 90], 1)


@pytest.mark.parametrize("units", ["degrees", "radians"])
def test_scrip(tmp_path, units):
    lon, lat = box_corners()
    to = np.radians if units == "radians" else np.asarray
    two = ("grid_size", "grid_corners")
    path = write(
        tmp_path / "grid.nc",
        {"grid_size": 8, "grid_corners": 4, "grid_rank": 2},
        {
            "grid_dims": (("grid_rank",), np.array([4, 2], "i4"), {}),
            "grid_corner_lon": (two, to(lon), {"units": units}),
            "grid_corner_lat": (two, to(lat), {"units": units}),
            "grid_imask": (("grid_size",), np.array([1, 0, 1, 1, 1, 1, 1, 1], "i4"), {}),
        },
    )
    named = read_grid(path)
    assert_boxes(named, (2, 4))
    assert named.grid.land_fraction.tolist() == [1, 0, 1, 1, 1, 1, 1, 1]
    assert named.land_from == "grid_imask"
    assert named.name == "grid.nc"


def scrip_of(path, lon, lat, **notes):
    n, nv = np.shape(lon)
    two, notes = ("grid_size", "grid_corners"), notes or {"units": "degrees"}
    variables = {"grid_corner_lon": (two, lon, notes), "grid_corner_lat": (two, lat, notes)}
    return write(path, {"grid_size": n, "grid_corners": nv}, variables)


def test_scrip_pads_by_repeated_corners_and_turns_longitudes(tmp_path):
    table = repeated(PRISM)[:, ::-1]
    path = scrip_of(tmp_path / "g.nc", PRISM_LON[table] + 720.0, PRISM_LAT[table])
    assert_is(read_grid(path), PRISM_LON, PRISM_LAT, PRISM)


def esmf_of(path, conn, number, lon=PRISM_LON, lat=PRISM_LAT, notes=None, units="degrees", **more):
    dims = ("elementCount", "most")[: np.ndim(conn)] if np.ndim(conn) == 2 else ("connectionCount",)
    sizes = {"nodeCount": len(lon), "coordDim": 2, "elementCount": len(number)}
    sizes |= dict(zip(dims, np.shape(conn), strict=True))
    variables = {
        "nodeCoords": (("nodeCount", "coordDim"), np.stack([lon, lat], 1), {"units": units} if units else {}),
        "elementConn": (dims, conn, notes or {}),
        "numElementConn": (("elementCount",), np.array(number, "i1"), {}),
    }
    return write(path, sizes, variables | more, gridType="unstructured")


@pytest.mark.parametrize(("fill", "notes"), [(-1, {}), (-1, {"start_index": 1}), (-999, {"_FillValue": -999})])
def test_esmf_mesh(tmp_path, fill, notes):
    count = [len(face) for face in PRISM]
    mask = (("elementCount",), np.array([1, 1, 0, 1, 1], "i4"), {})
    path = esmf_of(tmp_path / "m.nc", padded(PRISM, fill, 1), count, notes=notes, elementMask=mask)
    named = read_grid(path)
    assert_is(named, PRISM_LON, PRISM_LAT, PRISM)
    assert named.grid.land_fraction.tolist() == [1, 1, 0, 1, 1]


def test_esmf_mesh_counts_from_zero_in_radians_with_rows_one_after_the_other(tmp_path):
    flat = np.concatenate(PRISM).astype(np.int32)
    count = [len(face) for face in PRISM]
    notes = {"start_index": 0}
    lon, lat = np.radians(PRISM_LON), np.radians(PRISM_LAT)
    path = esmf_of(tmp_path / "m.nc", flat, count, lon, lat, notes, units="radians")
    assert_is(read_grid(path), PRISM_LON, PRISM_LAT, PRISM)
    path = esmf_of(tmp_path / "short.nc", flat[:-1], count, lon, lat, notes, units="radians")
    with pytest.raises(GridError, match="'elementConn' has 17 entries, numElementConn counts 18"):
        read_grid(path)


def test_esmf_mesh_of_a_lattice_keeps_its_shape(tmp_path):
    lon, lat = box_corners()
    conn = np.arange(1, 33, dtype=np.int32).reshape(8, 4)
    dims = (("origGridRank",), np.array([4, 2], "i4"), {})
    sizes = {"nodeCount": 32, "coordDim": 2, "elementCount": 8, "most": 4, "origGridRank": 2}
    coords = np.stack([lon.ravel(), lat.ravel()], 1)
    path = write(
        tmp_path / "m.nc",
        sizes,
        {
            "nodeCoords": (("nodeCount", "coordDim"), coords, {"units": "degrees"}),
            "elementConn": (("elementCount", "most"), conn, {}),
            "numElementConn": (("elementCount",), np.full(8, 4, "i1"), {}),
            "origGridDims": dims,
        },
    )
    assert_boxes(read_grid(path), (2, 4))


def ugrid_of(path, table, dims, mesh=None, notes=None, name="mesh", other=None):
    sizes = {"node": 6} | dict(zip(dims, table.shape, strict=True))
    described = {
        "cf_role": "mesh_topology",
        "topology_dimension": 2,
        "node_coordinates": f"{name}_node_y {name}_node_x",
        "face_node_connectivity": f"{name}_faces",
    } | (mesh or {})
    variables = {
        name: ((), np.int32(0), described),
        f"{name}_node_x": (("node",), PRISM_LON, {"standard_name": "longitude", "units": "degrees_east"}),
        f"{name}_node_y": (("node",), PRISM_LAT, {"standard_name": "latitude", "units": "degrees_north"}),
        f"{name}_faces": (dims, table, notes or {}),
    }
    return write(path, sizes, variables | (other or {}))


def test_ugrid(tmp_path):
    dims = ("face", "most")
    path = ugrid_of(tmp_path / "zero.nc", padded(PRISM, -1), dims)
    assert_is(read_grid(path), PRISM_LON, PRISM_LAT, PRISM)
    notes = {"start_index": 1, "_FillValue": np.int32(9999)}
    path = ugrid_of(tmp_path / "one.nc", padded(PRISM, 9999, 1, width=6), dims, notes=notes)
    assert_is(read_grid(path), PRISM_LON, PRISM_LAT, PRISM)
    assert read_grid(path).grid.nvertex == 4
    turned = padded(PRISM, 9999, 1).T.copy()
    path = ugrid_of(tmp_path / "turned.nc", turned, ("most", "face"), {"face_dimension": "face"}, notes)
    assert_is(read_grid(path), PRISM_LON, PRISM_LAT, PRISM)
    real = padded(PRISM, 0).astype(np.float64)
    real[padded(PRISM, -7) == -7] = np.nan
    assert_is(read_grid(ugrid_of(tmp_path / "real.nc", real, dims)), PRISM_LON, PRISM_LAT, PRISM)


def test_ugrid_of_two_meshes_is_picked_by_name(tmp_path):
    dims = ("face", "most")
    second = {
        "b": ((), np.int32(0), {"cf_role": "mesh_topology", "node_coordinates": "mesh_node_x mesh_node_y",
                                "face_node_connectivity": "b_faces"}),
        "b_faces": (dims, padded(PRISM[::-1], -1), {}),
        "on_b": (("face",), np.zeros(5), {"mesh": "b"}),
    }  # fmt: skip
    path = ugrid_of(tmp_path / "two.nc", padded(PRISM, -1), dims, other=second)
    with pytest.raises(GridError, match=r"holds the meshes mesh, b; pick one as two\.nc:mesh"):
        read_grid(path)
    assert_is(read_grid(f"{path}:b"), PRISM_LON, PRISM_LAT, PRISM[::-1])
    assert_is(read_grid(f"{path}:on_b"), PRISM_LON, PRISM_LAT, PRISM[::-1])
    assert_is(read_grid(f"{path}:mesh"), PRISM_LON, PRISM_LAT, PRISM)


def test_icon(tmp_path):
    table = np.array(OCTA)
    lon, lat = np.radians(OCTA_LON)[table], np.radians(OCTA_LAT)[table]
    two = ("cell", "nv")
    vertices = {"clon_vertices": (two, lon, {}), "clat_vertices": (two, lat, {})}
    assert_is(read_grid(write(tmp_path / "a.nc", {"cell": 8, "nv": 3}, vertices)), OCTA_LON, OCTA_LAT, OCTA)
    connected = {
        "vlon": (("vertex",), np.radians(OCTA_LON), {"units": "radian"}),
        "vlat": (("vertex",), np.radians(OCTA_LAT).astype("f4"), {"units": "radian"}),
        "vertex_of_cell": (("nv", "cell"), table.T.astype(np.int32) + 1, {}),
        "cell_sea_land_mask": (("cell",), np.array([-2, -1, 1, 2, 2, 2, 2, -2], "i4"), {}),
    }
    named = read_grid(write(tmp_path / "b.nc", {"cell": 8, "nv": 3, "vertex": 6}, connected))
    assert_is(named, OCTA_LON, OCTA_LAT, OCTA)
    assert named.grid.land_fraction.tolist() == [0, 0, 1, 1, 1, 1, 1, 0]
    assert np.allclose(Polygons.of(named.grid.vertex_lon, named.grid.vertex_lat).area, np.pi / 2)
    in_degrees = {
        "clon": (("cell",), np.zeros(8), {"units": "degrees_east"}),
        "clon_vertices": (two, OCTA_LON[table], {}),
        "clat_vertices": (two, OCTA_LAT[table], {}),
    }
    assert_is(read_grid(write(tmp_path / "c.nc", {"cell": 8, "nv": 3}, in_degrees)), OCTA_LON, OCTA_LAT, OCTA)


def mpas_of(path, table, count, **attributes):
    sizes = {"nCells": len(table), "maxEdges": table.shape[1], "nVertices": 6}
    variables = {
        "lonVertex": (("nVertices",), np.radians(PRISM_LON % 360), {}),
        "latVertex": (("nVertices",), np.radians(PRISM_LAT), {}),
        "verticesOnCell": (("nCells", "maxEdges"), table, {}),
        "nEdgesOnCell": (("nCells",), np.array(count, "i4"), {}),
    }
    return write(path, sizes, variables, **({"on_a_sphere": "YES"} | attributes))


def test_mpas(tmp_path):
    count = [len(face) for face in PRISM]
    for what, fill in (("zero", 0), ("rubbish", 77)):
        named = read_grid(mpas_of(tmp_path / f"{what}.nc", padded(PRISM, fill, 1, width=5), count))
        assert_is(named, PRISM_LON, PRISM_LAT, PRISM)
    with pytest.raises(GridError, match="a plane has no longitudes"):
        read_grid(mpas_of(tmp_path / "plane.nc", padded(PRISM, 0, 1), count, on_a_sphere="NO"))


def cube_faces(n):
    """Corners (6, n + 1, n + 1) of a cube whose faces are cut at equal angles."""
    a, b = np.meshgrid(*2 * [np.tan(np.linspace(-np.pi / 4, np.pi / 4, n + 1))], indexing="ij")
    one = np.ones_like(a)
    xyz = np.array([(one, a, b), (-one, -a, b), (-a, one, b), (a, -one, b), (-b, a, one), (b, a, -one)])
    x, y, z = xyz.swapaxes(0, 1)
    return np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y)))


def test_geos_cubed_sphere(tmp_path):
    lon, lat = cube_faces(2)
    dims = ("nf", "YCdim", "XCdim")
    path = write(
        tmp_path / "c2.nc",
        {"nf": 6, "YCdim": 3, "XCdim": 3},
        {
            "corner_lons": (dims, lon % 360, {"units": "degrees_east"}),
            "corner_lats": (dims, lat, {"units": "degrees_north"}),
        },
    )
    named = read_grid(path)
    assert named.shape == (6, 2, 2)
    flat_lon, flat_lat = lon.ravel(), lat.ravel()
    corner = np.arange(54).reshape(6, 3, 3)
    faces = [
        [corner[f, j, i], corner[f, j, i + 1], corner[f, j + 1, i + 1], corner[f, j + 1, i]]
        for f in range(6) for j in range(2) for i in range(2)
    ]  # fmt: skip
    assert_is(named, flat_lon, flat_lat, faces)
    area = Polygons.of(named.grid.vertex_lon, named.grid.vertex_lat).area
    assert np.allclose(area, 4 * np.pi / 24, rtol=1e-12)  # cut in halves at equal angles, all 24 cells are alike


def oasis_of(path, names=("land",)):
    lon, lat = box_corners()
    variables = {}
    for name in names:
        dims = (f"crn_{name}", f"y_{name}", f"x_{name}")
        variables[f"{name}.clo"] = (dims, lon.T.reshape(4, 2, 4), {"units": "degrees"})
        variables[f"{name}.cla"] = (dims, lat.T.reshape(4, 2, 4), {})
        variables[f"{name}.msk"] = (dims[1:], np.array([[1, 0, 0, 0], [0, 0, 0, 1]], "i4"), {})
    sizes = {f"{d}_{name}": size for name in names for d, size in (("crn", 4), ("y", 2), ("x", 4))}
    return write(path, sizes, variables)


def test_oasis_grids(tmp_path):
    named = read_grid(oasis_of(tmp_path / "grids.nc"))
    assert_boxes(named, (2, 4))
    assert named.grid.land_fraction.tolist() == [0, 1, 1, 1, 1, 1, 1, 0]
    two = oasis_of(tmp_path / "two.nc", ("land", "more"))
    assert read_grid(f"{two}:more").name == "two.nc:more"
    assert_boxes(read_grid(f"{two}:more"), (2, 4))
    for wrong in (two, f"{two}:sea"):
        with pytest.raises(GridError, match=r"OASIS grids land, more; pick one as two\.nc:land"):
            read_grid(wrong)


def axes_of(path, lat, lon, lat_bounds=None, lon_bounds=None, dims=("lat", "lon"), **fields):
    sizes = {"lat": len(lat), "lon": len(lon), "bnds": 2}
    variables = {
        "lat": (("lat",), np.asarray(lat), {"units": "degrees_north"}),
        "lon": (("lon",), np.asarray(lon), {"units": "degrees_east"}),
        "field": (dims, np.zeros([sizes[d] for d in dims]), {}),
    }
    for name, bounds in (("lat", lat_bounds), ("lon", lon_bounds)):
        if bounds is not None:
            variables[f"{name}_bnds"] = ((name, "bnds"), np.asarray(bounds, dtype=float), {})
            variables[name][2]["bounds"] = f"{name}_bnds"
    return write(path, sizes, variables | fields)


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


def test_files_that_are_none(tmp_path):
    (tmp_path / "text.nc").write_text("no netCDF")
    for name in ("absent.nc", "text.nc", "absent.nc:grid"):
        with pytest.raises(GridError, match=r"(absent|text)\.nc cannot be read as netCDF"):
            read_grid(str(tmp_path / name))
    path = write(tmp_path / "other.nc", {"x": 3}, {"t": (("x",), np.zeros(3), {})})
    with pytest.raises(GridError, match="no latitude and longitude; a grid in SCRIP"):
        read_grid(path)
    path = write(tmp_path / "void.nc", {}, {})
    with pytest.raises(GridError, match="the file has no variables"):
        read_grid(path)


@pytest.mark.parametrize("kind", ["NETCDF4", "NETCDF3_CLASSIC"])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path, kind):
    lon, lat = (np.repeat(part, 500, axis=0) for part in box_corners())
    path = tmp_path / "whole.nc"
    with netCDF4.Dataset(path, "w", format=kind) as file:
        file.createDimension("grid_size", len(lon))
        file.createDimension("grid_corners", 4)
        for name, values in (("grid_corner_lon", lon), ("grid_corner_lat", lat)):
            variable = file.createVariable(name, "f8", ("grid_size", "grid_corners"))
            variable.units = "degrees"
            variable[:] = values
    content = path.read_bytes()
    assert read_grid(str(path)).grid.size == 4000
    for share in (0.01, 0.3, 0.6, 0.9, 0.999):
        cut = tmp_path / "cut.nc"
        cut.write_bytes(content[: int(share * len(content))])
        with pytest.raises(GridError, match=r"cut\.nc"):
            read_grid(str(cut))


def test_missing_parts_are_named(tmp_path):
    count = [len(face) for face in PRISM]
    whole = esmf_of(tmp_path / "m.nc", padded(PRISM, -1, 1), count)
    for lost in ("elementConn", "numElementConn", "nodeCoords"):
        path = edited(whole, f"{whole}-{lost}.nc", lost)
        with pytest.raises(GridError, match=f"variable '{lost}' is missing: an ESMF mesh has"):
            read_grid(path)
    whole = mpas_of(tmp_path / "p.nc", padded(PRISM, 0, 1), count)
    for lost in ("nEdgesOnCell", "lonVertex"):
        with pytest.raises(GridError, match=f"variable '{lost}' is missing: an MPAS mesh has"):
            read_grid(edited(whole, f"{whole}-{lost}.nc", lost))
    whole = ugrid_of(tmp_path / "u.nc", padded(PRISM, -1), ("face", "most"))
    for lost, why in (("mesh_faces", "as its face_node_connectivity"), ("mesh_node_y", "in node_coordinates")):
        with pytest.raises(GridError, match=f"variable '{lost}' is missing: mesh 'mesh' names it {why}"):
            read_grid(edited(whole, f"{whole}-{lost}.nc", lost))
    lon, lat = box_corners()
    with pytest.raises(GridError, match="variable 'grid_corner_lat' is missing"):
        read_grid(edited(scrip_of(tmp_path / "s.nc", lon, lat), tmp_path / "t.nc", "grid_corner_lat"))


def every_format(folder):
    """A small file of each format."""
    lon, lat = box_corners()
    count = [len(face) for face in PRISM]
    cube = [(("nf", "y", "x"), v, {"units": "degrees"}) for v in cube_faces(2)]
    triangles = np.array(OCTA)
    curved = {
        name: (("y", "x"), v.mean(1).reshape(2, 4), {"units": unit, "bounds": f"{name}_b"})
        for name, v, unit in (("lon", lon, "degrees_east"), ("lat", lat, "degrees_north"))
    }
    curved |= {f"{name}_b": (("y", "x", "nv"), v.reshape(2, 4, 4), {}) for name, v in (("lon", lon), ("lat", lat))}
    nodes = {"vlon": (("v",), np.radians(OCTA_LON), {}), "vlat": (("v",), np.radians(OCTA_LAT), {})}
    return {
        "scrip": scrip_of(folder / "scrip.nc", lon, lat),
        "esmf": esmf_of(folder / "esmf.nc", padded(PRISM, -1, 1), count, notes={"start_index": 1}),
        "ugrid": ugrid_of(folder / "ugrid.nc", padded(PRISM, -1), ("face", "most")),
        "mpas": mpas_of(folder / "mpas.nc", padded(PRISM, 0, 1), count),
        "icon": write(folder / "icon.nc", {"v": 6, "nv": 3, "cell": 8},
                      nodes | {"vertex_of_cell": (("nv", "cell"), triangles.T.astype("i4") + 1, {})}),
        "geos": write(folder / "geos.nc", {"nf": 6, "y": 3, "x": 3}, {"corner_lons": cube[0], "corner_lats": cube[1]}),
        "oasis": oasis_of(folder / "oasis.nc"),
        "axes": axes_of(folder / "axes.nc", [-45.0, 45.0], [-135.0, -45.0, 45.0, 135.0], [[-90, 0], [0, 90]],
                        [[-180, -90], [-90, 0], [0, 90], [90, 180]]),
        "curved": write(folder / "curved.nc", {"y": 2, "x": 4, "nv": 4}, curved),
    }  # fmt: skip


def edited(path, out, lost=None, attribute=None, shortened=None):
    """A copy of a file without a variable, without an attribute of a variable, or with a dimension one shorter."""
    with netCDF4.Dataset(path) as source, netCDF4.Dataset(out, "w") as target:
        for name, dim in source.dimensions.items():
            target.createDimension(name, len(dim) - (name == shortened))
        for name, variable in source.variables.items():
            if name == lost:
                continue
            copy = target.createVariable(name, variable.dtype, variable.dimensions)
            copy.setncatts({k: variable.getncattr(k) for k in variable.ncattrs() if (name, k) != attribute})
            if copy.size:
                copy[...] = variable[tuple(slice(length) for length in copy.shape)]
    return str(out)


def test_whatever_is_lost_the_error_is_one_of_ours(tmp_path):
    """Every variable, attribute and last entry of a dimension taken away from a file of every format."""
    errors = []
    for format_name, path in every_format(tmp_path).items():
        assert read_grid(path).grid.size in (5, 8, 24), format_name
        with netCDF4.Dataset(path) as file:
            edits = [{"lost": name} for name in file.variables]
            edits += [{"attribute": (name, key)} for name, v in file.variables.items() for key in v.ncattrs()]
            edits += [{"shortened": name} for name in file.dimensions]
        for i, edit in enumerate(edits):
            out = tmp_path / f"{format_name}_{i}.nc"
            try:
                read_grid(edited(path, out, **edit))
            except GridError as error:
                errors.append((str(error), out.name))
    assert len(errors) > 40
    assert [said for said, name in errors if name not in said] == []


@pytest.mark.parametrize("node", [0, 7, -5])
def test_an_index_out_of_range_names_the_cell(tmp_path, node):
    table = padded(PRISM, -1, 1)
    table[2, 1] = node
    path = esmf_of(tmp_path / "m.nc", table, [3, 4, 4, 4, 3])
    with pytest.raises(GridError, match=r"m\.nc: cell 3 has .* corners .*'elementConn'"):
        read_grid(path)


def test_counts_that_do_not_fit_are_refused(tmp_path):
    path = esmf_of(tmp_path / "five.nc", padded(PRISM, -1, 1), [3, 4, 4, 5, 3])
    with pytest.raises(GridError, match="cell 4 has 5 corners, 'elementConn' has room for 4"):
        read_grid(path)
    path = esmf_of(tmp_path / "two.nc", padded(PRISM, -1, 1), [3, 4, 2, 4, 3])
    with pytest.raises(GridError, match="cell 3 has 2 corners"):
        read_grid(path)
    path = esmf_of(tmp_path / "padded.nc", padded(PRISM, -1, 1), [4, 4, 4, 4, 3])
    with pytest.raises(GridError, match="cell 1 has 3 corners in 'elementConn'; 3 or more, none missing"):
        read_grid(path)
    lon, lat = box_corners()
    two = ("grid_size", "grid_corners")
    variables = {
        "grid_dims": (("rank",), np.array([5, 2], "i4"), {}),
        "grid_corner_lon": (two, lon, {"units": "degrees"}),
        "grid_corner_lat": (two, lat, {"units": "degrees"}),
    }
    path = write(tmp_path / "dims.nc", {"grid_size": 8, "grid_corners": 4, "rank": 2}, variables)
    with pytest.raises(GridError, match="'grid_dims' says 2 x 5 cells, there are 8"):
        read_grid(path)


def test_dimensions_that_do_not_fit_are_refused(tmp_path):
    lon, lat = box_corners()
    flat = {"grid_corner_lon": (("n",), lon.ravel(), {"units": "degrees"}),
            "grid_corner_lat": (("n",), lat.ravel(), {"units": "degrees"})}  # fmt: skip
    with pytest.raises(GridError, match="needs dimensions"):
        read_grid(write(tmp_path / "flat.nc", {"n": 32}, flat))
    unequal = {"grid_corner_lon": (("n", "four"), lon, {"units": "degrees"}),
               "grid_corner_lat": (("n", "two"), lat[:, :2], {"units": "degrees"})}  # fmt: skip
    with pytest.raises(GridError, match="need one shape"):
        read_grid(write(tmp_path / "unequal.nc", {"n": 8, "four": 4, "two": 2}, unequal))
    path = axes_of(tmp_path / "axes.nc", [-45.0, 45.0], [45.0, 135.0, 50.0, 60.0])
    with pytest.raises(GridError, match="'lon' must rise or fall throughout"):
        read_grid(path)
    words = {"lat": (("n",), np.array([b"a", b"b"], "S1"), {}), "lon": (("m",), np.zeros(2), {})}
    with pytest.raises(GridError, match="'lat' holds"):
        read_grid(write(tmp_path / "words.nc", {"n": 2, "m": 2}, words))


def test_units_are_never_guessed(tmp_path):
    lon, lat = box_corners()
    path = scrip_of(tmp_path / "none.nc", np.radians(lon), np.radians(lat), note="no units")
    with pytest.raises(GridError, match="have no units and stay below 2 pi: degrees or radians"):
        read_grid(path)
    assert_boxes(read_grid(scrip_of(tmp_path / "plain.nc", lon, lat, note="no units")), (8,))
    with pytest.raises(GridError, match="'grid_corner_lon' has units 'm', degrees or radians are expected"):
        read_grid(scrip_of(tmp_path / "metres.nc", lon, lat, units="m"))
    table = np.array(OCTA)
    vertices = {f"c{k}_vertices": (("cell", "nv"), v[table], {}) for k, v in (("lon", OCTA_LON), ("lat", OCTA_LAT))}
    with pytest.raises(GridError, match="reaches 270 and has no units: radians are expected"):
        read_grid(write(tmp_path / "icon.nc", {"cell": 8, "nv": 3}, vertices))


def test_latitudes_are_clipped_at_the_poles_and_refused_beyond(tmp_path):
    lon, lat = box_corners()
    named = read_grid(scrip_of(tmp_path / "near.nc", lon, lat * (1 + 1e-8)))
    assert np.abs(named.grid.vertex_lat).max() == 90.0
    with pytest.raises(GridError, match=r"beyond\.nc: cell 1 has a latitude beyond 90 degrees"):
        read_grid(scrip_of(tmp_path / "beyond.nc", lon, lat * 1.001))


@pytest.mark.parametrize(
    ("spec", "shape", "area"),
    [
        ("T42_scrip.nc", (64, 128), 1e-12),
        ("ne30pg2_scrip.nc", (21600,), 1e-12),
        ("triangular_grid_ICON.nc", (20480,), 1e-12),
        ("sftlf_mod1_rectilinear_grid_2D.nc", (96, 192), 1e-12),
        ("oasis_torc_lmdz_grids.nc:lmdz", (72, 96), 1e-12),
    ],
)
def test_grids_of_models_cover_the_sphere_once(spec, shape, area):
    if not (DATA / spec.split(":")[0]).exists():
        pytest.skip(f"{spec} is not here; set AI4LAND_REFERENCE_DATA to a folder with grids/")
    named = read_grid(f"{DATA}/{spec}")
    assert named.shape == shape
    polygons = Polygons.of(named.grid.vertex_lon, named.grid.vertex_lat)
    assert not polygons.degenerate.any()
    assert polygons.area.sum() == pytest.approx(4 * np.pi, rel=area)


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
