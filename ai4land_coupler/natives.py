"""Static fields as an emulator stores them: packed grids, sparse lines and points, and fine windows of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler import kernel
from ai4land_coupler.damage import refuse_damaged
from ai4land_coupler.errors import EmulatorError
from ai4land_coupler.grids import RegularGrid

Field = NDArray[np.float32]
Packed = NDArray[np.int16] | NDArray[np.uint8]


@dataclass(frozen=True)
class Window:
    """Rows [row0, row0 + nrow) and columns [col0, col0 + ncol) of the fine grid, rows within the poles."""

    fine: RegularGrid
    row0: int
    col0: int
    nrow: int
    ncol: int

    @property
    def rows(self) -> NDArray[np.int64]:
        """Fine rows."""
        return np.arange(self.row0, self.row0 + self.nrow)

    @property
    def cols(self) -> NDArray[np.int64]:
        """Fine columns, wrapped."""
        return np.arange(self.col0, self.col0 + self.ncol) % self.fine.nlon

    def of(self, whole: NDArray) -> NDArray:
        """What a field on the fine grid (nlat, nlon) has there, (nrow, ncol); where nothing wraps, a view."""
        rows, first = whole[self.row0 : self.row0 + self.nrow], self.col0 % self.fine.nlon
        return rows[:, first : first + self.ncol] if first + self.ncol <= self.fine.nlon else rows[:, self.cols]


def _positions(centres: NDArray[np.float64], axis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where the centres lie on a regular axis, in units of its spacing from its first point."""
    return (centres - axis[0]) / ((axis[-1] - axis[0]) / (axis.size - 1))


@dataclass(frozen=True)
class Places:
    """Native index at or before each fine row or column, and the weight of the next one."""

    index: NDArray[np.int64]
    weight: Field

    @classmethod
    def of(cls, position: NDArray[np.float64], shift: NDArray[np.int64] | int = 0) -> Places:
        """Split fractional native positions; whole turns are added as integers, so weights do not see them."""
        whole = np.floor(position)
        return cls(whole.astype(np.int64) + shift, (position - whole).astype(np.float32))

    @property
    def start(self) -> int:
        """First native index needed."""
        return int(self.index[0])

    @property
    def stop(self) -> int:
        """One past the last native index needed."""
        return int(self.index[-1]) + 2


@dataclass(frozen=True)
class Native:
    """A packed static field on a regular global axis pair, south to north, columns that wrap."""

    packed: Packed  # (nlat, nlon)
    scale: float
    offset: float
    lat: NDArray[np.float64]
    lon: NDArray[np.float64]

    def __post_init__(self) -> None:
        fits = self.packed.shape == (self.lat.size, self.lon.size) and min(self.packed.shape) >= 2
        if not fits or not (np.diff(self.lat) > 0).all() or not np.isfinite(self.lon).all():
            raise EmulatorError(f"static field {self.packed.shape} does not fit its axes, south to north")
        if not (np.isfinite(self.lat).all() and math.isfinite(self.scale) and math.isfinite(self.offset)):
            raise EmulatorError("static field whose axes or packing are not finite")

    def place(self, window: Window) -> tuple[Places, Places]:
        """Return where the fine rows and columns of a window lie among the native ones."""
        y = np.clip(_positions(window.fine.lat[window.rows], self.lat), 0, self.lat.size - 1)
        x = (window.fine.lon[window.cols] - self.lon[0]) / (360.0 / self.lon.size)
        turns = np.arange(window.col0, window.col0 + window.ncol) // window.fine.nlon
        return Places.of(y), Places.of(x, turns * self.lon.size)

    def block(self, r0: int, r1: int, c0: int, c1: int) -> Packed:
        """Return packed values of native rows (edges repeated past a pole) and columns (wrapped)."""
        rows = np.clip(np.arange(r0, r1), 0, self.lat.size - 1)
        return self.packed[rows[:, None], np.arange(c0, c1) % self.lon.size]

    def narrow(self) -> Native:
        """The same field in bytes where its packed values fit."""
        return replace(self, packed=_narrow(self.packed))

    def unpack(self, packed: NDArray) -> Field:
        """Return physical values, float32."""
        return (packed * self.scale + self.offset).astype(np.float32)


def bilinear(values: Field, y: Places, x: Places) -> Field:
    """Interpolate a native block (y.stop - y.start, x.stop - x.start) to the fine cells; (nrow, ncol)."""
    i, j = y.index - y.start, x.index - x.start
    if kernel.ready():
        return kernel.bilinear(np.ascontiguousarray(values), i, y.weight, j, x.weight)
    south, north = values[i], values[i + 1]
    rows = south + (north - south) * y.weight[:, None]
    west, east = rows[:, j], rows[:, j + 1]
    return west + (east - west) * x.weight[None, :]


