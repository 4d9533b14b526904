"""Cells of CF files: latitude-longitude axes with bounds or without, curvilinear and unstructured cells with bounds."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler import meshfiles
from ai4land_coupler.meshfiles import Cells
from ai4land_coupler.ncread import NcReader

Float = NDArray[np.float64]

LAT_NAMES = ("lat", "latitude", "nav_lat", "clat")
LON_NAMES = ("lon", "longitude", "nav_lon", "clon")

_GAUSSIAN = 0.01
"""How far a row may be from its Gaussian latitude, in rows: files round, and regular rows are 0.2 and more away."""


def read(file: NcReader, variable: str = "") -> Cells:
    """The cells that the file's latitudes and longitudes are on, or those that `variable` is on."""
    lat, lon = _axes(file, variable)
    if file.dims(lat) == file.dims(lon):
        return _with_corners(file, lat, lon)
    edges = lat_edges(file, lat), lon_edges(file, lon)
    corner_lon, corner_lat = rectangles(*edges)
    shape = corner_lon.shape[:2]
    if _longitude_first(file, file.dims(lat)[0], file.dims(lon)[0], variable):
        corner_lon, corner_lat, shape = corner_lon.swapaxes(0, 1), corner_lat.swapaxes(0, 1), shape[::-1]
    return Cells(corner_lon, corner_lat, shape, f"{lon}, {lat}")


def centres(file: NcReader, variable: str) -> tuple[Float, Float] | None:
    """Longitude and latitude of the cells of `variable`, flat, degrees; none where the file does not say."""
    found = next(_pairs(file, variable), None)
    if found is None:
        return None
    lat_name, lon_name = found
    lat, lon = _degrees(file, lat_name), _degrees(file, lon_name)
    if file.dims(lat_name) != file.dims(lon_name):
        lat, lon = np.meshgrid(lat, lon, indexing="ij")
        if _longitude_first(file, file.dims(lat_name)[0], file.dims(lon_name)[0], variable):
            lat, lon = lat.T, lon.T
    return lon.reshape(-1), lat.reshape(-1)


def rectangles(lat: Float, lon: Float) -> tuple[Float, Float]:
    """Corners (nlat, nlon, 4) of the cells between parallels (nlat, 2) and meridians (nlon, 2), from the south-west.

    Views that hold the edges once.
    """
    shape = len(lat), len(lon), 4
    corner_lon = lon[None, :, [0, 1, 1, 0]]
    corner_lat = lat[:, None, [0, 0, 1, 1]]
    return np.broadcast_to(corner_lon, shape), np.broadcast_to(corner_lat, shape)


def lat_edges(file: NcReader, name: str) -> Float:
    """Edges (n, 2) of an axis of latitudes, the southern one first.

    From its bounds; else, for Gaussian latitudes, such that the rows' areas are the quadrature weights; else midway
    between the centres. A pole that the last row all but reaches is its edge.
    """
    lat = _axis(file, name)
    given = _bounds_of(file, name)
    if given:
        edges = _two(file, given, name)
    elif gaussian(lat):
        edges = _between(_gaussian_edges(lat.size))[:: 1 if lat[-1] > lat[0] else -1]
    else:
        edges = np.clip(_between(_midpoints(file, name, lat)), -90.0, 90.0)
    edges = np.sort(edges, axis=1)
    near = np.abs(np.abs(edges) - 90.0) <= 1e-3 * (edges[:, 1] - edges[:, 0]).max()
    edges = np.where(near & (np.abs(edges) < 90.0), np.copysign(90.0, edges), edges)
    _refuse_empty(file, name, edges)
    return edges


