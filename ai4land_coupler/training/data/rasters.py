"""Maps in files, netCDF or GeoTIFF, put on the fine cells of a store: rows from the south, a band at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler import cfgrid
from ai4land_coupler.errors import BadInputError
from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.natives import Places, bilinear
from ai4land_coupler.ncread import NcReader, opened
from ai4land_coupler.timeaxis import years

Float = NDArray[np.float64]

AT_ONCE = 2**25
"""Cells of a file that are read at once."""
OFF = 1e-3
"""How far a centre may be from where it should be, in cells: files round."""


class Raster(Protocol):
    """A map on a regular latitude-longitude grid, its rows from the south, whatever their order in the file."""

    @property
    def name(self) -> str:
        """What errors call it."""
        ...

    @property
    def lat(self) -> Float:
        """Latitude of the rows (nlat,), ascending, degrees."""
        ...

    @property
    def lon(self) -> Float:
        """Longitude of the columns (nlon,), ascending, degrees of any turn."""
        ...

    def codes(self, rows: slice, cols: slice) -> NDArray[Any]:
        """Whole numbers (nrow, ncol), uint8 or a signed type; -1 where missing."""
        ...

    def numbers(self, rows: slice, cols: slice) -> Float:
        """Values (nrow, ncol) float64, NaN where missing."""
        ...


@dataclass(frozen=True)
class NetCdf:
    """A variable of a netCDF file, of one year where it has a time."""

    path: Path
    variable: str
    year: int | None = None

    @property
    def name(self) -> str:
        """File and variable, and the year."""
        return f"{self.path}: {self.variable}" + ("" if self.year is None else f" of {self.year}")

    @cached_property
    def _axes(self) -> tuple[Float, Float, bool]:
        """Latitudes from the south, longitudes, and whether the file's rows come from the north."""
        with opened(self.path, BadInputError) as file:
            dims = file.dims(file.need(self.variable, "it is asked for"))
            axes = [_axis(file, name, names) for name, names in zip(dims[-2:], NAMES, strict=True)]
            lat, lon = axes
            if not (np.diff(lon) > 0).all():
                lon = np.unwrap(lon, period=360.0)
            down = bool(lat[0] > lat[-1])
            lat = lat[::-1] if down else lat
            if not ((np.diff(lat) > 0).all() and (np.diff(lon) > 0).all()):
                raise file.error(f"{self.variable!r}: latitudes must go one way, and longitudes east")
            return lat, lon, down

    def _at(self, file: NcReader) -> int | None:
        """Where the year is along the time."""
        dims = file.dims(self.variable)
        if len(dims) == 2:
            return None
        if len(dims) != 3:
            raise file.error(f"{self.variable!r} is on {dims}, expected (time, latitude, longitude) or without time")
        if self.year is None:
            if file.shape(self.variable)[0] == 1:
                return 0
            raise file.error(f"{self.variable!r} has several times {dims}, one map is expected")
        known = years(file, dims[0])
        if self.year not in known:
            raise file.error(f"{self.variable!r} has no year {self.year}; it has {min(known)} to {max(known)}")
        return known.index(self.year)

    @property
    def lat(self) -> Float:
        """Latitude of the rows, from the south."""
        return self._axes[0]

    @property
    def lon(self) -> Float:
        """Longitude of the columns."""
        return self._axes[1]

    def codes(self, rows: slice, cols: slice) -> NDArray[Any]:
        """See Raster."""
        return self._read(rows, cols, NcReader.codes)

    def numbers(self, rows: slice, cols: slice) -> Float:
        """See Raster."""
        return self._read(rows, cols, NcReader.numbers)

    def _read(self, rows: slice, cols: slice, read: Any) -> NDArray[Any]:
        with opened(self.path, BadInputError) as file:
            return self.part(file, self.variable, self._at(file), rows, cols, read)

    def part(self, file: NcReader, variable: str, at: int | None, rows: slice, cols: slice, read: Any) -> NDArray[Any]:
        """Rows from the south of any variable that is on the same cells, at a place along the time, by an NcReader's
        method."""
        lat, _, down = self._axes
        there = slice(lat.size - rows.stop, lat.size - rows.start) if down else rows
        values = read(file, variable, (there, cols) if at is None else (at, there, cols))
        return values[::-1] if down else values


NAMES = (cfgrid.LAT_NAMES, cfgrid.LON_NAMES)


def _axis(file: NcReader, dim: str, names: tuple[str, ...]) -> Float:
    """Centres of the cells along a dimension, whose variable is called as it is."""
    if dim not in file or dim.lower() not in names:
        raise file.error(
            f"dimension {dim!r}: expected one of {', '.join(names)} with a variable of that name; a map on "
            "(latitude, longitude) is wanted, time before them"
        )
    values = file.numbers(dim)
    if values.size < 2 or not np.isfinite(values).all():
        raise file.error(f"{dim!r} needs two values and more, none missing")
    return values


