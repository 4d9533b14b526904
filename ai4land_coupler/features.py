"""Network inputs: static fields from natives to fine windows, and coarse fractions spread over fine cells.

Training and inference share this code. Every value depends on its global position alone, never on the window
it is asked in: box sums are exact integers, and only correctly rounded operations (+ - * / sqrt) are used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import EmulatorError
from ai4land_coupler.grids import EARTH_RADIUS, RegularGrid
from ai4land_coupler.heaps import refuse_endless

Field = NDArray[np.float32]


@dataclass(frozen=True)
class Channel:
    """A static input channel and the statistics that normalise it: (x - mean) / std."""

    name: str
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"channel {self.name}: a finite mean and std above 0 are expected, got {self}")


class HasStatics(Protocol):
    """What StaticFeatures needs of an emulator."""

    @property
    def path(self) -> Path:
        """The folder of statics.nc."""
        ...

    @property
    def fine(self) -> RegularGrid:
        """The fine grid."""
        ...

    @property
    def statics(self) -> tuple[Channel, ...]:
        """The channels, in the order of the network's input."""
        ...

    def base_map(self) -> NDArray[np.uint8]:
        """Return the classes (nlat, nlon), 0 where water."""
        ...


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

    packed: NDArray[np.int16]  # (nlat, nlon)
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

    def block(self, r0: int, r1: int, c0: int, c1: int) -> NDArray[np.int16]:
        """Return packed values of native rows (edges repeated past a pole) and columns (wrapped)."""
        rows = np.clip(np.arange(r0, r1), 0, self.lat.size - 1)
        return self.packed[rows[:, None], np.arange(c0, c1) % self.lon.size]

    def unpack(self, packed: NDArray) -> Field:
        """Return physical values, float32."""
        return (packed * self.scale + self.offset).astype(np.float32)


def bilinear(values: Field, y: Places, x: Places) -> Field:
    """Interpolate a native block (y.stop - y.start, x.stop - x.start) to the fine cells; (nrow, ncol)."""
    i, j = y.index - y.start, x.index - x.start
    south, north = values[i], values[i + 1]
    rows = south + (north - south) * y.weight[:, None]
    west, east = rows[:, j], rows[:, j + 1]
    return west + (east - west) * x.weight[None, :]


def box_sums(values: NDArray[np.int64], radius: int) -> NDArray[np.int64]:
    """Return sums over squares of 2 radius + 1 cells, shape smaller by radius on each side; exact integers."""
    total = np.zeros((values.shape[0] + 1, values.shape[1] + 1), np.int64)
    total[1:, 1:] = values.cumsum(0).cumsum(1)
    n = 2 * radius + 1
    return total[n:, n:] - total[:-n, n:] - total[n:, :-n] + total[:-n, :-n]


TERRAIN_RADII = (1, 6)  # of the native height: boxes of 3 and 13 cells, 0.25 and 1.1 degree at 5 minutes
RIM = max(TERRAIN_RADII)


def terrain(height: NDArray[np.int64], row_lat: NDArray[np.float64], spacing: float) -> dict[str, Field]:
    """Derive terrain fields of a block of heights (n + 2 RIM, m + 2 RIM) in m; each result is (n, m).

    row_lat (n,) is the latitude of the inner rows and spacing the native one, both in degrees. slope is the
    root of its steepness, poleward its component that climbs towards the pole, tpi the height above the mean
    of a box, relief the root of the standard deviation in one.
    """
    inner = (slice(RIM, -RIM), slice(RIM, -RIM))
    metre = np.float64(2 * EARTH_RADIUS * np.pi / 180 * spacing)
    centre = height[inner]
    dy = (height[RIM + 1 : -RIM + 1, RIM:-RIM] - height[RIM - 1 : -RIM - 1, RIM:-RIM]) / metre
    dx = (height[RIM:-RIM, RIM + 1 : -RIM + 1] - height[RIM:-RIM, RIM - 1 : -RIM - 1]) / metre
    dx = dx / np.maximum(_cosine(row_lat), 0.05)[:, None]
    fields = {
        "height": np.sqrt(np.maximum(centre, 0)),
        "slope": np.sqrt(np.sqrt(dx * dx + dy * dy)),
        "poleward": signed_root(dy * np.where(row_lat >= 0, 1.0, -1.0)[:, None]),
    }
    for radius in TERRAIN_RADII:
        cut = RIM - radius
        part = height[cut : height.shape[0] - cut, cut : height.shape[1] - cut]
        number = (2 * radius + 1) ** 2
        total, square = box_sums(part, radius), box_sums(part * part, radius)
        fields[f"tpi_{2 * radius + 1}"] = signed_root((centre * number - total) / number)
        variance = (square * number - total * total) / (number * number)
        fields[f"relief_{2 * radius + 1}"] = np.sqrt(np.sqrt(variance))
    return {name: values.astype(np.float32) for name, values in fields.items()}