def lon_edges(file: NcReader, name: str) -> Float:
    """Edges (n, 2) of an axis of longitudes, the western one first and the eastern one at most 360 degrees further.

    From its bounds, of any turn, else midway between the centres; an axis that goes round closes exactly.
    """
    lon = _axis(file, name)
    given = _bounds_of(file, name)
    if given:
        edges = np.sort(_two(file, given, name), axis=1)
        width = edges[:, 1] - edges[:, 0]
        split = (width > 180.0) & (np.abs(width - 360.0) > 1e-6 * 360.0)
        around = lon[:, None] + np.sort(_nearest_turn(edges - lon[:, None]), axis=1)
        edges = np.where(split[:, None], around, edges)
    else:
        turned = np.unwrap(lon, period=360.0)
        edge = _midpoints(file, name, turned)
        if abs(abs(edge[-1] - edge[0]) - 360.0) < 0.1 * abs(edge[1] - edge[0]):  # real32 adds up
            edge[-1] = edge[0] + np.copysign(360.0, edge[-1] - edge[0])
        edges = np.sort(_between(edge), axis=1)
    _refuse_empty(file, name, edges)
    return edges


def gaussian(lat: Float) -> bool:
    """Whether latitudes, in either order, are those of a global Gaussian grid."""
    n = lat.size
    if n < 2:
        return False
    order = np.arange(n)
    nearly = np.degrees(np.pi / 2 - (4 * order + 3) * np.pi / (4 * n + 2))[::-1]
    ascending = lat if lat[-1] > lat[0] else lat[::-1]
    if np.abs(ascending - nearly).max() > 0.1 * 180.0 / n:  # what the exact roots of a large grid need not be found for
        return False
    roots = np.degrees(np.arcsin(np.polynomial.legendre.leggauss(n)[0]))
    return bool(np.abs(ascending - roots).max() <= _GAUSSIAN * 180.0 / n)


def _gaussian_edges(n: int) -> Float:
    """Parallels (n + 1,), from the south, between which the sphere's bands are as the quadrature weights."""
    weight = np.polynomial.legendre.leggauss(n)[1]
    south = np.concatenate([[0.0], np.cumsum(weight)])
    sine = 0.5 * ((south - 1.0) + (1.0 - np.concatenate([[0.0], np.cumsum(weight[::-1])])[::-1]))
    edges = np.degrees(np.arcsin(np.clip(sine, -1.0, 1.0)))
    edges[0], edges[-1] = -90.0, 90.0
    return edges


def _with_corners(file: NcReader, lat: str, lon: str) -> Cells:
    """Curvilinear and unstructured cells: bounds (..., nv) of both variables."""
    shape = file.shape(lat)
    names = []
    for name in (lon, lat):
        bounds = _bounds_of(file, name)
        if not bounds:
            raise file.error(
                f"{name!r} on {file.dims(name)} has no bounds: cells that are no latitude-longitude rectangles need "
                "their corners, in a variable that the attribute bounds names"
            )
        if file.shape(bounds)[:-1] != shape or file.shape(bounds)[-1] < 3:
            expected = ", ".join(map(str, shape))
            raise file.error(f"{bounds!r} needs shape ({expected}, corners >= 3), got {file.shape(bounds)}")
        names.append(bounds)
    corner_lon, corner_lat = meshfiles.corners(file, names[0], names[1], "degrees", (lon,), (lat,))
    nv = corner_lon.shape[-1]
    return Cells(corner_lon.reshape(-1, nv), corner_lat.reshape(-1, nv), shape, ", ".join(names))


def _axes(file: NcReader, variable: str) -> tuple[str, str]:
    if variable:
        file.need(variable, "it was asked for by name")
    found = next(_pairs(file, variable), None)
    if found is None:
        on = f" on the dimensions {file.dims(variable)} of {variable!r}" if variable else ""
        raise file.error(
            f"no latitude and longitude{on}; a grid in SCRIP, ESMF mesh, UGRID, ICON, MPAS, GEOS, OASIS or CF form "
            f"is expected; the file has {', '.join(file.names) or 'no variables'}"
        )
    return found


