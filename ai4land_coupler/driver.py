"""`ai4land run`: the component driven by a netCDF file of coarse states, LUH2's included."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.comm import MPI
from ai4land_coupler.component import Component
from ai4land_coupler.config import Config
from ai4land_coupler.errors import BadInputError
from ai4land_coupler.grids import HostGrid

FILE_TOLERANCE = 2e-4
"""Default of state.tolerance for files, whose fractions are float32."""

LAND_NAMES = ("land_fraction", "sftlf", "landfrac", "LANDFRAC")

MISSING = 1e19
"""Values at least this large count as missing, whatever the file's attributes say: LUH2 misspells `_FillValue`."""


@dataclass(frozen=True, eq=False)
class CoarseStates:
    """A file of states on a regular or Gaussian latitude-longitude grid; cells follow the file, longitude fastest."""

    path: Path
    names: tuple[str, ...]
    years: tuple[int, ...]
    lat_bounds: NDArray[np.float64]
    lon_bounds: NDArray[np.float64]
    land_fraction: NDArray[np.float64]

    @classmethod
    def open(cls, path: Path, names: Sequence[str], fraction_of: str) -> "CoarseStates":
        """Read axes, years and land fraction; raises BadInputError for what a state file must have and this lacks."""
        with _dataset(path) as file:
            missing = [name for name in (*names, "time", "lat", "lon") if name not in file.variables]
            if missing:
                raise BadInputError(f"{path}: variables {missing} are not in the file; it has {list(file.variables)}")
            lat, lon = _bounds(file, "lat", 90.0), _bounds(file, "lon", None)
            first = np.stack([_field(file, name, 0) for name in names])
            land = _land(file, first, fraction_of)
            if land.shape != (len(lat), len(lon)):
                raise BadInputError(f"{path}: expected fields on (lat, lon) {len(lat), len(lon)}, got {land.shape}")
            return cls(path, tuple(names), _years(file.variables["time"]), lat, lon, land)

    def grid(self, part: slice) -> HostGrid:
        """The cells of some rows of the file as host cells."""
        south, north = self.lat_bounds[part].T
        west, east = self.lon_bounds.T
        corner_lon = np.stack([west, east, east, west], axis=-1)
        corner_lat = np.stack([south, south, north, north], axis=-1)
        shape = (south.size, west.size, 4)
        first = part.start * west.size + 1
        return HostGrid(
            np.arange(first, first + south.size * west.size),
            np.broadcast_to(corner_lon[None], shape).reshape(-1, 4),
            np.broadcast_to(corner_lat[:, None], shape).reshape(-1, 4),
            self.land_fraction[part].reshape(-1),
        )

    def read(self, year: int, part: slice) -> dict[str, NDArray[np.float64]]:
        """State of a year on some rows, {class: (n,)}; 0 where the file has no land."""
        at = self.years.index(year)
        land = self.land_fraction[part] > 0
        with _dataset(self.path) as file:
            return {name: np.where(land, _field(file, name, at, part), 0.0).reshape(-1) for name in self.names}


def run(
    config_path: Path,
    states_path: Path,
    read_from: Path | None = None,
    write_to: Path | None = None,
    first: int | None = None,
    last: int | None = None,
) -> None:
    """Drive the component through the years of a file, on every rank of MPI_COMM_WORLD; bands of latitude a rank."""
    comm = MPI.COMM_WORLD
    config = _with_file_tolerance(Config.load(config_path))
    with Component.init(config, comm) as land:
        states = land.together(lambda: CoarseStates.open(states_path, land.legend, config.state.fraction_of))
        edges = np.linspace(0, len(states.lat_bounds), comm.Get_size() + 1).round().astype(int)
        part = slice(int(edges[comm.Get_rank()]), int(edges[comm.Get_rank() + 1]))
        land.set_grid(land.together(lambda: states.grid(part)))
        if read_from is not None:
            land.read_restart(read_from)
        for year in _chosen(states.years, first, last, config.time):
            land.step(year, land.together(functools.partial(states.read, year, part)))
        if write_to is not None:
            land.write_restart(write_to)


def _with_file_tolerance(config: Config) -> Config:
    if "tolerance" in config.state.model_fields_set:
        return config
    return config.model_copy(update={"state": config.state.model_copy(update={"tolerance": FILE_TOLERANCE})})


def _chosen(available: Sequence[int], first: int | None, last: int | None, time: str) -> Sequence[int]:
    first, last = first if first is not None else min(available), last if last is not None else max(available)
    inside = sorted(year for year in available if first <= year <= last)
    if not inside:
        raise BadInputError(f"no year of {first}..{last} is in the file; it has {min(available)}..{max(available)}")
    return inside if time == "forward" else inside[::-1]


def _dataset(path: Path) -> Any:
    try:
        file = netCDF4.Dataset(path)
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error}") from error
    file.set_auto_mask(False)
    return file


def _field(file: Any, name: str, at: int, part: slice = slice(None)) -> NDArray[np.float64]:
    variable = file.variables[name]
    values = np.asarray(variable[at, part] if variable.ndim == 3 else variable[part], dtype=np.float64)
    return np.where(np.abs(values) >= MISSING, np.nan, values)


def _land(file: Any, first: NDArray[np.float64], fraction_of: str) -> NDArray[np.float64]:
    """The file's land fraction; without one, what the classes sum to (`cell`), or 1 where they are given (`land`)."""
    for name in LAND_NAMES:
        if name in file.variables:
            land = _field(file, name, 0)
            percent = getattr(file.variables[name], "units", "1").strip() in ("%", "percent")
            return np.clip(np.nan_to_num(land / (100.0 if percent else 1.0)), 0.0, 1.0)
    given = np.isfinite(first).all(axis=0)
    total = np.where(given, np.nan_to_num(first).sum(axis=0), 0.0)
    return np.clip(total, 0.0, 1.0) if fraction_of == "cell" else (given & (total > 0.5)).astype(np.float64)


def _bounds(file: Any, axis: str, limit: float | None) -> NDArray[np.float64]:
    """Cell edges (n, 2) of an axis, lower first: its bounds variable, else midway between the centres."""
    centres = np.asarray(file.variables[axis][:], dtype=np.float64)
    for name in (getattr(file.variables[axis], "bounds", ""), f"{axis}_bnds", f"{axis}_bounds"):
        if name in file.variables:
            return np.sort(np.asarray(file.variables[name][:], dtype=np.float64).reshape(centres.size, 2), axis=1)
    middle = 0.5 * (centres[1:] + centres[:-1])
    edges = np.concatenate([[1.5 * centres[0] - 0.5 * centres[1]], middle, [1.5 * centres[-1] - 0.5 * centres[-2]]])
    edges = edges if limit is None else np.clip(edges, -limit, limit)
    return np.sort(np.stack([edges[:-1], edges[1:]], axis=1), axis=1)


def _years(time: Any) -> tuple[int, ...]:
    """Calendar years of a time axis; `years since` is read as whole years, as LUH2 means it."""
    values, units = np.asarray(time[:], dtype=np.float64), time.units
    if units.startswith("years since"):
        return tuple(int(units.split()[2].split("-")[0]) + int(np.floor(value)) for value in values)
    calendar = getattr(time, "calendar", "standard")
    dates: Any = [netCDF4.num2date(value, units, calendar) for value in values]
    return tuple(int(date.year) for date in dates)
