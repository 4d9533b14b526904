"""The years of a run in one zarr store, `ai4land.zarr`, to which each year is appended; the only writer with zarr.

Time runs as the run does: a run with `time: backward` has its years in descending order. What is beyond the length
that the store's consolidated metadata state does not exist for readers; a year becomes visible with the one rename
that puts these metadata in place, after all its chunks are on disk.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from ai4land_coupler.errors import OutputError
from ai4land_coupler.outfields import (
    MAPS,
    TIME_ATTRIBUTES,
    OpenYear,
    Writer,
    axes,
    axis_attributes,
    class_attributes,
    coarse_attributes,
    days,
    global_attributes,
    map_attributes,
)
from ai4land_coupler.tiles import Tile

STORE = "ai4land.zarr"
ALONG_TIME: dict[str, dict[str, Any]] = {
    "time": TIME_ATTRIBUTES,
    "year": {"long_name": "calendar year", "units": "1"},
    "held": {"long_name": "whether the fields are those of an earlier year, for the reason in report.json",
             "flag_values": [0, 1], "flag_meanings": "no yes"},
}  # fmt: skip
"""What has one value a year."""
KINDS = {"time": "f8", "year": "i4", "held": "u1"}
YEARS_A_CHUNK = 1024
ON_FINE, ON_COARSE = ("time", "lat", "lon"), ("time", "class", "coarse_lat", "coarse_lon")


@dataclass(frozen=True)
class ZarrWriter(Writer):
    """Appends years to `ai4land.zarr` in a folder; backward says which way the years go.

    A fine field is one file for each row of tiles, whose chunks are the tiles; rank 0 holds one such row at a time.
    """

    backward: bool = False

    kind: ClassVar[str] = "zarr store"

    def path(self, year: int) -> Path:
        """The store, of whatever year."""
        return self.folder / STORE

    def open(self, year: int, tiles: Sequence[Tile], held: str) -> OpenYear:
        """Begin a year behind those before it; of a store that went further the years from it on are taken out."""
        size = tiles[0].size if tiles else self.emulator.tile
        return _StoredYear(self, year, size, bool(held))


def stored_years(store: Path) -> tuple[int, ...]:
    """The years of a store in the order of its time axis. Raises OutputError where it is not one."""
    try:
        return tuple(int(year) for year in np.asarray(_opened(store, "r")["year"][:]))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise OutputError(f"{store}: a store written by ai4land_coupler is expected, got: {error}") from error


def read_year(store: Path, year: int, names: Sequence[str]) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """Fields of a year by name, and the legend. Raises OutputError for a store or a year that is not there."""
    years = stored_years(store)
    if year not in years:
        raise OutputError(f"{store} has no year {year}; it has {min(years, default=0)}..{max(years, default=0)}")
    group = _opened(store, "r")
    legend = tuple(group["class"].attrs["flag_meanings"].split()[1:])
    return {name: np.asarray(group[name][years.index(year)]) for name in names}, legend


class _StoredYear:
    """A year while it is written beyond the length that readers see."""

    def __init__(self, writer: ZarrWriter, year: int, size: int, held: bool) -> None:
        self._writer, self._year, self._size, self._held = writer, year, size, held
        self._store = writer.path(year)
        if not self._store.exists():
            _create(writer, size, self._store)
        _refuse_another(writer, size, self._store)
        self._at = _years_before(self._store, year, writer.backward)
        if self._at < len(stored_years(self._store)):
            _set_length(self._store, self._at, {})
        names = (
            *MAPS,
            *(writer.emulator.legend if writer.has_fractions(year) else ()),
            *coarse_attributes((), writer.change),
        )
        for name in names:
            shutil.rmtree(self._store / name / "c" / str(self._at), ignore_errors=True)
        group = _opened(self._store, "r+")
        self._arrays = {name: _longer(group[name], self._at + 1) for name in (*ALONG_TIME, *names)}
        self._names = names
        self._band: dict[str, NDArray[Any]] = {}
        self._row0 = -1
        self._done = False

    def put(self, tile: Tile, fields: Mapping[str, NDArray[Any]]) -> None:
        """Keep a row of tiles until it is whole."""
        if tile.row0 != self._row0:
            self._flush()
            self._row0, shape = tile.row0, (self._size, self._writer.emulator.fine.nlon)
            self._band = {name: np.full(shape, 0 if name in MAPS else np.nan, field.dtype)
                          for name, field in fields.items()}  # fmt: skip
        for name, values in fields.items():
            self._band[name][:, tile.cols] = values

    def finish(self, coarse: Mapping[str, NDArray[np.float64]]) -> None:
        """Write what is left, bring the year to disk and show it."""
        self._flush()
        with _quietly():
            for name, values in coarse.items():
                self._arrays[name][self._at] = values
            for name, value in (("time", days(self._year)), ("year", self._year), ("held", self._held)):
                self._arrays[name][self._at] = value
        for folder in (*(Path(name) / "c" / str(self._at) for name in self._names), *map(Path, ALONG_TIME)):
            _to_disk(self._store / folder)
        _set_length(self._store, self._at + 1, dict(self._writer.provenance))
        self._done = True

    def discard(self) -> None:
        """Remove the chunks of a year that was not finished."""
        self._band = {}
        if not self._done:
            for name in self._names:
                shutil.rmtree(self._store / name / "c" / str(self._at), ignore_errors=True)

    def _flush(self) -> None:
        with _quietly():
            for name, band in self._band.items():
                self._arrays[name][self._at, self._row0 : self._row0 + self._size] = band
        self._band = {}


def _create(writer: ZarrWriter, size: int, store: Path) -> None:
    """A store without years, made aside."""
    aside = store.with_name(store.name + ".new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()  # and no folder above it, which would hide that the earlier years are gone
    with _quietly():
        group = zarr.create_group(aside, zarr_format=3)
        group.attrs.update(_plain(global_attributes(writer, "Land use downscaled from a coarse state, a map a year")))
        _create_axes(group, writer)
        _create_fields(group, writer, size)
        zarr.consolidate_metadata(aside)
    aside.rename(store)


def _create_axes(group: Any, writer: ZarrWriter) -> None:
    for name, notes in ALONG_TIME.items():
        _array(group, writer, name, KINDS[name], ("time",), (0,), notes, chunks=(YEARS_A_CHUNK,))
    for prefix, grid in (("", writer.emulator.fine), ("coarse_", writer.emulator.coarse)):
        for axis, (name, centre, edges) in axes(grid).items():
            bounds, notes = f"{prefix}{name}_bnds", axis_attributes(axis, f"{prefix}{name}_bnds")
            _array(group, writer, prefix + name, "f8", (prefix + name,), centre.shape, notes)[:] = centre
            pairs = np.stack([edges[:-1], edges[1:]], axis=1)
            _array(group, writer, bounds, "f8", (prefix + name, "bnds"), pairs.shape, {})[:] = pairs


def _create_fields(group: Any, writer: ZarrWriter, size: int) -> None:
    emulator, of_year = writer.emulator, {"coordinates": "year held"}
    fine, coarse, legend = emulator.fine, emulator.coarse, emulator.legend
    shape, tiles = (0, fine.nlat, fine.nlon), {"chunks": (1, size, size), "shards": (1, size, fine.nlon)}
    for name, notes in map_attributes(legend).items():
        _array(group, writer, name, "u1", ON_FINE, shape, {**notes, **of_year}, **tiles)
    for name in legend if writer.fractions != "none" else ():
        _array(group, writer, name, "f8", ON_FINE, shape, {**class_attributes(name), **of_year}, **tiles)
    for name, notes in coarse_attributes(legend, writer.change).items():
        sizes = (len(legend), coarse.nlat, coarse.nlon)
        _array(group, writer, name, "f8", ON_COARSE, (0, *sizes), {**notes, **of_year}, chunks=(1, *sizes))


def _array(
    group: Any,
    writer: ZarrWriter,
    name: str,
    kind: str,
    dims: Sequence[str],
    shape: Sequence[int],
    notes: Mapping[str, Any],
    **options: Any,
) -> Any:
    return group.create_array(
        name, shape=shape, dtype=kind, dimension_names=dims, attributes=_plain(notes),
        fill_value=np.nan if kind == "f8" else 0,
        compressors=ZstdCodec(level=writer.compression) if writer.compression else None, **options,
    )  # fmt: skip


def _refuse_another(writer: ZarrWriter, size: int, store: Path) -> None:
    """OutputError where the store is of another emulator, of other tiles, or has no room for fractions."""
    try:
        group = _opened(store, "r")
        theirs = {
            "emulator": str(group.attrs.get("emulator_hash", "")),
            "classes": str(group["class"].attrs["flag_meanings"]),
            "fine grid and tile": f"{group['class'].shape[1:]} in {group['class'].chunks[1:]}",
        }
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise OutputError(f"{store} is there already and is no store of ai4land_coupler: {error}") from error
    fine = writer.emulator.fine
    ours = {
        "emulator": writer.provenance.get("emulator_hash", ""),
        "classes": " ".join(("none", *writer.emulator.legend)),
        "fine grid and tile": f"{(fine.nlat, fine.nlon)} in {(size, size)}",
    }
    for what in ours:
        if ours[what] != theirs[what]:
            raise OutputError(
                f"{store} is of another {what}: it has {theirs[what]}, this run has {ours[what]}; "
                "choose another output.folder"
            )
    if writer.fractions != "none" and writer.emulator.legend[0] not in group:
        raise OutputError(
            f"{store} was made with output.fractions: none, this run has {writer.fractions}; choose another folder"
        )


def _years_before(store: Path, year: int, backward: bool) -> int:
    """How many of the store's first years come before a year; OutputError where the store goes the other way."""
    years = stored_years(store)
    sign = -1 if backward else 1
    if any(sign * (late - early) <= 0 for early, late in itertools.pairwise(years)):
        way = "backward" if backward else "forward"
        raise OutputError(
            f"{store} goes from {years[0]} to {years[-1]}, this run has time: {way}; choose another output.folder"
        )
    return sum(sign * early < sign * year for early in years)


