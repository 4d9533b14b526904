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

from ai4land_coupler import kernel
from ai4land_coupler.errors import EmulatorError
from ai4land_coupler.grids import EARTH_RADIUS, RegularGrid
from ai4land_coupler.natives import Field, Lines, Native, Window, bilinear, box_sums, read_natives
from ai4land_coupler.settlements import SETTLEMENTS, Settlements


@dataclass(frozen=True)
class Channel:
    """A static input channel and the statistics that normalise it: (x - mean) / std.

    stored: statics.nc has it on the fine grid under this name, as it was in the training store; else it is one of
    CHANNELS.
    """

    name: str
    mean: float = 0.0
    std: float = 1.0
    stored: bool = False

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


LIMIT = 30.0
"""Standard deviations from the mean that a channel may be away."""

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
    both = box_sums(height, *TERRAIN_RADII), box_sums(height * height, *TERRAIN_RADII)
    for radius, total, square in zip(TERRAIN_RADII, *both, strict=True):
        number = (2 * radius + 1) ** 2
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


CLIMATE: dict[str, Callable[[Field], Field]] = {
    "t_mean": lambda v: v, "t_cold": lambda v: v, "t_warm": lambda v: v, "gdd5": np.sqrt,
    "p_annual": np.sqrt, "p_dry": np.sqrt, "p_wet": np.sqrt, "p_growing": np.sqrt, "drought": np.sqrt,
}  # fmt: skip
TERRAIN = ("height", "slope", "poleward", "tpi_3", "relief_3", "tpi_13", "relief_13")
KOPPEN = ("koppen_a", "koppen_b", "koppen_c", "koppen_d", "koppen_e")
LINES = ("river_major", "river_minor", "river_dry", "sea_shore", "lake_shore")
PLACE = ("land", "abs_lat")
CLIMATE_CLASS = "climate_class"  #: embedded by the network, thus not normalised and the last channel
CLIMATE_CLASSES = 30
GROUPS = {
    "terrain": TERRAIN,
    "climate": tuple(CLIMATE),
    "koppen": KOPPEN,
    "lines": LINES,
    "place": PLACE,
    "settlements": SETTLEMENTS,
    "climate_class": (CLIMATE_CLASS,),
}
CHANNELS = tuple(name for group in GROUPS.values() for name in group)
NATIVES = {
    "terrain": ("height",),
    "climate": tuple(CLIMATE),
    "koppen": ("koppen",),
    "lines": LINES,
    "settlements": ("places", "people"),
    "climate_class": ("climate_class",),
}
SPARSE = (*LINES, *NATIVES["settlements"])
INTERPOLATED = ("height", *CLIMATE)  # the other natives are on the fine grid


