"""States of land use from a netCDF file, on the cells of any grid; each rank reads its own band of cells."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler import cfgrid, timeaxis
from ai4land_coupler.errors import BadInputError, GridError
from ai4land_coupler.gridfile import LAND_NAMES, NamedGrid, as_fraction, grid_of_file, read_grid
from ai4land_coupler.grids import HostGrid
from ai4land_coupler.ncread import NcReader, opened
from ai4land_coupler.regrid.polygons import angle

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CoarseStates:
    """One rank's band of the cells of a file of states; cells follow the file, last dimension fastest, from 1.

    shape: the cell dimensions in the file; band: the flat positions of this rank's cells; grid: those cells.
    """

    path: Path
    names: tuple[str, ...]
    years: tuple[int, ...]
    shape: tuple[int, ...]
    band: slice
    grid: HostGrid

    @classmethod
    def open(
        cls,
        path: Path,
        names: Sequence[str],
        fraction_of: str,
        grid: str | None = None,
        rank: int = 0,
        size: int = 1,
        optional: Sequence[str] = (),
    ) -> "CoarseStates":
        """Read years, cells and land fraction; the cells from `grid` (see read_grid) or else from the file itself.

        optional: those of the names that the file may lack.
        Raises BadInputError for what a state file must have and this lacks, GridError for cells without corners.
        """
        with opened(path, BadInputError) as file:
            names = [name for name in names if name in file or name not in optional]
            shape = _cell_shape(file, names)
            years = timeaxis.years(file)
            n = math.prod(shape)
            band = slice(n * rank // size, n * (rank + 1) // size)
            named = _geometry(file, names[0], shape, grid, band)
            cells = named.grid
            if grid is not None:
                _refuse_other_centres(file, names[0], cells, band, named.name)
            given = cells.land_fraction if named.land_from in LAND_NAMES and fraction_of == "land" else None
            land = _land(file, names, fraction_of, shape, band, given)
        cells = HostGrid(cells.cell_id, cells.vertex_lon, cells.vertex_lat, land)
        return cls(path, tuple(names), years, shape, band, cells)

    def read(self, year: int) -> dict[str, Float]:
        """State of a year, {class: (n,)}; 0 where there is no land."""
        at, land = self.years.index(year), self.grid.land_fraction > 0
        with opened(self.path, BadInputError) as file:
            return {name: np.where(land, _field(file, name, at, self.shape, self.band), 0.0) for name in self.names}


def _cell_shape(file: NcReader, names: Sequence[str]) -> tuple[int, ...]:
    """The cell dimensions that all classes are on, behind their time."""
    missing = [name for name in (*names, "time") if name not in file]
    if missing:
        raise file.error(f"variables {missing} are not in the file; it has {list(file.names)}")
    dims = file.dims(names[0])
    for name in names:
        if len(dims) < 2 or file.dims(name) != dims or dims[:1] != file.dims("time"):
            raise file.error(f"expected {name!r} on (time, cells...) as every class, got {file.dims(name)}")
    return file.shape(names[0])[1:]


def _geometry(file: NcReader, name: str, shape: tuple[int, ...], grid: str | None, band: slice) -> NamedGrid:
    """The band's cells of the grid that the states are on."""
    try:
        named = read_grid(grid, band) if grid is not None else grid_of_file(file.path, name, band)
    except GridError as error:
        hint = "" if grid is not None else "; the cells' corners can also be given as another file, with --grid"
        raise GridError(f"{error}{hint}") from error
    if math.prod(named.shape) != math.prod(shape) or (len(named.shape) == len(shape) and named.shape != shape):
        raise file.error(f"the states are on {_times(shape)} cells, the grid {named.name} has {_times(named.shape)}")
    return named


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _refuse_other_centres(file: NcReader, name: str, cells: HostGrid, band: slice, grid: str) -> None:
    """Raise where the file's own latitudes and longitudes are not in the cells: another order, or another grid."""
    found = cfgrid.centres(file, name)
    if found is None or found[0].size < band.stop:
        return
    lon, lat = (part[band] for part in found)
    middle = _points(*cells.centre)
    reach = angle(middle[:, None], _points(cells.vertex_lon, cells.vertex_lat)).max(axis=1, initial=0.0)
    wide = np.ptp(cells.vertex_lon, axis=1) >= 180.0 if cells.size else np.zeros(0, dtype=np.bool_)
    off = np.flatnonzero((angle(middle, _points(lon, lat)) > reach + 1e-9) & ~wide)
    if off.size:
        i, (east, north) = off[0], cells.centre
        raise file.error(
            f"cell {int(cells.cell_id[i])} lies at {lon[i]:.4f} E {lat[i]:.4f} N, the grid {grid} has it around "
            f"{east[i]:.4f} E {north[i]:.4f} N ({off.size} such cells): these are other cells, or in another order"
        )


def _points(lon: Float, lat: Float) -> Float:
    lon, lat = np.radians(lon), np.radians(lat)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def _field(file: NcReader, name: str, at: int, shape: tuple[int, ...], band: slice) -> Float:
    """The band's cells of a variable on (time, cells...) or (cells...), flat."""
    row = math.prod(shape[1:])
    rows = slice(band.start // row, -(-band.stop // row))
    values = file.numbers(name, (at, rows) if len(file.shape(name)) > len(shape) else rows)
    return values.reshape(-1)[band.start - rows.start * row : band.stop - rows.start * row]


def _refuse_partly_missing(file: NcReader, names: Sequence[str], values: Float, band: slice) -> None:
    """Raise where some classes (K, n) of a cell are missing and others are not: it is neither sea nor a state."""
    missing = ~np.isfinite(values)
    some = np.flatnonzero(missing.any(axis=0) & ~missing.all(axis=0))
    if some.size:
        names = [name for name, gone in zip(names, missing[:, some[0]], strict=True) if gone]
        raise file.error(
            f"cell {band.start + int(some[0]) + 1} lacks {', '.join(names)} and has the other classes ({some.size} "
            "such cells): give all classes of a cell, or none where it is sea"
        )


def _land(
    file: NcReader, names: Sequence[str], fraction_of: str, shape: tuple[int, ...], band: slice, given: Float | None
) -> Float:
    """The file's land fraction; without one, what the classes sum to (`cell`), or where they are given (`land`) 1.

    given: land fraction (n,) of the grid, which then stands in place of 1.
    """
    for name in LAND_NAMES:
        if name in file and file.shape(name)[-len(shape) :] == shape:
            return as_fraction(file, name, _field(file, name, 0, shape, band))
    first = np.stack([_field(file, name, 0, shape, band) for name in names])
    known = np.isfinite(first).all(axis=0)
    _refuse_partly_missing(file, names, first, band)
    total = np.where(known, np.nan_to_num(first).sum(axis=0), 0.0)
    if fraction_of == "cell":
        return np.clip(total, 0.0, 1.0)
    return np.where(known & (total > 0.5), 1.0 if given is None else given, 0.0)
