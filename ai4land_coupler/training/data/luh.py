"""Coarse states of LUH2 and LUH3, and of files like theirs, as fractions of land.

What their files do: missing values are 1e20 under `missing_value` and a misspelt `_Fillvalue` or `_fillvalue`; time is
years since 850 (LUH2) or days of 365-day years since 0850 (LUH3), and a state holds at the start of its year; rows
come from the north, though the coordinate alone says so; states are fractions of the cell that sum to 1 - icwtr, the
share of ice and water in staticData; land without data, as Antarctica, misses all states. secma and secmb are the age
and biomass of secondary land, not states; LUH3 has the thirteenth state pltns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler import timeaxis
from ai4land_coupler.errors import BadInputError, GridError
from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.ncread import NcReader, opened
from ai4land_coupler.training.data.rasters import Along, NetCdf

STATES = (
    "primf", "primn", "secdf", "secdn", "urban", "c3ann", "c4ann", "c3per", "c4per", "c3nfx", "pastr", "range", "pltns",
)  # fmt: skip
NO_STATES = ("secma", "secmb")
TOLERANCE = 2e-4
"""How far the sum of a cell's states may be from its land fraction: the files are float32."""
LEAST_LAND = 1e-6
"""Cells with less land than this have no state."""


@dataclass(frozen=True, eq=False)
class StateFile:
    """States on the coarse cells of a window: rows (n,) from the south and columns (m,) of a global grid."""

    grid: NetCdf
    names: tuple[str, ...]
    years: tuple[int, ...]
    land: NDArray[np.float64] | None  # (n, m), where the file's static one gives it
    whole: bool  # whether fractions are of the cell
    rows: Along
    cols: Along

    @classmethod
    def open(
        cls,
        path: Path,
        coarse: RegularGrid,
        rows: NDArray[np.int64],
        cols: NDArray[np.int64],
        static: Path | None = None,
        names: Sequence[str] = (),
        fraction_of: str = "cell",
    ) -> StateFile:
        """Find the states, their years and the land; names: LUH's that the file has, where none are given.

        static: the file with icwtr; without it the land of a cell is what its states sum to.
        """
        names = tuple(names) or _known(path)
        grid = NetCdf(path, names[0])
        with opened(path, BadInputError) as file:
            for name in names:
                file.need(name, "it is asked for as a state")
                if name in NO_STATES:
                    raise file.error(f"{name!r} is no state: it is an age or a biomass, no fraction of the cell")
                if file.dims(name) != file.dims(names[0]) or len(file.dims(name)) != 3:
                    raise file.error(
                        f"{name!r}: expected (time, latitude, longitude) as {names[0]!r}, {file.dims(name)}"
                    )
            years = timeaxis.years(file, file.dims(names[0])[0])
        along = _along(grid, coarse, rows, cols)
        land = None if static is None else _land(static, coarse, rows, cols)
        return cls(grid, names, years, land, fraction_of == "cell", *along)

    def read(self, year: int) -> NDArray[np.float32]:
        """States of a year (S, n, m) as fractions of land that sum to 1, NaN where there is no land or no state.

        Raises BadInputError, naming the cell, for states of which some are missing, that are negative, or whose sum
        is not the land fraction.
        """
        at, rows, cols = self.years.index(year), self.rows.index, self.cols.index
        span, whole = slice(int(rows.min()), int(rows.max()) + 1), slice(0, self.grid.lon.size)
        x = np.empty((len(self.names), rows.size, cols.size))
        with opened(self.grid.path, BadInputError) as file:
            for i, name in enumerate(self.names):
                values = self.grid.part(file, name, at, span, whole, NcReader.numbers)
                x[i] = values[(rows - span.start)[:, None], cols]
        missing = ~np.isfinite(x)
        none, some = missing.all(axis=0), missing.any(axis=0)
        self._refuse(some & ~none, x, year, "some states are missing and others are not")
        x[:, none] = 0.0
        self._refuse((x < -TOLERANCE).any(axis=0), x, year, "a state is negative")
        x = np.maximum(x, 0.0)
        total = x.sum(axis=0)
        land = self._land_of(total)
        stated = ~none & (total > LEAST_LAND) & (land > LEAST_LAND)
        off = np.abs(total - land) > TOLERANCE
        self._refuse(stated & off, x, year, "the states do not sum to the land fraction, 1 - icwtr" if self.whole else
                     "the states do not sum to 1")  # fmt: skip
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(stated, x / total, np.nan).astype(np.float32)

    def _land_of(self, total: NDArray[np.float64]) -> NDArray[np.float64]:
        if not self.whole:
            return np.ones_like(total)
        return np.minimum(total, 1.0) if self.land is None else self.land

    def _refuse(self, bad: Any, x: NDArray[np.float64], year: int, what: str) -> None:
        if not bad.any():
            return
        i, j = (int(part[0]) for part in np.nonzero(bad))
        lat, lon = self.grid.lat[self.rows.index[i]], self.grid.lon[self.cols.index[j]]
        land = "" if self.land is None else f", the land fraction is {self.land[i, j]:.6g}"
        values = ", ".join(f"{name} {value:.6g}" for name, value in zip(self.names, x[:, i, j], strict=True))
        raise BadInputError(
            f"{self.grid.path}: in {year} at {lat:.4f} N {lon:.4f} E {what} ({int(bad.sum())} such cells): {values}; "
            f"they sum to {np.nansum(x[:, i, j]):.6g}{land}"
        )


