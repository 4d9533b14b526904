"""Grids by name: a file in one of the formats models and their tools write, or `latlon:STEP`.

The format follows from what stands in the file, never from its name. Cells are numbered from 1 in the order of the
file, last dimension fastest. `FILE:NAME` picks one of several grids: OASIS grids, UGRID meshes, or the grid of a
data variable.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler import cfgrid, meshfiles
from ai4land_coupler.errors import GridError
from ai4land_coupler.grids import HostGrid, RegularGrid
from ai4land_coupler.meshfiles import Cells
from ai4land_coupler.ncread import NcReader, opened

LAND_NAMES = ("land_fraction", "sftlf", "landfrac", "LANDFRAC")
"""Variables that hold the land fraction of the cells."""


WHOLE = slice(None)


@dataclass(frozen=True, eq=False)
class NamedGrid:
    """A grid, or the band of it that was asked for. shape: its cell dimensions in the file; ids count all cells from 1.

    land_from names the variable that land_fraction comes from, empty where it is 1 everywhere for want of one. A land
    fraction goes before a mask; a mask counts as land where the file says that a cell takes part (SCRIP grid_imask,
    ESMF elementMask, MPAS landmask: not 0; OASIS: 0; ICON cell_sea_land_mask: above 0).
    """

    name: str
    grid: HostGrid
    shape: tuple[int, ...]
    land_from: str = ""


def read_grid(spec: str, band: slice = WHOLE) -> NamedGrid:
    """The grid of a file, or the global regular grid `latlon:STEP` (degrees) or `latlon:ROWSxCOLUMNS`.

    Files: SCRIP, ESMF mesh, UGRID, ICON, MPAS, GEOS cubed sphere, OASIS (`FILE:NAME`), CF (rectilinear, with bounds or
    without; curvilinear or unstructured, with bounds). band: flat positions of the cells wanted. Raises GridError
    naming file, variable, cell and what it needs.
    """
    if spec.startswith("latlon:"):
        return regular(_parse_latlon(spec), spec, band)
    path, name = Path(spec), ""
    if not path.exists() and ":" in spec:
        stem, name = spec.rsplit(":", 1)
        path = Path(stem)
    return grid_of_file(path, name, band)


def grid_of_file(path: Path, name: str = "", band: slice = WHOLE) -> NamedGrid:
    """The grid of a file; `name` picks an OASIS grid, a UGRID mesh or the grid of a data variable."""
    with opened(path, GridError) as file:
        cells = _reader_of(file, name)(file, name)
        land, land_from = _land(file, cells)
    try:
        grid = _hosts(cells, land, band)
    except GridError as error:
        what = str(error).removeprefix("host ")
        raise GridError(f"{path}: {what}; corners are read from {cells.corners}") from error
    return NamedGrid(f"{path.name}:{name}" if name else path.name, grid, cells.shape, land_from)


def regular(grid: RegularGrid, name: str, band: slice = WHOLE) -> NamedGrid:
    """A global regular grid as cells: west to east from 180 W, then south to north from 90 S."""
    lon, lat = cfgrid.rectangles(
        np.stack([grid.lat_edges[:-1], grid.lat_edges[1:]], 1), np.stack([grid.lon_edges[:-1], grid.lon_edges[1:]], 1)
    )
    cells = Cells(lon, lat, (grid.nlat, grid.nlon), "")
    return NamedGrid(name, _hosts(cells, np.broadcast_to(1.0, grid.size), band), cells.shape)


def _hosts(cells: Cells, land: NDArray[np.float64], band: slice) -> HostGrid:
    return HostGrid(np.arange(*band.indices(cells.size)) + 1, *cells.part(band), land[band])


def _parse_latlon(spec: str) -> RegularGrid:
    text = spec.removeprefix("latlon:")
    try:
        if "x" in text:
            rows, columns = (int(part) for part in text.split("x"))
            return RegularGrid(rows, columns)
        step = float(text)
        rows = round(180.0 / step) if 1e-3 < step <= 180 else 0
    except ValueError as error:
        raise GridError(f"grid {spec!r}: expected latlon:STEP in degrees or latlon:ROWSxCOLUMNS") from error
    if rows < 1 or not math.isclose(rows * step, 180.0, rel_tol=1e-9):
        raise GridError(f"grid {spec!r}: a step of {text} degrees does not divide 180 degrees into whole rows")
    return RegularGrid(rows, 2 * rows)


def _reader_of(file: NcReader, name: str) -> Callable[[NcReader, str], Cells]:
    """The function that reads the format this file is in; CF where nothing says otherwise."""
    if any(v.endswith(".clo") for v in file.names) and name not in file:
        return meshfiles.oasis
    if meshfiles.ugrid_meshes(file):
        return meshfiles.ugrid
    for signature, reader in (
        (("grid_corner_lon", "grid_corner_lat"), meshfiles.scrip),
        (("elementConn", "nodeCoords"), meshfiles.esmf_mesh),
        (("verticesOnCell", "latVertex"), meshfiles.mpas),
        (("clon_vertices", "vertex_of_cell"), meshfiles.icon),
        (("corner_lons", "corner_lats"), meshfiles.geos),
    ):
        if any(variable in file for variable in signature):
            return reader
    return cfgrid.read


def _land(file: NcReader, cells: Cells) -> tuple[NDArray[np.float64], str]:
    """Land fraction of the cells, flat, and the variable it comes from."""
    n = cells.size
    for name in LAND_NAMES:
        if name in file and file.shape(name) == cells.shape:
            return as_fraction(file, name, file.numbers(name)).reshape(-1), name
    if cells.active is None:
        return np.broadcast_to(1.0, n), ""
    name, active = cells.active
    if active.size != n:
        raise file.error(f"mask {name!r} has {active.size} values for {n} cells")
    return active.reshape(-1).astype(np.float64), name


def as_fraction(file: NcReader, name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A land fraction as 0..1 where the variable is in percent too; 0 where missing."""
    percent = file.text(name, "units") in ("%", "percent")
    return np.clip(np.nan_to_num(values / (100.0 if percent else 1.0)), 0.0, 1.0)
