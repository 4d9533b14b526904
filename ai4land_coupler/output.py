"""The yearly netCDF files, written by rank 0 tile after tile, and report.json."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import netCDF4
import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import CouplerError, OutputError
from ai4land_coupler.grids import EARTH_RADIUS, RegularGrid
from ai4land_coupler.tiles import Tile, all_tiles

if TYPE_CHECKING:
    from ai4land_coupler.comm import Communicator
    from ai4land_coupler.emulator import Emulator

TIME_UNITS = "days since 1850-01-01 00:00:00"
FILLED_MEANINGS = "no nearest_coarse_state base_map"
MAPS = ("class", "filled")


@dataclass(frozen=True)
class YearWriter:
    """Writes `ai4land_YYYY.nc` into a folder, one file a year.

    provenance becomes global attributes; compression is zlib's level, 0 for none; fractions says which years hold the
    fraction of every class on the fine grid beside the class map.
    """

    folder: Path
    emulator: Emulator
    provenance: Mapping[str, str]
    compression: int = 1
    fractions: Literal["none", "all"] | tuple[int, ...] = "none"

    def check_writable(self) -> None:
        """Make the folder and a file in it; raises OutputError where that is not possible."""
        probe = self.folder / ".ai4land_probe"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise OutputError(
                f"output.folder {self.folder}: a folder that can be written is expected, got: {error}; "
                "choose another folder or change its permissions"
            ) from error

    def has_fractions(self, year: int) -> bool:
        """Whether the file of that year holds the fine fractions."""
        return self.fractions == "all" or (self.fractions != "none" and year in self.fractions)

    def path(self, year: int) -> Path:
        """Where the file of that year is put."""
        return self.folder / f"ai4land_{year:04d}.nc"

    def write(
        self,
        comm: Communicator,
        year: int,
        tiles: Sequence[Tile],
        owner: Sequence[int] | NDArray[np.integer],
        local: Callable[[Tile], Mapping[str, NDArray[Any]]],
        coarse: Mapping[str, NDArray[np.float64]],
        held: str = "",
    ) -> Path:
        """Write one year and return its path. Collective; raises OutputError on every rank or on none.

        tiles: those with delivered cells, in ascending index, all of one size; owner: the rank that holds each;
        local(tile), called on that rank only: "class" and "filled" (size, size) uint8, 0 off delivered land, and where
        `has_fractions(year)` one (size, size) float64 for each class of the legend, NaN off delivered land.
        coarse: "target", "residual" and "unplaced" (K, nlat, nlon) float64 on the coarse grid, NaN where there is none,
        needed on rank 0 only. held: why the fields are those of an earlier year, which the file then says.
        Rank 0 holds one tile at a time; what fails there or elsewhere is raised after every tile was passed on.
        """
        names = MAPS + (self.emulator.legend if self.has_fractions(year) else ())
        attempt = _Attempt(self.path(year))
        file = attempt(_YearFile, self, year, tiles, held) if comm.rank == 0 else None
        try:
            for tile, rank in zip(tiles, owner, strict=True):
                if comm.rank == rank:
                    fields = attempt(_of_tile, local, tile, names) or _blank(tile, names)
                    if rank != 0:
                        for tag, name in enumerate(names):
                            comm.send(fields[name], 0, tag)
                elif comm.rank == 0:
                    fields = _blank(tile, names)
                    for tag, name in enumerate(names):
                        comm.recv(fields[name], int(rank), tag)
                if file is not None:
                    attempt(file.put, tile, fields)
            comm.agree(attempt.failure, attempt.cause)
            if file is not None:
                attempt(file.finish, coarse)
            comm.agree(attempt.failure, attempt.cause)
        finally:
            if file is not None:
                file.discard()
        return self.path(year)


class _Attempt:
    """Calls functions until one of them raises, then no more; keeps what it raised for all ranks to hear."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.failure: tuple[int, str] | None = None
        self.cause: Exception | None = None

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        if self.failure is not None:
            return None
        try:
            return function(*args)
        except Exception as error:  # whatever it is, the other ranks must not wait for this one
            self.cause = error
            failed = error if isinstance(error, CouplerError) else OutputError(self._explain(error))
            self.failure = (int(failed.status), str(failed))
            return None

    def _explain(self, error: Exception) -> str:
        text = f"{self._path} could not be written: {error or type(error).__name__}"
        with suppress(OSError):
            text += f"; {shutil.disk_usage(self._path.parent).free / 2**20:.0f} MiB are free on that disk"
        return f"{text}; make room or choose another output.folder. Files of earlier years are whole"


