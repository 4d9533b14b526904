"""The yearly netCDF files, written by rank 0 tile after tile, and report.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import OutputError
from ai4land_coupler.outfields import (
    MAPS,
    TIME_ATTRIBUTES,
    OpenYear,
    Writer,
    axes,
    axis_attributes,
    blank,
    class_attributes,
    coarse_attributes,
    days,
    global_attributes,
    map_attributes,
)
from ai4land_coupler.tiles import Tile, all_tiles

if TYPE_CHECKING:
    from ai4land_coupler.emulator import Emulator
    from ai4land_coupler.outfields import Canvas


class YearWriter(Writer):
    """Writes `ai4land_YYYY.nc` into a folder, one file a year."""

    def path(self, year: int) -> Path:
        """Where the file of that year is put."""
        return self.folder / f"ai4land_{year:04d}.nc"

    def open(self, year: int, tiles: Sequence[Tile], held: str) -> OpenYear:
        """Begin the file of a year."""
        return _YearFile(self, year, tiles, held)


class _YearFile:
    """The file of one year while it is written beside its final name."""

    def __init__(self, writer: YearWriter, year: int, tiles: Sequence[Tile], held: str) -> None:
        self._path = writer.path(year)
        self._aside = self._path.with_name(self._path.name + ".part")
        size = tiles[0].size if tiles else writer.emulator.tile
        emulator, names = writer.emulator, writer.emulator.legend
        self._nc: netCDF4.Dataset | None = netCDF4.Dataset(self._aside, "w", format="NETCDF4")
        try:
            self._nc.setncatts(
                global_attributes(writer, f"Land use at the start of {year}, downscaled from a coarse state")
                | ({"held": held} if held else {})
            )
            _create_axes(self._nc, emulator, year)
            packed = {"zlib": writer.compression > 0, "complevel": writer.compression}
            on_fine = {**packed, "chunksizes": (1, size, size)}
            for name, attributes in map_attributes(names).items():
                _create(self._nc, name, "u1", ("time", "lat", "lon"), attributes, fill_value=False, **on_fine)
            for name in names if writer.has_fractions(year) else ():
                _create(
                    self._nc, name, "f8", ("time", "lat", "lon"), class_attributes(name), fill_value=np.nan, **on_fine
                )
            for name, attributes in coarse_attributes(names, writer.change).items():
                dims = ("class", "coarse_lat", "coarse_lon")
                _create(self._nc, name, "f8", dims, attributes, fill_value=np.nan, **packed)
            self._blank_maps(emulator, size, {tile.index for tile in tiles})
        except BaseException:
            self.discard()
            raise

    def _blank_maps(self, emulator: Emulator | Canvas, size: int, active: set[int]) -> None:
        """Write 0 where no tile will come: the maps have no fill value, so that readers keep their bytes."""
        for tile in all_tiles(emulator.fine, emulator.coarse, size):
            if tile.index not in active:
                self.put(tile, blank(tile, MAPS))

    def put(self, tile: Tile, fields: Mapping[str, NDArray[Any]]) -> None:
        """Write the fields of one tile, each of them one chunk."""
        assert self._nc is not None
        for name, values in fields.items():
            self._nc.variables[name][0, tile.rows, tile.cols] = values

    def finish(self, coarse: Mapping[str, NDArray[np.float64]]) -> None:
        """Write what lies on the coarse grid, bring everything to disk and give the file its name."""
        assert self._nc is not None
        for name, values in coarse.items():
            self._nc.variables[name][...] = values
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


def _create(
    nc: netCDF4.Dataset, name: str, kind: str, dims: tuple[str, ...], attributes: Mapping[str, Any], **options: Any
) -> netCDF4.Variable:
    variable = nc.createVariable(name, kind, dims, **options)
    variable.setncatts(dict(attributes))
    return variable


def _create_axes(nc: netCDF4.Dataset, emulator: Emulator | Canvas, year: int) -> None:
    """Dimensions and coordinate variables: time, the fine and the coarse grid with their bounds."""
    nc.createDimension("time", None)
    nc.createDimension("class", len(emulator.legend))
    nc.createDimension("bnds", 2)
    _create(nc, "time", "f8", ("time",), TIME_ATTRIBUTES)[:] = [days(year)]
    for prefix, grid in (("", emulator.fine), ("coarse_", emulator.coarse)):
        for axis, (name, centre, edges) in axes(grid).items():
            nc.createDimension(prefix + name, centre.size)
            bounds = f"{prefix}{name}_bnds"
            about = axis_attributes(axis, bounds)
            _create(nc, prefix + name, "f8", (prefix + name,), about)[:] = centre
            _create(nc, bounds, "f8", (prefix + name, "bnds"), {})[:] = np.stack([edges[:-1], edges[1:]], axis=1)