def _opened(store: Path, mode: Any) -> Any:
    with _quietly():
        return zarr.open_group(store, mode=mode, use_consolidated=True)


def _longer(array: Any, length: int) -> Any:
    """The array with room for `length` years, which only the one who holds it knows of."""
    metadata = array.metadata.update_shape((length, *array.shape[1:]))
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=array.store_path))


def _set_length(store: Path, length: int, attributes: Mapping[str, Any]) -> None:
    """Make the time axis of all arrays that long, for readers of one array and, at one stroke, for those of all.

    A store that shrinks does so for the latter first; its chunks beyond go last.
    """
    root = store / "zarr.json"
    tree = json.loads(root.read_text(encoding="utf-8"))
    tree["attributes"].update(_plain(attributes))
    along = {name: node for name, node in tree["consolidated_metadata"]["metadata"].items()
             if node.get("dimension_names", [None])[0] == "time"}  # fmt: skip
    before = along["time"]["shape"][0]
    for node in along.values():
        node["shape"][0] = length
    if length < before:
        _replace(root, tree)
    for name, node in along.items():
        _replace(store / name / "zarr.json", node)
    if length >= before:
        _replace(root, tree)
    for name in along.keys() - ALONG_TIME.keys():
        for chunks in (store / name / "c").glob("*"):
            if int(chunks.name) >= length:
                shutil.rmtree(chunks, ignore_errors=True)


def _replace(path: Path, tree: Mapping[str, Any]) -> None:
    aside = path.with_name(path.name + ".part")
    try:
        with aside.open("w", encoding="utf-8") as file:
            json.dump(tree, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def _to_disk(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as JSON has them."""
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in attributes.items()}


@contextmanager
def _quietly() -> Iterator[None]:
    """One thread of zarr's own; without its warning that other readers may not know consolidated metadata."""
    with warnings.catch_warnings(), zarr.config.set({"threading.max_workers": 1, "async.concurrency": 1}):
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        yield
