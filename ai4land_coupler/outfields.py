"""What the output of a year holds, in whatever format: names, CF attributes, and the tiles on their way to rank 0."""

from __future__ import annotations

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import CouplerError, OutputError
from ai4land_coupler.grids import EARTH_RADIUS, RegularGrid
from ai4land_coupler.tiles import Tile

if TYPE_CHECKING:
    from ai4land_coupler.comm import Communicator
    from ai4land_coupler.emulator import Emulator


@dataclass(frozen=True)
class Canvas:
    """What output has to know of an emulator: tile is the side of its tiles in fine cells."""

    name: str
    legend: tuple[str, ...]
    fine: RegularGrid
    coarse: RegularGrid
    tile: int

    @classmethod
    def of(cls, emulator: Emulator | Canvas) -> Canvas:
        """The canvas of an emulator, without its network and static fields."""
        return cls(emulator.name, tuple(emulator.legend), emulator.fine, emulator.coarse, emulator.tile)


TIME_ATTRIBUTES = {
    "standard_name": "time",
    "long_name": "start of the year",
    "units": "days since 1850-01-01 00:00:00",
    "calendar": "noleap",
    "axis": "T",
}
FILLED_MEANINGS = "no nearest_coarse_state base_map"
MAPS = ("class", "filled")


class OpenYear(Protocol):
    """A year that is being written, on rank 0."""

    def put(self, tile: Tile, fields: Mapping[str, NDArray[Any]]) -> None:
        """Take the fields of one tile, in ascending index."""

    def finish(self, coarse: Mapping[str, NDArray[np.float64]]) -> None:
        """Take what lies on the coarse grid, bring everything to disk, and show the year to readers."""

    def discard(self) -> None:
        """Remove what was not finished; nothing where it was."""


@dataclass(frozen=True)
class Writer(ABC):
    """Writes the years of a run into a folder, whatever the format.

    provenance becomes global attributes; compression is zlib's level, 0 for none; fractions says which years hold the
    fraction of every class on the fine grid beside the class map; change: the coarse fields hold "cut" too.
    """

    folder: Path
    emulator: Emulator | Canvas
    provenance: Mapping[str, str]
    compression: int = 1
    fractions: Literal["none", "all"] | tuple[int, ...] = "none"
    change: bool = False

    kind: ClassVar[str] = "yearly files"
    """What it leaves, for the log."""

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

    @abstractmethod
    def path(self, year: int) -> Path:
        """Where that year is put."""

    @abstractmethod
    def open(self, year: int, tiles: Sequence[Tile], held: str) -> OpenYear:
        """Begin a year on rank 0."""

    def write(
        self,
        comm: Communicator,
        year: int,
        tiles: Sequence[Tile],
        owner: Sequence[int] | NDArray[np.integer],
        local: Callable[[Tile], Mapping[str, NDArray[Any]]],
        coarse: Mapping[str, NDArray[np.float64]],
        held: str = "",
        begin: Callable[[int, Sequence[Tile], str], OpenYear] | None = None,
    ) -> Path:
        """Write one year and return its path. Collective; raises OutputError on every rank or on none.

        tiles: those with delivered cells, in ascending index, all of one size; owner: the rank that holds each;
        local(tile), called on that rank only: "class" and "filled" (size, size) uint8, 0 off delivered land, and where
        `has_fractions(year)` one (size, size) float64 for each class of the legend, NaN off delivered land.
        coarse: "target", "residual", "unplaced" and, with `change`, "cut" (K, nlat, nlon) float64 on the coarse grid,
        NaN where there is none, needed on rank 0 only. held: why the fields are those of an earlier year, which the
        output then says.
        begin: what begins the year on rank 0, in place of `open`.
        Rank 0 holds one tile at a time; what fails there or elsewhere is raised after every tile was passed on.
        """
        names = MAPS + (self.emulator.legend if self.has_fractions(year) else ())
        spare = comm.together(lambda: blank(tiles[0], names) if tiles else {})
        attempt = _Attempt(self.path(year))
        file = attempt(begin or self.open, year, tiles, held) if comm.rank == 0 else None
        try:
            for tile, rank in zip(tiles, owner, strict=True):
                if comm.rank == rank:
                    fields = attempt(_of_tile, local, tile, names) or spare
                    if rank != 0:
                        for tag, name in enumerate(names):
                            comm.send(fields[name], 0, tag)
                elif comm.rank == 0:
                    fields = spare
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
            failed = error if isinstance(error, CouplerError) else OutputError(explained(self._path, error))
            self.failure = (int(failed.status), str(failed))
            return None