def _cosine(lat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine of latitudes in degrees, one by one, so that no vector path depends on the length."""
    return np.array([np.cos(np.radians(value)) for value in lat])


def signed_root(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sign(x) sqrt(|x|)."""
    return np.sign(x) * np.sqrt(np.abs(x))


@dataclass(frozen=True)
class Lines:
    """A field that is zero almost everywhere (rivers, shores) on the fine grid, stored as its other cells."""

    cell: NDArray[np.int32]  # ascending row * nlon + col
    value: NDArray[np.int16]
    scale: float

    @classmethod
    def of(cls, native: Native) -> Lines:
        """Keep the cells of a native field that are not zero."""
        flat = native.packed.ravel()
        cell = np.flatnonzero(flat)
        return cls(cell.astype(np.int32), flat[cell], native.scale)

    def field(self, window: Window) -> Field:
        """Return the root of the field in the window, (nrow, ncol)."""
        nlon = window.fine.nlon
        bounds = np.array([window.row0 * nlon, (window.row0 + window.nrow) * nlon], np.int32)
        start, stop = np.searchsorted(self.cell, bounds)
        row, col = np.divmod(self.cell[start:stop] - bounds[0], nlon)
        place, width = (col - window.col0) % nlon, min(window.ncol, nlon)
        kept = place < width
        field = np.zeros((window.nrow, width), np.float32)
        field[row[kept], place[kept]] = np.sqrt(self.value[start:stop][kept] * self.scale)
        return field[:, np.arange(window.ncol) % nlon]


CLIMATE: dict[str, Callable[[Field], Field]] = {
    "t_mean": lambda v: v, "t_cold": lambda v: v, "t_warm": lambda v: v, "gdd5": np.sqrt,
    "p_annual": np.sqrt, "p_dry": np.sqrt, "p_wet": np.sqrt, "p_growing": np.sqrt, "drought": np.sqrt,
}  # fmt: skip
TERRAIN = ("height", "slope", "poleward", "tpi_3", "relief_3", "tpi_13", "relief_13")
KOPPEN = ("koppen_a", "koppen_b", "koppen_c", "koppen_d", "koppen_e")
LINES = ("river_major", "river_minor", "river_dry", "sea_shore", "lake_shore")
PLACE = ("land", "abs_lat")
CHANNELS = (*TERRAIN, *CLIMATE, *KOPPEN, *LINES, *PLACE)


class StaticFeatures:
    """The static channels of an emulator on any window of its fine grid."""

    def __init__(self, emulator: HasStatics) -> None:
        self.fine = emulator.fine
        self.channels = emulator.statics
        unknown = [channel.name for channel in self.channels if channel.name not in CHANNELS]
        if unknown:
            raise EmulatorError(f"static channels {unknown} are unknown; known are {list(CHANNELS)}")
        natives = read_natives(emulator.path / "statics.nc")
        self._land = emulator.base_map()
        self._height = natives["height"]
        self._climate = {name: natives[name] for name in CLIMATE}
        self._koppen = natives["koppen"]
        self._lines = {name: Lines.of(natives[name]) for name in LINES}
        for name in ("koppen", *LINES):
            if natives[name].packed.shape != (self.fine.nlat, self.fine.nlon):
                raise EmulatorError(f"static field {name} is not on the fine grid")
        mean = np.array([channel.mean for channel in self.channels], np.float32)
        std = np.array([channel.std for channel in self.channels], np.float32)
        self._mean, self._std = mean[:, None, None], std[:, None, None]

    def window(self, row0: int, col0: int, nrow: int, ncol: int) -> Field:
        """Return the channels (C, nrow, ncol), float32 that float16 holds exactly; 0 past the poles."""
        south, north = max(row0, 0), min(row0 + nrow, self.fine.nlat)
        out = np.zeros((len(self.channels), nrow, ncol), np.float32)
        if north > south:
            inside = self._inside(Window(self.fine, south, col0, north - south, ncol))
            normalised = (inside - self._mean) / self._std
            out[:, south - row0 : north - row0] = np.clip(normalised, -30, 30).astype(np.float16)
        return out

    def physical(self, row0: int, col0: int, nrow: int, ncol: int) -> Field:
        """Return the channels before normalisation, (C, nrow, ncol) float32; rows within the poles."""
        return self._inside(Window(self.fine, row0, col0, nrow, ncol))

    def _inside(self, window: Window) -> Field:
        fields = self._terrain(window)
        for name, transform in CLIMATE.items():
            fields[name] = self._interpolated(self._climate[name], window, transform)
        index = np.ix_(window.rows, window.cols)
        group = self._koppen.packed[index]
        fields |= {name: (group == number) for number, name in enumerate(KOPPEN, start=1)}
        fields |= {name: lines.field(window) for name, lines in self._lines.items()}
        fields["land"] = self._land[index] > 0
        fields["abs_lat"] = np.repeat(np.abs(self.fine.lat[window.rows])[:, None], window.ncol, axis=1)
        return np.stack([fields[channel.name] for channel in self.channels]).astype(np.float32)

    @staticmethod
    def _interpolated(native: Native, window: Window, transform: Callable[[Field], Field]) -> Field:
        y, x = native.place(window)
        return bilinear(transform(native.unpack(native.block(y.start, y.stop, x.start, x.stop))), y, x)

    def _terrain(self, window: Window) -> dict[str, NDArray]:
        native = self._height
        y, x = native.place(window)
        height = native.block(y.start - RIM, y.stop + RIM, x.start - RIM, x.stop + RIM).astype(np.int64)
        row_lat = native.lat[np.clip(np.arange(y.start, y.stop), 0, native.lat.size - 1)]
        derived = terrain(height, row_lat, 180.0 / native.lat.size)
        return {name: bilinear(values, y, x) for name, values in derived.items()}


def read_natives(path: Path) -> dict[str, Native]:
    """Read every two-dimensional int16 field of a statics file."""
    from netCDF4 import Dataset

    natives = {}
    try:
        refuse_endless(path)
        with Dataset(path) as data:
            data.set_auto_maskandscale(False)
            for name, variable in data.variables.items():
                if variable.ndim == 2:
                    lat, lon = (np.asarray(data.variables[axis][:], np.float64) for axis in variable.dimensions)
                    packed = np.asarray(variable[:], np.int16)
                    natives[name] = Native(packed, float(variable.scale_factor), float(variable.add_offset), lat, lon)
    except (OSError, RuntimeError, LookupError, AttributeError, ValueError, TypeError, MemoryError) as error:
        raise EmulatorError(f"{path} cannot be read: {error}") from error
    missing = [name for name in ("height", *CLIMATE, "koppen", *LINES) if name not in natives]
    if missing:
        raise EmulatorError(f"{path.name}: static fields {missing} are missing")
    return natives


def coarse_window(
    coarse_fractions: NDArray[np.floating], row0: int, col0: int, nrow: int, ncol: int, ratio: int
) -> Field:
    """Spread coarse fractions (K, nlat_c, nlon_c) over the fine cells of a window, `ratio` of them a coarse edge.

    Returns (K, nrow, ncol) float32, piecewise constant, columns wrapped, 0 past the poles. Coarse cells
    without fine land must hold 0.
    """
    classes, nlat, nlon = coarse_fractions.shape
    south, north = max(row0, 0), min(row0 + nrow, nlat * ratio)
    out = np.zeros((classes, nrow, ncol), np.float32)
    rows = np.arange(south, north) // ratio
    cols = np.arange(col0, col0 + ncol) // ratio % nlon
    out[:, south - row0 : max(north, south) - row0] = coarse_fractions[:, rows[:, None], cols]
    return out