def raster(path: Path, variable: str | None, year: int | None = None) -> Raster:
    """A file as a map: GeoTIFF by its name, else netCDF, whose variable must then be named."""
    if not path.is_file():
        raise BadInputError(f"{path} is not there")
    if path.suffix.lower() in (".tif", ".tiff"):
        from ai4land_coupler.training.data.geotiff import GeoTiff

        return GeoTiff.open(path)
    if variable is None:
        raise BadInputError(f"{path} is netCDF: name the variable, as `variable: NAME`")
    return NetCdf(path, variable, year)


@dataclass(frozen=True, eq=False)
class Along:
    """Fine cells along an axis of a map.

    index (n,): the first of the map's cells that a fine cell takes, or the nearest one, -1 where the map has none.
    factor: how many it takes: 1, or more where the map's finer cells nest. nested: whether edges meet.
    """

    index: NDArray[np.int64]
    factor: int
    nested: bool

    @classmethod
    def of(cls, target: Float, step: float, source: Float, period: float | None = None) -> Along:
        """target (n,): centres of fine cells `step` degrees wide; source (m,): the map's, ascending and evenly."""
        width = (source[-1] - source[0]) / (source.size - 1)
        if np.abs(np.diff(source) - width).max() > 0.01 * width:
            raise BadInputError("the map's cells are not evenly spaced")
        factor = max(1, round(step / width))
        where = target - step / 2 - (source[0] - width / 2)
        if period is not None:
            where = np.mod(where + OFF * width, period) - OFF * width
        place = where / width
        drift = abs(step / width - factor) * source.size / factor
        nested = bool(drift < 0.02 and np.abs(place - np.round(place)).max(initial=0) < 0.02)
        if not nested:
            factor, place = 1, (where + step / 2) / width - 0.5
        index = np.round(place).astype(np.int64)
        return cls(np.where((index >= 0) & (index + factor <= source.size), index, -1), factor, nested)