class _YearFile:
    """The file of one year while it is written beside its final name."""

    def __init__(self, writer: YearWriter, year: int, tiles: Sequence[Tile], held: str) -> None:
        self._path = writer.path(year)
        self._aside = self._path.with_name(self._path.name + ".part")
        size = tiles[0].size if tiles else writer.emulator.tile
        emulator, names = writer.emulator, writer.emulator.legend
        self._nc: netCDF4.Dataset | None = netCDF4.Dataset(self._aside, "w", format="NETCDF4")
        try:
            self._nc.setncatts(_global_attributes(writer, year) | ({"held": held} if held else {}))
            _create_axes(self._nc, emulator, year)
            packed = {"zlib": writer.compression > 0, "complevel": writer.compression}
            on_fine = {**packed, "chunksizes": (1, size, size)}
            for name, attributes in _map_attributes(names).items():
                _create(self._nc, name, "u1", ("time", "lat", "lon"), attributes, fill_value=False, **on_fine)
            for name in names if writer.has_fractions(year) else ():
                _create(self._nc, name, "f8", ("time", "lat", "lon"), _of_class(name), fill_value=np.nan, **on_fine)
            for name, attributes in _coarse_attributes(names).items():
                dims = ("class", "coarse_lat", "coarse_lon")
                _create(self._nc, name, "f8", dims, attributes, fill_value=np.nan, **packed)
            self._blank_maps(emulator, size, {tile.index for tile in tiles})
        except BaseException:
            self.discard()
            raise

    def _blank_maps(self, emulator: Emulator, size: int, active: set[int]) -> None:
        """Write 0 where no tile will come: the maps have no fill value, so that readers keep their bytes."""
        for tile in all_tiles(emulator.fine, emulator.coarse, size):
            if tile.index not in active:
                self.put(tile, _blank(tile, MAPS))

    def put(self, tile: Tile, fields: Mapping[str, NDArray[Any]]) -> None:
        """Write the fields of one tile, each of them one chunk."""
        assert self._nc is not None
        for name, values in fields.items():
            self._nc.variables[name][0, tile.rows, tile.cols] = values

    def finish(self, coarse: Mapping[str, NDArray[np.float64]]) -> None:
        """Write what lies on the coarse grid, bring everything to disk and give the file its name."""
        assert self._nc is not None
        for name in _coarse_attributes(()):
            self._nc.variables[name][...] = coarse[name]
        self._nc.close()
        self._nc = None
        with self._aside.open("rb") as written:
            os.fsync(written.fileno())
        self._aside.replace(self._path)

    def discard(self) -> None:
        """Remove what was not finished, and free its space even where HDF5 cannot close it on a full disk."""
        if self._nc is not None:
            with suppress(RuntimeError):
                self._nc.close()
            self._nc = None
        with suppress(OSError):
            os.truncate(self._aside, 0)
            self._aside.unlink()


def write_report(folder: Path, report: Mapping[str, object]) -> None:
    """Write `report.json` aside and rename it. Raises OutputError, also for numbers that are not finite."""
    path = folder / "report.json"
    aside = path.with_name(path.name + ".part")
    try:
        text = json.dumps(report, indent=1, allow_nan=False) + "\n"
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except (OSError, ValueError, TypeError) as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise OutputError(f"{path} could not be written: {error}") from error


def read_report(folder: Path) -> dict[str, Any]:
    """What `write_report` wrote; a report without years where there is none that can be read."""
    try:
        found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return {"years": list(found["years"]), "files": list(found["files"]), "provenance": dict(found["provenance"])}
    except (OSError, ValueError, TypeError, KeyError):
        return {"years": [], "files": [], "provenance": {}}


