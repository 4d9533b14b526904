"""Cells as polygons from the grid files of models: SCRIP, ESMF mesh, UGRID, ICON, MPAS, GEOS cubed sphere, OASIS.

Every function takes an open file and the name asked for, and returns its cells in the order of the file.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.ncread import NcReader

Float = NDArray[np.float64]
Index = NDArray[np.int64]

_TURN = 2 * np.pi + 1e-6
_POLE_IN_REAL32 = 1e-5
"""Degrees by which half pi in single precision may lie beyond the pole."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Corners lon, lat (n, nvertex) or (*shape, nvertex), float64 degrees, NaN where missing.

    shape: the cell dimensions; corners: the variables they stand in; active: a mask's variable and its (n,) bool.
    """

    lon: Float
    lat: Float
    shape: tuple[int, ...]
    corners: str
    active: tuple[str, NDArray[np.bool_]] | None = None

    @property
    def size(self) -> int:
        """Number of cells."""
        return math.prod(self.lon.shape[:-1])

    def part(self, band: slice) -> tuple[Float, Float]:
        """Corners (m, nvertex) of the cells at some flat positions; the others are not laid out in memory."""
        if self.lon.ndim == 2:
            return self.lon[band], self.lat[band]
        at = np.unravel_index(np.arange(*band.indices(self.size)), self.lon.shape[:-1])
        return self.lon[at], self.lat[at]


def scrip(file: NcReader, name: str) -> Cells:
    """grid_corner_lon, grid_corner_lat (grid_size, grid_corners); grid_dims names the fastest dimension first."""
    names = [file.need(v, "a SCRIP grid holds its corners there") for v in ("grid_corner_lon", "grid_corner_lat")]
    lon, lat = corners(file, names[0], names[1], "degrees")
    if lon.ndim != 2:
        raise file.error(f"{names[0]!r} needs dimensions (grid_size, grid_corners), got {file.dims(names[0])}")
    return Cells(lon, lat, _shape(file, "grid_dims", len(lon)), ", ".join(names), _mask(file, "grid_imask"))


def esmf_mesh(file: NcReader, name: str) -> Cells:
    """nodeCoords (nodeCount, 2); elementConn padded (elementCount, most) or one after the other (connectionCount,)."""
    why = "an ESMF mesh has nodeCoords, elementConn and numElementConn"
    nodes, conn, number = (file.need(v, why) for v in ("nodeCoords", "elementConn", "numElementConn"))
    coords = file.numbers(nodes)
    if coords.ndim != 2 or coords.shape[1] != 2:
        raise file.error(f"{nodes!r} needs shape (nodeCount, 2), longitude and latitude, got {coords.shape}")
    lon, lat = _in_degrees(file, coords[:, 0], coords[:, 1], (nodes,), (nodes,), "degrees")
    count = _whole(file, number).reshape(-1)
    table = file.numbers(conn)
    if table.ndim == 1:
        table = _ragged(file, conn, table, count)
    start = _start(file, conn, 1)
    ring = _rings(file, conn, table, start, lon.size, count)
    return Cells(lon[ring], lat[ring], _shape(file, "origGridDims", len(ring)), nodes, _mask(file, "elementMask"))


def ugrid_meshes(file: NcReader) -> list[str]:
    """Variables that describe a mesh of faces."""
    return [
        v for v in file.names
        if file.text(v, "cf_role") == "mesh_topology" or file.text(v, "face_node_connectivity")
    ]  # fmt: skip


def ugrid(file: NcReader, name: str) -> Cells:
    """The faces of a UGRID mesh, of the one called `name` where there are several."""
    meshes = ugrid_meshes(file)
    picked = name if name in meshes else file.text(name, "mesh") if name in file else ""
    if len(meshes) == 1 and not picked:
        picked = meshes[0]
    if picked not in meshes:
        raise file.error(f"holds the meshes {', '.join(meshes)}; pick one as {file.path.name}:{meshes[0]}")
    conn = file.text(picked, "face_node_connectivity")
    if not conn:
        raise file.error(f"mesh {picked!r} has no attribute face_node_connectivity: a mesh of faces is expected")
    file.need(conn, f"mesh {picked!r} names it as its face_node_connectivity")
    lon_name, lat_name = _node_coordinates(file, picked)
    lon, lat = corners(file, lon_name, lat_name, "degrees")
    table = file.numbers(conn)
    if table.ndim != 2:
        raise file.error(f"{conn!r} needs two dimensions, faces and their corners, got {file.dims(conn)}")
    if _faces_last(file, picked, conn):
        table = table.T
    ring = _rings(file, conn, table, _start(file, conn, 0), lon.size)
    return Cells(lon[ring], lat[ring], (len(ring),), f"{lon_name}, {lat_name}")


def icon(file: NcReader, name: str) -> Cells:
    """clon_vertices, clat_vertices (cell, nv), or vertex_of_cell (nv, cell) with vlon and vlat; radians by default."""
    mask = _mask(file, "cell_sea_land_mask", lambda value: value > 0)
    if "clon_vertices" in file:
        file.need("clat_vertices", "an ICON grid has clon_vertices and clat_vertices")
        owners = [(v,) if v in file else () for v in ("clon", "clat")]
        lon, lat = corners(file, "clon_vertices", "clat_vertices", "radians", *owners)
        if lon.ndim != 2:
            raise file.error(f"'clon_vertices' needs dimensions (cell, nv), got {file.dims('clon_vertices')}")
        return Cells(lon, lat, (len(lon),), "clon_vertices, clat_vertices", mask)
    for v in ("vlon", "vlat"):
        file.need(v, "an ICON grid with vertex_of_cell has vlon and vlat")
    lon, lat = corners(file, "vlon", "vlat", "radians")
    table = file.numbers("vertex_of_cell")
    if table.ndim != 2:
        raise file.error(f"'vertex_of_cell' needs dimensions (nv, cell), got {file.dims('vertex_of_cell')}")
    ring = _rings(file, "vertex_of_cell", table.T, 1, lon.size)
    return Cells(lon[ring], lat[ring], (len(ring),), "vlon, vlat", mask)


def mpas(file: NcReader, name: str) -> Cells:
    """verticesOnCell (nCells, maxEdges) from 1, of which nEdgesOnCell count; lonVertex, latVertex in radians."""
    if file.text("", "on_a_sphere").upper() == "NO":
        raise file.error("on_a_sphere is NO: a plane has no longitudes and latitudes")
    why = "an MPAS mesh has verticesOnCell, nEdgesOnCell, lonVertex and latVertex"
    for v in ("verticesOnCell", "nEdgesOnCell", "lonVertex", "latVertex"):
        file.need(v, why)
    lon, lat = corners(file, "lonVertex", "latVertex", "radians")
    count = _whole(file, "nEdgesOnCell").reshape(-1)
    ring = _rings(file, "verticesOnCell", file.numbers("verticesOnCell"), 1, lon.size, count)
    return Cells(lon[ring], lat[ring], (len(ring),), "lonVertex, latVertex", _mask(file, "landmask"))


def geos(file: NcReader, name: str) -> Cells:
    """corner_lons, corner_lats (nf, Ydim + 1, Xdim + 1): the lattice of corners of every face."""
    file.need("corner_lons", "a GEOS cubed sphere has corner_lons and corner_lats")
    file.need("corner_lats", "a GEOS cubed sphere has corner_lons and corner_lats")
    lon, lat = corners(file, "corner_lons", "corner_lats", "degrees")
    if lon.ndim != 3 or min(lon.shape[1:]) < 2:
        raise file.error(f"'corner_lons' needs shape (nf, Ydim + 1, Xdim + 1), got {lon.shape}")
    shape = (lon.shape[0], lon.shape[1] - 1, lon.shape[2] - 1)
    return Cells(_quads(lon), _quads(lat), shape, "corner_lons, corner_lats")


def oasis(file: NcReader, name: str) -> Cells:
    """NAME.clo, NAME.cla (corners, y, x) of an OASIS grids file; NAME.msk is 1 where masked."""
    held = sorted(v.removesuffix(".clo") for v in file.names if v.endswith(".clo"))
    if not name and len(held) == 1:
        name = held[0]
    if name not in held:
        raise file.error(f"holds the OASIS grids {', '.join(held)}; pick one as {file.path.name}:{held[0]}")
    file.need(f"{name}.cla", f"the latitudes to {name}.clo")
    lon, lat = corners(file, f"{name}.clo", f"{name}.cla", "degrees")
    if lon.ndim < 2:
        raise file.error(f"'{name}.clo' needs dimensions (corners, y, x), got {file.dims(f'{name}.clo')}")
    shape = lon.shape[1:]
    mask = _mask(file, f"{name}.msk", lambda value: value == 0)
    return Cells(lon.reshape(len(lon), -1).T, lat.reshape(len(lat), -1).T, shape, f"{name}.clo, {name}.cla", mask)


def corners(
    file: NcReader, lon: str, lat: str, default: str, lon_owner: tuple[str, ...] = (), lat_owner: tuple[str, ...] = ()
) -> tuple[Float, Float]:
    """Two variables of one shape in degrees; units from them or else from their owners, else `default`."""
    values = file.numbers(lon), file.numbers(lat)
    if values[0].shape != values[1].shape:
        raise file.error(f"{lon!r} and {lat!r} need one shape, got {values[0].shape} and {values[1].shape}")
    return _in_degrees(file, *values, (lon, *lon_owner), (lat, *lat_owner), default)


def _in_degrees(
    file: NcReader, lon: Float, lat: Float, lon_names: tuple[str, ...], lat_names: tuple[str, ...], default: str
) -> tuple[Float, Float]:
    unit = _unit(file, lon_names), _unit(file, lat_names)
    largest = max(float(np.nan_to_num(np.abs(part)).max(initial=0.0)) for part in (lon, lat))
    if unit == (None, None) and default == "degrees" and 0 < largest <= _TURN:
        raise file.error(
            f"{lon_names[0]!r} and {lat_names[0]!r} have no units and stay below 2 pi: degrees or radians? add the "
            "attribute units"
        )
    if unit == (None, None) and default == "radians" and largest > _TURN:
        raise file.error(
            f"{lon_names[0]!r} or {lat_names[0]!r} reaches {largest:.6g} and has no units: radians are expected here; "
            "add the attribute units"
        )
    if (unit[0] or unit[1] or default) == "radians":
        lon = np.degrees(lon)
    if (unit[1] or unit[0] or default) == "radians":
        lat = np.degrees(lat)
        lat = np.where(np.abs(lat) <= 90 + _POLE_IN_REAL32, np.clip(lat, -90.0, 90.0), lat)
    return lon, lat


def _unit(file: NcReader, names: tuple[str, ...]) -> str | None:
    for name in names:
        unit = file.text(name, "units").lower()
        if unit.startswith("deg") or unit == "°":
            return "degrees"
        if unit.startswith("rad"):
            return "radians"
        if unit and unit != "1":
            raise file.error(f"{name!r} has units {unit!r}, degrees or radians are expected")
    return None


def _whole(file: NcReader, name: str) -> Index:
    values = file.numbers(name)
    if not np.isfinite(values).all() or (values != np.round(values)).any():
        raise file.error(f"{name!r} needs whole numbers without missing ones")
    return values.astype(np.int64)


def _shape(file: NcReader, name: str, n: int) -> tuple[int, ...]:
    """The cell dimensions from a variable that names the fastest first; (n,) without one or where it has one entry."""
    if name not in file:
        return (n,)
    sizes = tuple(int(size) for size in _whole(file, name).reshape(-1)[::-1])
    if len(sizes) == 1:
        return (n,)
    if np.prod(sizes) != n:
        raise file.error(f"{name!r} says {' x '.join(map(str, sizes))} cells, there are {n}")
    return sizes


def _mask(file: NcReader, name: str, active: object = None) -> tuple[str, NDArray[np.bool_]] | None:
    if name not in file:
        return None
    values = file.numbers(name)
    chosen = active(values) if callable(active) else np.nan_to_num(values) != 0
    return name, np.asarray(chosen, dtype=np.bool_).reshape(-1)


def _rings(file: NcReader, name: str, table: Float, start: int, nodes: int, count: Index | None = None) -> Index:
    """0-based nodes (n, most) of every cell, padded by its last one, from a table counted from `start`.

    Missing entries, -1, and 0 where counting starts at 1 are padding, as is all beyond `count` (n,) entries.
    """
    if table.ndim != 2 or (count is not None and count.size != len(table)):
        counts = "" if count is None else f" for {count.size} counts"
        raise file.error(f"{name!r} needs a row of corners a cell, got shape {table.shape}{counts}")
    used = np.isfinite(table) & (table != -1)
    if start == 1:
        used &= table != 0
    if count is not None:
        bad = np.flatnonzero((count < 0) | (count > table.shape[1]))
        if bad.size:
            raise file.error(f"cell {bad[0] + 1} has {count[bad[0]]} corners, {name!r} has room for {table.shape[1]}")
        used &= np.arange(table.shape[1]) < count[:, None]
    node = np.where(used, table - start, 0)
    bad = np.flatnonzero((used & ((node < 0) | (node >= nodes) | (node != np.round(node)))).any(1))
    if bad.size:
        row = table[bad[0]][used[bad[0]]]
        raise file.error(
            f"cell {bad[0] + 1} has the corners {row.tolist()} in {name!r}; {start}..{nodes - 1 + start} are expected "
            f"({bad.size} such cells)"
        )
    filled = used.sum(1)
    few = np.flatnonzero(filled < 3 if count is None else (filled < 3) | (filled < count))
    if few.size:
        raise file.error(f"cell {few[0] + 1} has {filled[few[0]]} corners in {name!r}; 3 or more, none missing, needed")
    order = np.argsort(~used, axis=1, kind="stable")
    packed = np.take_along_axis(node, order, 1).astype(np.int64)
    place = np.minimum(np.arange(table.shape[1]), filled[:, None] - 1)
    return np.take_along_axis(packed, place, 1)[:, : max(int(filled.max(initial=3)), 3)]


def _start(file: NcReader, name: str, default: int) -> int:
    """The number that a connectivity counts its nodes from."""
    try:
        return int(file.attribute(name, "start_index", default))
    except (TypeError, ValueError) as reason:
        raise file.error(f"start_index of {name!r} must be a whole number: {reason}") from reason


def _ragged(file: NcReader, name: str, flat: Float, count: Index) -> Float:
    """Rows of `count` entries that follow one another, as a padded table."""
    if count.sum() != flat.size or (count < 0).any():
        raise file.error(f"{name!r} has {flat.size} entries, numElementConn counts {count.sum()}")
    table = np.full((count.size, int(count.max(initial=3))), np.nan)
    table[np.arange(table.shape[1]) < count[:, None]] = flat
    return table


def _node_coordinates(file: NcReader, mesh: str) -> tuple[str, str]:
    """Names of the nodes' longitude and latitude, told apart by what their attributes say."""
    names = file.text(mesh, "node_coordinates").split()
    for name in names:
        file.need(name, f"mesh {mesh!r} names it in node_coordinates")
    lon = [v for v in names if _says(file, v, "longitude", "degrees_east", "lon")]
    lat = [v for v in names if _says(file, v, "latitude", "degrees_north", "lat")]
    if len(lon) != 1 or len(lat) != 1:
        raise file.error(f"mesh {mesh!r} needs one longitude and one latitude in node_coordinates, got {names}")
    return lon[0], lat[0]


def _says(file: NcReader, variable: str, standard_name: str, units: str, part: str) -> bool:
    said = file.text(variable, "standard_name")
    if said:
        return said == standard_name
    return file.text(variable, "units") == units or part in variable.lower()


def _faces_last(file: NcReader, mesh: str, conn: str) -> bool:
    """Whether the second dimension of the connectivity counts the faces."""
    dims = file.dims(conn)
    named = file.text(mesh, "face_dimension")
    if named:
        if named not in dims:
            raise file.error(f"{conn!r} has dimensions {dims}, none is the face_dimension {named!r} of mesh {mesh!r}")
        return dims[1] == named
    centres = [v for v in file.text(mesh, "face_coordinates").split() if v in file]
    return bool(centres) and file.dims(centres[0]) == dims[1:]


def _quads(lattice: Float) -> Float:
    """Corners (cells, 4) of the cells of lattices (..., ny + 1, nx + 1), around each cell."""
    around = lattice[..., :-1, :-1], lattice[..., :-1, 1:], lattice[..., 1:, 1:], lattice[..., 1:, :-1]
    return np.stack(around, axis=-1).reshape(-1, 4)
