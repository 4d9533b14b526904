"""Writers of small grid files of every format, with corners derived by hand, and what reading one must give."""

import netCDF4
import numpy as np
import pytest

from ai4land_coupler.regrid.polygons import Polygons

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


def scrip_of(path, lon, lat, **notes):
    n, nv = np.shape(lon)
    two, notes = ("grid_size", "grid_corners"), notes or {"units": "degrees"}
    variables = {"grid_corner_lon": (two, lon, notes), "grid_corner_lat": (two, lat, notes)}
    return write(path, {"grid_size": n, "grid_corners": nv}, variables)


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


def mpas_of(path, table, count, **attributes):
    sizes = {"nCells": len(table), "maxEdges": table.shape[1], "nVertices": 6}
    variables = {
        "lonVertex": (("nVertices",), np.radians(PRISM_LON % 360), {}),
        "latVertex": (("nVertices",), np.radians(PRISM_LAT), {}),
        "verticesOnCell": (("nCells", "maxEdges"), table, {}),
        "nEdgesOnCell": (("nCells",), np.array(count, "i4"), {}),
    }
    return write(path, sizes, variables, **({"on_a_sphere": "YES"} | attributes))


def cube_faces(n):
    """Corners (6, n + 1, n + 1) of a cube whose faces are cut at equal angles."""
    a, b = np.meshgrid(*2 * [np.tan(np.linspace(-np.pi / 4, np.pi / 4, n + 1))], indexing="ij")
    one = np.ones_like(a)
    xyz = np.array([(one, a, b), (-one, -a, b), (-a, one, b), (a, -one, b), (-b, a, one), (b, a, -one)])
    x, y, z = xyz.swapaxes(0, 1)
    return np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y)))


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