def _of_tile(
    local: Callable[[Tile], Mapping[str, NDArray[Any]]], tile: Tile, names: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """What `local` has of a tile, in the shapes and dtypes that are sent and written."""
    given, fields = local(tile), _blank(tile, names)
    for name, field in fields.items():
        if given[name].shape != field.shape or given[name].dtype != field.dtype:
            raise OutputError(
                f"{name} of tile {tile.index}: {field.dtype} {field.shape} is expected, "
                f"got {given[name].dtype} {given[name].shape}"
            )
        fields[name] = np.ascontiguousarray(given[name])
    return fields


def _blank(tile: Tile, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    shape = (tile.size, tile.size)
    return {name: np.zeros(shape, np.uint8) if name in MAPS else np.full(shape, np.nan) for name in names}


def _create(
    nc: netCDF4.Dataset, name: str, kind: str, dims: tuple[str, ...], attributes: Mapping[str, Any], **options: Any
) -> netCDF4.Variable:
    variable = nc.createVariable(name, kind, dims, **options)
    variable.setncatts(dict(attributes))
    return variable


def _create_axes(nc: netCDF4.Dataset, emulator: Emulator, year: int) -> None:
    """Dimensions and coordinate variables: time, the fine and the coarse grid with their bounds."""
    nc.createDimension("time", None)
    nc.createDimension("class", len(emulator.legend))
    nc.createDimension("bnds", 2)
    about = {"standard_name": "time", "long_name": "start of the year", "units": TIME_UNITS, "calendar": "noleap"}
    _create(nc, "time", "f8", ("time",), {**about, "axis": "T"})[:] = [(year - 1850) * 365.0]
    for prefix, grid in (("", emulator.fine), ("coarse_", emulator.coarse)):
        for axis, (name, centre, edges) in _axes(grid).items():
            nc.createDimension(prefix + name, centre.size)
            bounds = f"{prefix}{name}_bnds"
            long = {"Y": "latitude", "X": "longitude"}[axis]
            about = {"standard_name": long, "long_name": f"{long} of the cell centre", "axis": axis, "bounds": bounds}
            about["units"] = {"Y": "degrees_north", "X": "degrees_east"}[axis]
            _create(nc, prefix + name, "f8", (prefix + name,), about)[:] = centre
            _create(nc, bounds, "f8", (prefix + name, "bnds"), {})[:] = np.stack([edges[:-1], edges[1:]], axis=1)


def _axes(grid: RegularGrid) -> dict[str, tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
    return {"Y": ("lat", grid.lat, grid.lat_edges), "X": ("lon", grid.lon, grid.lon_edges)}


def _global_attributes(writer: YearWriter, year: int) -> dict[str, Any]:
    written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    about = {
        "Conventions": "CF-1.11",
        "title": f"Land use at the start of {year}, downscaled from a coarse state",
        "source": f"ai4land_coupler, emulator {writer.emulator.name}",
        "history": f"{written} written by ai4land_coupler",
        "comment": f"areas refer to a sphere of radius {EARTH_RADIUS:.0f} m; fractions are fractions of land",
    }
    return about | {name: value for name, value in writer.provenance.items() if value}


def _map_attributes(legend: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {
        "class": {
            "long_name": "land-use class, drawn with the counts of the coarse totals",
            "flag_values": np.arange(len(legend) + 1, dtype=np.uint8),
            "flag_meanings": " ".join(("none", *legend)),
            "comment": "0 is water or land no host cell reaches",
            "cell_methods": "time: point",
        },
        "filled": {
            "long_name": "where land without a coarse state of its own took one from",
            "flag_values": np.arange(3, dtype=np.uint8),
            "flag_meanings": FILLED_MEANINGS,
            "cell_methods": "time: point",
        },
    }


def _of_class(name: str) -> dict[str, str]:
    return {
        "standard_name": "area_fraction",
        "long_name": f"probability that the land of the cell is {name}, given the coarse totals",
        "units": "1",
        "cell_methods": "time: point",
    }


def _coarse_attributes(legend: Sequence[str]) -> dict[str, dict[str, str]]:
    names = " ".join(legend)
    shared = {"units": "1", "class_names": names}
    return {
        "target": {
            "standard_name": "area_fraction",
            "long_name": "total of each class that the fine fractions meet, as a fraction of the coarse cell's land",
            **shared,
        },
        "residual": {"long_name": "mean of the fine fractions less the target", **shared},
        "unplaced": {
            "standard_name": "cell_area",
            "long_name": "area of the host's land of each class where the emulator has no land",
            "units": "m2",
            "class_names": names,
        },
    }