def _pairs(file: NcReader, variable: str) -> Iterator[tuple[str, str]]:
    """Latitudes and longitudes that belong together, the likeliest first."""
    lats = _candidates(file, variable, "latitude", ("degrees_north", "degree_north", "degreesN"), LAT_NAMES)
    lons = _candidates(file, variable, "longitude", ("degrees_east", "degree_east", "degreesE"), LON_NAMES)
    for lat in lats:
        for lon in lons:
            along = file.dims(lat), file.dims(lon)
            if along[0] == along[1] or (len(along[0]) == len(along[1]) == 1):
                yield lat, lon


def _candidates(
    file: NcReader, variable: str, standard_name: str, units: tuple[str, ...], known: tuple[str, ...]
) -> list[str]:
    edges = {file.text(v, "bounds") for v in file.names}
    named = file.text(variable, "coordinates").split() if variable else []
    fits = [
        v for v in file.names
        if v not in edges and file.dims(v)
        and (file.text(v, "standard_name") == standard_name or file.text(v, "units") in units or v.lower() in known)
        and (not variable or set(file.dims(v)) <= set(file.dims(variable)))
    ]  # fmt: skip
    return sorted(
        fits, key=lambda v: (v not in named, v.lower() not in known, not (file.text(v, "bounds") or _by_habit(file, v)))
    )


def _longitude_first(file: NcReader, lat: str, lon: str, variable: str) -> bool:
    """Whether fields on these two dimensions, `variable` among them, have the longitude before the latitude."""
    for name in [variable] if variable else file.names:
        dims = file.dims(name)
        if lat in dims and lon in dims:
            return dims.index(lon) < dims.index(lat)
    return False


def _bounds_of(file: NcReader, name: str) -> str:
    """The variable with the edges of the cells, empty where there is none; an error where the one named is missing."""
    named = file.text(name, "bounds")
    if named:
        return file.need(named, f"{name!r} names it as its bounds")
    return _by_habit(file, name)


def _by_habit(file: NcReader, name: str) -> str:
    tried = (f"{name}_bnds", f"{name}_bounds", f"{name}_vertices", f"bounds_{name}")
    return next((v for v in tried if v in file), "")


def _degrees(file: NcReader, name: str) -> Float:
    values = file.numbers(name)
    return np.degrees(values) if file.text(name, "units").lower().startswith("rad") else values


def _axis(file: NcReader, name: str) -> Float:
    values = _degrees(file, name)
    step = np.diff(np.unwrap(values, period=360.0))
    if not np.isfinite(values).all() or not ((step > 0).all() or (step < 0).all()):
        raise file.error(f"{name!r} must rise or fall throughout, without missing values; got {values[:5].tolist()}...")
    return values


def _two(file: NcReader, bounds: str, name: str) -> Float:
    """Bounds (n, 2) of an axis."""
    n = file.shape(name)[0]
    if file.shape(bounds) != (n, 2):
        raise file.error(f"{bounds!r} needs shape ({n}, 2), two edges a value of {name!r}, got {file.shape(bounds)}")
    values = file.numbers(bounds)
    units = file.text(bounds, "units") or file.text(name, "units")
    return np.degrees(values) if units.lower().startswith("rad") else values


def _midpoints(file: NcReader, name: str, centre: Float) -> Float:
    """Edges (n + 1,) midway between centres (n,), and as far beyond the first and the last."""
    if centre.size < 2:
        raise file.error(f"{name!r} has a single value and no bounds: give its cell's edges in a variable of bounds")
    middle = 0.5 * (centre[1:] + centre[:-1])
    return np.concatenate([[1.5 * centre[0] - 0.5 * centre[1]], middle, [1.5 * centre[-1] - 0.5 * centre[-2]]])


def _between(edge: Float) -> Float:
    return np.stack([edge[:-1], edge[1:]], axis=1)


def _nearest_turn(angle: Float) -> Float:
    return np.mod(angle + 180.0, 360.0) - 180.0


def _refuse_empty(file: NcReader, name: str, edges: Float) -> None:
    bad = np.flatnonzero(~(edges[:, 1] > edges[:, 0]))
    if bad.size:
        pair = edges[bad[0]].tolist()
        raise file.error(f"value {bad[0] + 1} of {name!r} has the edges {pair}: its cells have no area")
