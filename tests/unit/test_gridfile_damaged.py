"""Grid files that lack something, do not fit or are cut short: each is refused, and by name."""

import netCDF4
import numpy as np
import pytest
from grid_files import (
    OCTA,
    OCTA_LAT,
    OCTA_LON,
    PRISM,
    assert_boxes,
    axes_of,
    box_corners,
    esmf_of,
    every_format,
    mpas_of,
    padded,
    scrip_of,
    ugrid_of,
    write,
)

from ai4land_coupler.errors import GridError
from ai4land_coupler.gridfile import read_grid


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