def grid_of(path: Path, names: Sequence[str] = ()) -> RegularGrid:
    """The global grid that a file of states is on."""
    axes = NetCdf(path, (tuple(names) or _known(path))[0])
    step = (axes.lat[-1] - axes.lat[0]) / (axes.lat.size - 1)
    return RegularGrid(round(180.0 / step), round(360.0 / step))


def _known(path: Path) -> tuple[str, ...]:
    """The states of LUH that a file has; all but pltns it must."""
    with opened(path, BadInputError) as file:
        missing = [name for name in STATES[:-1] if name not in file]
        if missing:
            raise file.error(
                f"no states {missing}; for another file than LUH2's or LUH3's name them, as `names: [...]`"
            )
        return tuple(name for name in STATES if name in file)


def _land(path: Path, coarse: RegularGrid, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[np.float64]:
    """Land fraction 1 - icwtr (n, m); a cell whose icwtr is missing has none."""
    with opened(path, BadInputError) as file:
        file.need("icwtr", "the static file of the states gives the share of ice and water")
    water = NetCdf(path, "icwtr")
    north, east = _along(water, coarse, rows, cols)
    values = water.numbers(slice(0, water.lat.size), slice(0, water.lon.size))[north.index[:, None], east.index]
    if (values < -TOLERANCE).any() or (values > 1 + TOLERANCE).any():
        raise BadInputError(f"{path}: icwtr must be from 0 to 1, got {np.nanmin(values):g} to {np.nanmax(values):g}")
    return np.clip(1.0 - np.where(np.isfinite(values), values, 1.0), 0.0, 1.0)


def _along(grid: NetCdf, coarse: RegularGrid, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> tuple[Along, Along]:
    """Where the coarse cells are in a file, whose cells they must be."""
    along = (
        Along.of(coarse.lat[rows], 180.0 / coarse.nlat, grid.lat),
        Along.of(coarse.lon[cols], 360.0 / coarse.nlon, grid.lon, 360.0),
    )
    if not all(part.nested and part.factor == 1 and (part.index >= 0).all() for part in along):
        step = [(axis[-1] - axis[0]) / (axis.size - 1) for axis in (grid.lat, grid.lon)]
        raise GridError(
            f"{grid.name} is on cells of {step[0]:.8g} x {step[1]:.8g} degrees, the coarse grid has "
            f"{180 / coarse.nlat:.8g} x {360 / coarse.nlon:.8g}: choose `ratio` so that coarse cells are the file's"
        )
    return along
