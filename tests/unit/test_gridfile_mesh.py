"""Grids of cells with corners of their own: SCRIP, ESMF, UGRID, ICON, MPAS, GEOS, OASIS, and those of models."""

import os
from pathlib import Path

import numpy as np
import pytest
from grid_files import (
    OCTA,
    OCTA_LAT,
    OCTA_LON,
    PRISM,
    PRISM_LAT,
    PRISM_LON,
    assert_boxes,
    assert_is,
    box_corners,
    cube_faces,
    esmf_of,
    mpas_of,
    oasis_of,
    padded,
    repeated,
    scrip_of,
    ugrid_of,
    write,
)

from ai4land_coupler.errors import GridError
from ai4land_coupler.gridfile import read_grid
from ai4land_coupler.regrid.polygons import Polygons

DATA = Path(os.environ.get("AI4LAND_REFERENCE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "grids"

# A prism: three corners at 30 N, three at 30 S; a triangle around each pole, three quadrilaterals between them.


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


def test_scrip_pads_by_repeated_corners_and_turns_longitudes(tmp_path):
    table = repeated(PRISM)[:, ::-1]
    path = scrip_of(tmp_path / "g.nc", PRISM_LON[table] + 720.0, PRISM_LAT[table])
    assert_is(read_grid(path), PRISM_LON, PRISM_LAT, PRISM)


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


def test_mpas(tmp_path):
    count = [len(face) for face in PRISM]
    for what, fill in (("zero", 0), ("rubbish", 77)):
        named = read_grid(mpas_of(tmp_path / f"{what}.nc", padded(PRISM, fill, 1, width=5), count))
        assert_is(named, PRISM_LON, PRISM_LAT, PRISM)
    with pytest.raises(GridError, match="a plane has no longitudes"):
        read_grid(mpas_of(tmp_path / "plane.nc", padded(PRISM, 0, 1), count, on_a_sphere="NO"))


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