@dataclass(frozen=True, eq=False)
class Classes:
    """A map of classes on the fine cells of a window: rows (n,) and columns (m,) of a global grid."""

    raster: Raster
    rows: Along
    cols: Along

    @classmethod
    def of(
        cls,
        source: Raster,
        fine: RegularGrid,
        rows: NDArray[np.int64],
        cols: NDArray[np.int64],
        coarser: bool = False,
    ) -> Classes:
        """Find the fine cells in the map. BadInputError where it has none of them, or is coarser and must not be."""
        along = _along(source, fine, rows, cols)
        factors = {part.factor for part in along}
        if len(factors) > 1 or not (along[0].index >= 0).any() or not (along[1].index >= 0).any():
            raise BadInputError(f"{source.name}: none of the fine cells, or other numbers of cells north and east")
        width = (source.lat[-1] - source.lat[0]) / (source.lat.size - 1)
        if not coarser and width > 1.05 * 180.0 / fine.nlat:
            raise BadInputError(
                f"{source.name}: its cells of {width:.8g} degrees are larger than the fine cells of "
                f"{180.0 / fine.nlat:.8g}; take a coarser fine grid"
            )
        return cls(source, *along)

    @property
    def how(self) -> str:
        """What is done to bring the map to the fine cells, for the log."""
        step = [(axis[-1] - axis[0]) / (axis.size - 1) for axis in (self.raster.lat, self.raster.lon)]
        if not (self.rows.nested and self.cols.nested):
            return f"its cells of {step[0]:.8g} x {step[1]:.8g} degrees do not nest: the nearest centre is taken"
        k = self.rows.factor
        return f"{k} x {k} cells make a fine cell: the commonest class is taken" if k > 1 else "taken as it is"

    def bands(self, start: int, stop: int) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Codes (nrow, ncol, factor^2) of rows start..stop of the window, as many rows at once as AT_ONCE allows."""
        k, cols = self.rows.factor, self.cols.index
        known = cols[cols >= 0]
        window = slice(int(known.min()), int(known.max()) + k)
        many = max(1, AT_ONCE // (k * k * max(cols.size, (window.stop - window.start) // k)))
        for first in range(start, stop, many):
            part = slice(first, min(first + many, stop))
            yield part, self._codes(self.rows.index[part], window)

    def _codes(self, rows: NDArray[np.int64], window: slice) -> NDArray[Any]:
        k, known = self.rows.factor, rows >= 0
        if not known.any():
            return np.full((rows.size, self.cols.index.size, k * k), -1, np.int16)
        span = slice(int(rows[known].min()), int(rows[known].max()) + k)
        read = self.raster.codes(span, window)
        missing = self.cols.index < 0
        if missing.any() or not known.all():
            read = read if read.dtype.kind == "i" else read.astype(np.int32)
        inside = np.where(known, rows - span.start, 0)
        at = np.where(missing, 0, self.cols.index - window.start)
        shape = rows.size, at.size, k * k
        if k == 1 and _runs_on(inside) and _runs_on(at):
            out = read[inside[0] : inside[-1] + 1, at[0] : at[-1] + 1].reshape(shape)
        else:
            out = np.stack([read[(inside + i)[:, None], at + j] for i in range(k) for j in range(k)], axis=-1)
        if missing.any():
            out[:, missing] = -1
        if not known.all():
            out[~known] = -1
        return out


def _runs_on(index: NDArray[np.int64]) -> bool:
    return bool((np.diff(index) == 1).all())


def _along(source: Raster, fine: RegularGrid, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> tuple[Along, Along]:
    try:
        return (
            Along.of(fine.lat[rows], 180.0 / fine.nlat, source.lat),
            Along.of(fine.lon[cols], 360.0 / fine.nlon, source.lon, 360.0),
        )
    except BadInputError as error:
        raise BadInputError(f"{source.name}: {error}") from error


def commonest(classes: NDArray[np.uint8], over_none: bool = False) -> NDArray[np.uint8]:
    """The commonest class of (..., n), the lowest of several; over_none: 0 only where nothing else is."""
    if classes.shape[-1] == 1:
        return classes[..., 0]
    best = np.zeros(classes.shape[:-1], np.uint8)
    most = np.zeros(classes.shape[:-1], np.int32)
    for klass in range(1, int(classes.max(initial=0)) + 1):
        count = (classes == klass).sum(axis=-1, dtype=np.int32)
        more = count > most
        best[more], most[more] = klass, count[more]
    if not over_none:
        best[(classes == 0).sum(axis=-1, dtype=np.int32) > most] = 0
    return best


@dataclass(frozen=True, eq=False)
class Values:
    """A map of numbers on the fine cells of a window: the mean of finer nested cells, else bilinear."""

    raster: Raster
    rows: Along
    cols: Along
    y: Places
    x: Float
    missing: float | None

    @classmethod
    def of(
        cls,
        source: Raster,
        fine: RegularGrid,
        rows: NDArray[np.int64],
        cols: NDArray[np.int64],
        missing: float | None = None,
    ) -> Values:
        """missing: what a cell without value counts as; an error where None and there is one."""
        along = _along(source, fine, rows, cols)
        lat, lon = source.lat, source.lon
        step = (lat[-1] - lat[0]) / (lat.size - 1), (lon[-1] - lon[0]) / (lon.size - 1)
        y = np.clip((fine.lat[rows] - lat[0]) / step[0], 0.0, lat.size - 1.0)
        x = np.mod(fine.lon[cols] - lon[0] + step[1], 360.0) / step[1] - 1.0
        return cls(source, *along, Places.of(y), x, missing)

    def band(self, rows: slice) -> NDArray[np.float32]:
        """Values (nrow, ncol) of some rows of the window."""
        nested = self.rows.nested and self.cols.nested and self.rows.factor == self.cols.factor
        if nested and (self.rows.index >= 0).all() and (self.cols.index >= 0).all():
            return self._means(self.rows.index[rows])
        return self._between(rows)

    def _means(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        k, cols = self.rows.factor, self.cols.index
        many = max(1, AT_ONCE // (8 * k * self.raster.lon.size))
        parts = []
        for first in range(0, rows.size, many):
            part = rows[first : first + many]
            block = self._read(slice(int(part[0]), int(part[-1]) + k), slice(int(cols.min()), int(cols.max()) + k))
            at = cols - cols.min()
            total = np.zeros((part.size, cols.size))
            for i in range(k):
                for j in range(k):
                    total += block[(part - part[0] + i)[:, None], at + j]
            parts.append((total / (k * k)).astype(np.float32))
        return np.concatenate(parts)

    def _between(self, rows: slice) -> NDArray[np.float32]:
        lat, lon = self.raster.lat, self.raster.lon
        y = Places(self.y.index[rows], self.y.weight[rows])
        north = min(y.stop, lat.size)
        block = self._read(slice(y.start, north), slice(0, lon.size)).astype(np.float32)
        if y.stop > north:
            block = np.concatenate([block, block[-1:]])
        around = abs((lon[-1] - lon[0]) / (lon.size - 1) * lon.size - 360.0) < 0.01
        if around:
            block = np.concatenate([block[:, -1:], block, block[:, :1]], axis=1)
            x = self.x
        else:
            block = np.concatenate([block[:, :1], block, block[:, -1:]], axis=1)
            x = np.clip(self.x, 0.0, lon.size - 1.0)
        whole = np.floor(x)
        at, weight = whole.astype(np.int64) + 1, (x - whole).astype(np.float32)
        order = Places(np.arange(block.shape[1] - 1), np.zeros(block.shape[1] - 1, np.float32))
        column = bilinear(block, y, order)
        column = np.concatenate([column, column[:, -1:]], axis=1)
        return column[:, at] + (column[:, at + 1] - column[:, at]) * weight

    def _read(self, rows: slice, cols: slice) -> Float:
        values = self.raster.numbers(rows, cols)
        bad = ~np.isfinite(values)
        if bad.any() and self.missing is None:
            i, j = (int(part[0]) for part in np.nonzero(bad))
            raise BadInputError(
                f"{self.raster.name}: no value at {self.raster.lat[rows][i]:.4f} N {self.raster.lon[cols][j]:.4f} E "
                f"({int(bad.sum())} such cells of those read); say what they count as, as `missing: 0`"
            )
        values[bad] = self.missing
        return values