def explained(path: Path, error: Exception) -> str:
    """What a user reads of an error in writing `path`."""
    if isinstance(error, CouplerError):
        return str(error)
    text = f"{path} could not be written: {str(error) or type(error).__name__}"
    with suppress(OSError):
        text += f"; {shutil.disk_usage(path.parent).free / 2**20:.0f} MiB are free on that disk"
    return f"{text}; make room or choose another output.folder. Files of earlier years are whole"


def _of_tile(
    local: Callable[[Tile], Mapping[str, NDArray[Any]]], tile: Tile, names: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """What `local` has of a tile, in the shapes and dtypes that are sent and written."""
    given, fields = local(tile), blank(tile, names)
    for name, field in fields.items():
        if given[name].shape != field.shape or given[name].dtype != field.dtype:
            raise OutputError(
                f"{name} of tile {tile.index}: {field.dtype} {field.shape} is expected, "
                f"got {given[name].dtype} {given[name].shape}"
            )
        fields[name] = np.ascontiguousarray(given[name])
    return fields


def blank(tile: Tile, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    shape = (tile.size, tile.size)
    return {name: np.zeros(shape, np.uint8) if name in MAPS else np.full(shape, np.nan) for name in names}


def axes(grid: RegularGrid) -> dict[str, tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
    """Name, centres and edges in degrees of the axes of a grid, {"Y": ..., "X": ...}."""
    return {"Y": ("lat", grid.lat, grid.lat_edges), "X": ("lon", grid.lon, grid.lon_edges)}


def axis_attributes(axis: str, bounds: str) -> dict[str, str]:
    """Of the coordinate of an axis, "Y" or "X", whose cells' edges the variable `bounds` has."""
    long = {"Y": "latitude", "X": "longitude"}[axis]
    units = {"Y": "degrees_north", "X": "degrees_east"}[axis]
    about = {"standard_name": long, "long_name": f"{long} of the cell centre", "axis": axis, "bounds": bounds}
    return {**about, "units": units}


def days(year: int) -> float:
    """The start of a year on the time axis."""
    return (year - 1850) * 365.0


def global_attributes(writer: Writer, title: str) -> dict[str, Any]:
    """Of a file or store, provenance included."""
    written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    about = {
        "Conventions": "CF-1.11",
        "title": title,
        "source": f"ai4land_coupler, emulator {writer.emulator.name}",
        "history": f"{written} written by ai4land_coupler",
        "comment": f"areas refer to a sphere of radius {EARTH_RADIUS:.0f} m; fractions are fractions of land",
    }
    return about | {name: value for name, value in writer.provenance.items() if value}


def map_attributes(legend: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Of the two maps, MAPS."""
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


def class_attributes(name: str) -> dict[str, str]:
    """Of the fine fractions of a class."""
    return {
        "standard_name": "area_fraction",
        "long_name": f"probability that the land of the cell is {name}, given the coarse totals",
        "units": "1",
        "cell_methods": "time: point",
    }


def coarse_attributes(legend: Sequence[str], change: bool) -> dict[str, dict[str, str]]:
    """Of what lies on the coarse grid, in `change` mode or another."""
    names = " ".join(legend)
    shared = {"units": "1", "class_names": names}
    of_all = {
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
    cut = {
        "long_name": "area of the change of each class that was asked for and not made, the base map having too little",
        "units": "m2",
        "class_names": names,
    }
    return of_all | ({"cut": cut} if change else {})
