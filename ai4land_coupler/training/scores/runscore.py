"""Score the yearly class maps of a run against observed ones: `ai4land evaluate --run FOLDER --observed FILE`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import ConfigError
from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.training.scores import rollout
from ai4land_coupler.training.scores.scoretable import rollout_table

NEAR = 1e-4
"""Degrees within which coordinates of observed cells must agree with those of the run."""


@dataclass(frozen=True, eq=False)
class ObservedMaps:
    """Observed yearly maps: years (T,), centres lat (ny,) and lon (nx,) in degrees, classes (T, ny, nx) uint8 of the
    legend, 0 for none."""  # fmt: skip

    years: tuple[int, ...]
    lat: NDArray[np.float64]
    lon: NDArray[np.float64]
    classes: NDArray[np.uint8]

    @classmethod
    def read(cls, path: Path, legend: tuple[str, ...]) -> ObservedMaps:
        """From a netCDF with one variable on time (or year), latitude and longitude.

        Its numbers are turned into those of `legend` by name where it has flag_meanings (and flag_values); where it has
        none they are taken to be 1.. in that order. Raises ConfigError.
        """
        try:
            with netCDF4.Dataset(path) as data:
                data.set_auto_mask(False)
                fields = [v for v in data.variables.values() if v.ndim == 3 and v.dtype.kind in "iu"]
                if len(fields) != 1:
                    raise ConfigError(
                        f"{path}: one map of whole numbers on time, lat and lon is expected, got {len(fields)}"
                    )
                field = fields[0]
                time, lat, lon = (data[name] for name in field.dimensions)
                return cls(
                    tuple(_years(time)),
                    np.asarray(lat[:], float),
                    np.asarray(lon[:], float),
                    _numbered(path, field, legend),
                )
        except (OSError, IndexError, LookupError) as error:
            raise ConfigError(f"{path}: observed maps on time, lat and lon are expected, got: {error}") from error


def _years(time: netCDF4.Variable) -> list[int]:
    if "since" not in getattr(time, "units", ""):
        return [int(year) for year in time[:]]
    dates: Any = netCDF4.num2date(time[:], time.units, getattr(time, "calendar", "standard"))
    return [date.year for date in dates]


def _numbered(path: Path, field: netCDF4.Variable, legend: tuple[str, ...]) -> NDArray[np.uint8]:
    """The classes of a field by their place in the legend, from 1; 0 for what is not in it."""
    values = np.asarray(field[:])
    if not hasattr(field, "flag_meanings"):
        if values.min() < 0 or values.max() > len(legend):
            raise ConfigError(
                f"{path}: without flag_meanings, classes 0 to {len(legend)} are expected, got {values.max()}"
            )
        return values.astype(np.uint8)
    names = field.flag_meanings.split()
    numbers = np.atleast_1d(getattr(field, "flag_values", np.arange(len(names))))
    missing = [name for name in legend if name not in names]
    if missing:
        raise ConfigError(f"{path}: flag_meanings lack classes {missing} of the run; they are {names}")
    out = np.zeros(values.shape, np.uint8)
    for place, name in enumerate(legend, start=1):
        out[values == numbers[names.index(name)]] = place
    return out


def score_run(folder: Path, observed_path: Path, base: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return scores of the years a run and the observed maps share, and the last year's maps by name.

    All change is counted from the observed map of the year `base`, the earliest observed where left out. Baselines get
    the cells of each class that the run has in each coarse cell.
    """
    files = {int(re.findall(r"\d+", path.stem)[-1]): path for path in sorted(folder.glob("ai4land_[0-9]*.nc"))}
    if not files:
        raise ConfigError(f"{folder}: no ai4land_YYYY.nc in it; ask for them with output.folder in the configuration")
    legend, grid, ratio = _form(next(iter(files.values())))
    observed = ObservedMaps.read(observed_path, legend)
    start = min(observed.years) if base is None else base
    years = sorted((set(files) & set(observed.years)) - {start}, key=lambda year: abs(year - start))
    if start not in observed.years or not years:
        raise ConfigError(
            f"{observed_path} has years {list(observed.years)}, the run {sorted(files)}: a base year observed "
            f"({start}) and another year of both are expected"
        )
    rows, cols = _window(observed.lat, grid.lat, "latitude"), _window(observed.lon, grid.lon, "longitude")
    seen = np.stack([observed.classes[observed.years.index(year)] for year in years])
    made = np.stack([_classes(files[year])[np.ix_(rows, cols)] for year in years])
    blocks = (rows // ratio)[:, None] * (grid.nlon // ratio) + cols // ratio
    _, blocks = np.unique(blocks, return_inverse=True)
    area = np.repeat(grid.area_rows[rows, None], cols.size, axis=1)
    prior = observed.classes[observed.years.index(start)]
    shape = (rows.size, cols.size)
    entries, maps = rollout.beside_baselines(seen, made, prior, area, legend, blocks.reshape(shape), years)
    result = {"run": folder.name, "observed": observed_path.name, "base": start, "legend": list(legend)}
    last = {"base": prior, "observed": seen[-1], "legend": legend, "maps": maps, "year": years[-1]}
    return result | {"block": ratio, "scores": entries}, last


def command(folder: Path, observed: Path, base: int | None, json_path: Path | None, plots: Path | None) -> None:
    """Score a run, print the table, write what was asked for."""
    result, last = score_run(folder, observed, base)
    print(f"{folder} against {observed}, change since {result['base']}:")
    print(rollout_table(result["scores"]))
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1) + "\n")
    if plots is not None:
        from ai4land_coupler.training.scores import scoreplots

        made = {name: classes for name, classes in last["maps"].items() if name != "persistence"}
        title = f"{result['base']} to {last['year']}"
        path = plots / f"change_{last['year']}.png"
        print(scoreplots.draw_change(last["base"], last["observed"], made, last["legend"], path, title))


def _form(path: Path) -> tuple[tuple[str, ...], RegularGrid, int]:
    """Legend, fine grid, and fine cells to the edge of a coarse cell, of a yearly file."""
    try:
        with netCDF4.Dataset(path) as data:
            grid = RegularGrid(data["lat"].size, data["lon"].size)
            legend = tuple(data["class"].flag_meanings.split()[1:])
            return legend, grid, grid.nlat // int(data["coarse_lat"].size)
    except (OSError, LookupError, AttributeError) as error:
        raise ConfigError(f"{path}: a yearly file of a run is expected, got: {error}") from error


def _classes(path: Path) -> NDArray[np.uint8]:
    with netCDF4.Dataset(path) as data:
        data.set_auto_mask(False)
        return np.asarray(data["class"][0], np.uint8)


def _window(wanted: NDArray[np.float64], centres: NDArray[np.float64], what: str) -> NDArray[np.int64]:
    """Where the wanted coordinates stand among evenly spaced centres; longitudes go round."""
    step = centres[1] - centres[0]
    at = np.rint((wanted - centres[0]) / step).astype(np.int64)
    if what == "longitude":
        at %= centres.size
    ok = (at >= 0) & (at < centres.size)
    apart = np.abs(centres[np.clip(at, 0, centres.size - 1)] - wanted)
    apart = np.minimum(apart, np.abs(apart - 360))
    if not (ok & (apart < NEAR)).all():
        raise ConfigError(f"observed {what} {wanted[int(np.argmax(apart))]:g} is no centre of a cell of the run's grid")
    return at
