"""Yearly class maps of one area, as files of any grid hold them: classes, years, legend and the area of each pixel."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import ConfigError
from ai4land_coupler.ncread import NcReader, opened

NO_CLASS = re.compile(r"no.?data|fill|unknown|masked", re.IGNORECASE)
"""Names in a legend that stand for no class."""


@dataclass(frozen=True)
class Series:
    """Yearly maps (T, ny, nx) uint8 of classes 1..K in the order of `legend`, 0 where there is none.

    `codes` are the numbers of the classes in the file, `area` (ny, nx) the area of the pixels in km2 (in pixels where
    the axes have no unit of length), `axes` the coordinates of rows and columns by name.
    """

    years: tuple[int, ...]
    classes: NDArray[np.uint8]
    area: NDArray[np.float64]
    legend: tuple[str, ...]
    codes: tuple[int, ...]
    axes: dict[str, NDArray[np.float64]]

    def __post_init__(self) -> None:
        ny, nx = self.classes.shape[1:]
        if len(self.years) != len(self.classes) or self.area.shape != (ny, nx) or len(self.legend) != len(self.codes):
            raise ConfigError(f"a map for each of {len(self.years)} years on {ny} x {nx} pixels with areas is expected")
        if any(late <= early for early, late in zip(self.years, self.years[1:], strict=False)):
            raise ConfigError(f"years in rising order are expected, got {self.years}")

    def index(self, year: int) -> int:
        """Place of a year. Raises ConfigError where there is none."""
        if year not in self.years:
            raise ConfigError(f"the year {year} is not in the file, which has {self.years[0]} to {self.years[-1]}")
        return self.years.index(year)

    def cut(self, rows: slice, cols: slice) -> Series:
        """The maps of a part of the area."""
        (y, at_y), (x, at_x) = self.axes.items()
        axes = {y: at_y[rows], x: at_x[cols]}
        return Series(self.years, self.classes[:, rows, cols], self.area[rows, cols], self.legend, self.codes, axes)


def read(path: str | Path) -> Series:
    """Read a netCDF file with one variable (year, y, x) of class numbers.

    The legend comes from flag_values and flag_meanings, or from an attribute `legend` as in "1 Forest;2 Pasture".
    No class: fill and missing values, numbers the legend calls no data, and 0 where the legend does not name it.
    Axes in degrees make a lat-lon grid weighted by area; any other grid is taken for one of equal areas. Raises
    ConfigError, naming the file, where something is missing.
    """
    with opened(Path(path), ConfigError) as file:
        name = _map_variable(file)
        time, y, x = file.dims(name)
        years = _years(file, time)
        names = _legend(file, name)
        axes = {dim: file.numbers(dim) if dim in file else np.arange(float(size)) for dim, size in _sizes(file, name)}
        layers = [file.numbers(name, t) for t in range(len(years))]
        area = _areas(file, y, x, axes)
    dropped = {code for code, text in names.items() if NO_CLASS.search(text)} | ({0} - set(names))
    seen = np.unique(np.concatenate([np.unique(layer[np.isfinite(layer)]) for layer in layers]))
    codes = tuple(int(code) for code in seen if int(code) not in dropped)
    if not codes or len(codes) > 250 or (seen != seen.astype(int)).any():
        raise ConfigError(f"{path}: variable {name!r}: 1 to 250 whole class numbers are expected, got {seen[:20]}")
    classes = np.zeros((len(layers), *layers[0].shape), np.uint8)
    for place, code in enumerate(codes, start=1):
        for out, layer in zip(classes, layers, strict=True):
            out[layer == code] = place
    legend = tuple(names.get(code, f"class {code}") for code in codes)
    return Series(years, classes, area, legend, codes, axes)


def _map_variable(file: NcReader) -> str:
    found = [name for name in file.names if len(file.dims(name)) == 3 and min(file.shape(name)) > 0]
    if len(found) != 1:
        raise file.error(f"one variable on (year, y, x) is expected, it has {', '.join(found) or 'none'}")
    return found[0]


def _sizes(file: NcReader, name: str) -> list[tuple[str, int]]:
    return list(zip(file.dims(name), file.shape(name), strict=True))[1:]


def _years(file: NcReader, time: str) -> tuple[int, ...]:
    """Years of the first dimension: plain numbers, or days since a date of the calendar that comes with them."""
    values = file.numbers(file.need(time, "it holds the years of the maps"))
    unit = re.match(r"(days|years) since (\d{1,4})", file.text(time, "units"))
    if unit is not None:
        length = 1.0 if unit[1] == "years" else 365.25 if "365" not in file.text(time, "calendar") else 365.0
        values = int(unit[2]) + np.floor((values + (0.5 if unit[1] == "days" else 0.0)) / length)
    if not np.isfinite(values).all() or (values != np.round(values)).any():
        raise file.error(f"variable {time!r}: years are expected, got {values[:5]}")
    return tuple(int(value) for value in values)


def _legend(file: NcReader, name: str) -> dict[int, str]:
    values, meanings = file.attribute(name, "flag_values", None), file.text(name, "flag_meanings").split()
    if values is not None and len(np.atleast_1d(values)) == len(meanings):
        return {int(code): text for code, text in zip(np.atleast_1d(values), meanings, strict=True)}
    pairs = re.findall(r"(-?\d+)[\s:=]+([^;,]+)", file.text(name, "legend"))
    return {int(code): text.strip() for code, text in pairs}


def _areas(file: NcReader, y: str, x: str, axes: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Area of the pixels (ny, nx), km2: bands of a sphere for degrees, else the square of the spacing."""
    unit = file.text(y, "units") if y in file else ""
    steps = [abs(float(np.diff(axis).mean())) if axis.size > 1 else 1.0 for axis in (axes[y], axes[x])]
    if unit.startswith("degree") or y.lower() in ("lat", "latitude"):
        south, north = np.radians(axes[y] - steps[0] / 2), np.radians(axes[y] + steps[0] / 2)
        band = 6371.0**2 * np.radians(steps[1]) * (np.sin(north) - np.sin(south))
        return np.repeat(band[:, None], axes[x].size, axis=1)
    known = y in file and x in file
    length = {"km": 1.0}.get(unit, 1e-3) if known else 1.0
    return np.full((axes[y].size, axes[x].size), steps[0] * steps[1] * length**2)