def box_sums(values: NDArray[np.int64], *radii: int) -> list[NDArray[np.int64]]:
    """Return sums over squares of 2 r + 1 cells for each radius r, around the cells max(radii) inside the edge.

    Exact integers.
    """
    total = np.zeros((values.shape[0] + 1, values.shape[1] + 1), np.int64)
    np.cumsum(values.cumsum(0), axis=1, out=total[1:, 1:])
    rim = max(radii)
    height, width = (length - 2 * rim for length in values.shape)

    def corner(down: int, across: int) -> NDArray[np.int64]:
        return total[rim + down : rim + down + height, rim + across : rim + across + width]

    return [corner(r + 1, r + 1) - corner(-r, r + 1) - corner(r + 1, -r) + corner(-r, -r) for r in radii]


@dataclass(frozen=True)
class Lines:
    """A field that is zero almost everywhere (rivers, shores, places) on the fine grid, stored as its other cells."""

    cell: NDArray[np.int32]  # ascending row * nlon + col
    value: Packed
    scale: float

    @classmethod
    def of(cls, native: Native) -> Lines:
        """Keep the cells of a native field that are not zero."""
        flat = native.packed.ravel()
        cell = np.flatnonzero(flat != 0)
        return cls(cell.astype(np.int32), _narrow(flat[cell]), native.scale)

    def check(self, name: str, size: int, offset: float) -> None:
        """Raise EmulatorError where these are no cells of a grid of so many, ascending, that 0 is packed as 0 on."""
        ends = np.concatenate([[-1], self.cell, [size]]).astype(np.int64)
        if self.value.shape != self.cell.shape or not (np.diff(ends) > 0).all() or offset != 0 or not self.scale > 0:
            raise EmulatorError(
                f"static field {name}: a value for each of its cells, which ascend within 0 to {size - 1}, a scale "
                f"above 0 and no offset are expected; found {self.value.size} values, {self.cell.size} cells, scale "
                f"{self.scale}, offset {offset}"
            )

    def packed(self, window: Window, rim: int = 0) -> NDArray[np.int64]:
        """Return the stored values in the window and `rim` cells around it, 0 past the poles."""
        return self._spread(window, rim, self.value, np.int64)

    def field(self, window: Window) -> Field:
        """Return the root of the field in the window, (nrow, ncol)."""
        return self._spread(window, 0, self._roots, np.float32)

    @cached_property
    def _roots(self) -> Field:
        return np.sqrt(self.value.astype(np.int64) * self.scale).astype(np.float32)

    def _spread(self, window: Window, rim: int, of_cells: NDArray, dtype: type) -> NDArray:
        """What stands for each stored cell, in the window and `rim` cells around it, 0 elsewhere."""
        row0, col0, nlon = window.row0 - rim, window.col0 - rim, window.fine.nlon
        nrow, ncol = window.nrow + 2 * rim, window.ncol + 2 * rim
        bounds = np.clip([row0 * nlon, (row0 + nrow) * nlon], 0, window.fine.nlat * nlon)
        start, stop = np.searchsorted(self.cell, bounds.astype(np.int32))
        row, col = np.divmod(self.cell[start:stop] - row0 * nlon, nlon)
        place, width = (col - col0) % nlon, min(ncol, nlon)
        kept = place < width
        values: NDArray = np.zeros((nrow, width), dtype)
        values[row[kept], place[kept]] = of_cells[start:stop][kept]
        return values if ncol == width else values.take(np.arange(ncol) % nlon, axis=1)


def _narrow(packed: Packed) -> Packed:
    """The same values in bytes where they fit."""
    fits = packed.min(initial=0) >= 0 and packed.max(initial=0) < 256
    return packed.astype(np.uint8) if fits else packed


def read_natives(path: Path, needed: Collection[str]) -> Iterator[tuple[str, Native | Lines, tuple[int, int]]]:
    """Read the fields needed of a statics file, one after another by name, with the shape of the grid they lie on.

    Each is packed in bytes or int16, two-dimensional or gathered: a list of the cells that are not 0, as CF has it
    (section 8.2). Raises EmulatorError, at the end where some are missing.
    """
    from netCDF4 import Dataset

    missing = set(needed)
    try:
        refuse_damaged(path)
        with Dataset(path) as data:
            data.set_auto_maskandscale(False)
            for name, variable in data.variables.items():
                if name in needed:
                    scale, offset = float(variable.scale_factor), float(variable.add_offset)
                    if isinstance(variable.chunking(), list):
                        variable.set_var_chunk_cache(size=0)  # every chunk is read once
                    packed = np.asarray(variable[:])
                    packed = packed if packed.dtype == np.uint8 else packed.astype(np.int16, copy=False)
                    missing.remove(name)
                    if variable.ndim == 2:
                        lat, lon = (np.asarray(data.variables[axis][:], np.float64) for axis in variable.dimensions)
                        yield name, Native(packed, scale, offset, lat, lon), packed.shape
                    else:
                        cells = data.variables[variable.dimensions[0]]
                        nlat, nlon = (data.dimensions[axis].size for axis in cells.compress.split())
                        lines = Lines(np.asarray(cells[:], np.int32), packed, scale)
                        lines.check(name, nlat * nlon, offset)
                        yield name, lines, (nlat, nlon)
    except (OSError, RuntimeError, LookupError, AttributeError, ValueError, TypeError, MemoryError) as error:
        raise EmulatorError(f"{path} cannot be read: {error}") from error
    if missing:
        raise EmulatorError(f"{path.name}: static fields {sorted(missing)} are missing")