class StaticFeatures:
    """The static channels of an emulator on any window of its fine grid."""

    def __init__(self, emulator: HasStatics) -> None:
        self.fine = emulator.fine
        self.channels = emulator.statics
        self._stored = [channel.name for channel in self.channels if channel.stored]
        names = [channel.name for channel in self.channels if not channel.stored]
        unknown = [name for name in names if name not in CHANNELS]
        if unknown:
            raise EmulatorError(f"static channels {unknown} are unknown; known are {list(CHANNELS)}")
        self._groups = {group for group, members in GROUPS.items() if set(members) & set(names)}
        needed = [name for group, members in NATIVES.items() if group in self._groups for name in members]
        self._land = emulator.base_map()
        self._natives, sparse = dict[str, Native](), dict[str, Lines]()
        for name, field, shape in read_natives(emulator.path / "statics.nc", [*needed, *self._stored]):
            self._check(name, field, shape)
            if name in SPARSE and name in needed:
                sparse[name] = field if isinstance(field, Lines) else Lines.of(field)
            if isinstance(field, Native) and (name not in sparse or name in self._stored):
                self._natives[name] = field.narrow()
        self._lines = {name: sparse[name] for name in LINES if name in needed}
        if "settlements" in self._groups:
            self._settlements = Settlements(sparse["places"], sparse["people"])

    def _check(self, name: str, native: Native | Lines, shape: tuple[int, int]) -> None:
        anywhere = name in INTERPOLATED and name not in self._stored
        if not anywhere and shape != (self.fine.nlat, self.fine.nlon):
            raise EmulatorError(f"static field {name} is not on the fine grid")
        if isinstance(native, Lines):
            if name not in SPARSE or name in self._stored:
                raise EmulatorError(f"static field {name} is expected on a grid, found a list of cells")
            return
        if name == CLIMATE_CLASS:
            ends = np.array([native.packed.min(), native.packed.max()])
            low, high = native.unpack(ends) if name in self._stored else ends
            last = self.channels[-1]
            plain = (last.name, last.mean, last.std) == (CLIMATE_CLASS, 0.0, 1.0)
            if low < 0 or high > CLIMATE_CLASSES or not plain:
                raise EmulatorError(
                    f"{CLIMATE_CLASS}: expected the last channel, mean 0 and std 1, of 0 to {CLIMATE_CLASSES}; "
                    f"found {low} to {high}, last {self.channels[-1]}"
                )

    def window(self, row0: int, col0: int, nrow: int, ncol: int) -> Field:
        """Return the channels (C, nrow, ncol), float32 that float16 holds exactly; 0 past the poles."""
        return self.normalised(row0, col0, nrow, ncol).astype(np.float16).astype(np.float32)

    def normalised(self, row0: int, col0: int, nrow: int, ncol: int) -> Field:
        """Return the channels (C, nrow, ncol) float32, as `window` does but not rounded to float16."""
        south, north = max(row0, 0), min(row0 + nrow, self.fine.nlat)
        if north <= south:
            return np.zeros((len(self.channels), nrow, ncol), np.float32)
        inside = self._inside(Window(self.fine, south, col0, north - south, ncol))
        mean, std = (np.array([getattr(c, name) for c in self.channels], np.float32) for name in ("mean", "std"))
        if kernel.ready():
            kernel.normalise(inside, mean, std, LIMIT)
        else:
            _normalise(inside, mean, std)
        if north - south == nrow:
            return inside
        out = np.zeros((len(self.channels), nrow, ncol), np.float32)
        out[:, south - row0 : north - row0] = inside
        return out

    def physical(self, row0: int, col0: int, nrow: int, ncol: int) -> Field:
        """Return the channels before normalisation, (C, nrow, ncol) float32; rows within the poles."""
        return self._inside(Window(self.fine, row0, col0, nrow, ncol))

    def _inside(self, window: Window) -> Field:
        groups = self._groups
        fields: dict[str, NDArray] = self._terrain(window) if "terrain" in groups else {}
        if "climate" in groups:
            fields |= {name: self._interpolated(self._natives[name], window, root) for name, root in CLIMATE.items()}
        if "koppen" in groups:
            group = window.of(self._natives["koppen"].packed)
            fields |= {name: (group == number) for number, name in enumerate(KOPPEN, start=1)}
        fields |= {name: lines.field(window) for name, lines in self._lines.items()}
        fields["land"] = window.of(self._land) > 0
        fields["abs_lat"] = np.abs(self.fine.lat[window.rows])[:, None]
        if "settlements" in groups:
            fields |= self._settlements.fields(window)
        if "climate_class" in groups:
            fields[CLIMATE_CLASS] = window.of(self._natives["climate_class"].packed)
        fields |= {name: self._natives[name].unpack(window.of(self._natives[name].packed)) for name in self._stored}
        out = np.empty((len(self.channels), window.nrow, window.ncol), np.float32)
        for place, channel in zip(out, self.channels, strict=True):
            place[...] = fields[channel.name]
        return out

    @staticmethod
    def _interpolated(native: Native, window: Window, transform: Callable[[Field], Field]) -> Field:
        y, x = native.place(window)
        return bilinear(transform(native.unpack(native.block(y.start, y.stop, x.start, x.stop))), y, x)

    def _terrain(self, window: Window) -> dict[str, NDArray]:
        native = self._natives["height"]
        y, x = native.place(window)
        height = native.block(y.start - RIM, y.stop + RIM, x.start - RIM, x.stop + RIM).astype(np.int64)
        row_lat = native.lat[np.clip(np.arange(y.start, y.stop), 0, native.lat.size - 1)]
        derived = terrain(height, row_lat, 180.0 / native.lat.size)
        return {name: bilinear(values, y, x) for name, values in derived.items()}


def _normalise(planes: Field, mean: Field, std: Field) -> None:
    for field, of, by in zip(planes, mean, std, strict=True):
        if (of, by) != (0.0, 1.0):
            np.subtract(field, of, out=field)
            np.divide(field, by, out=field)
        np.clip(field, -LIMIT, LIMIT, out=field)


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
