"""`ai4land prepare`: class maps, coarse states, static fields and a climate map of users' files into a training store.

Maps and fields are read and written band by band, so memory depends on the length of a row, never on the globe; what a
broken-off run has written is kept, where the configuration and the files are what they were.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ai4land_coupler.config import Section, validated
from ai4land_coupler.console import progress
from ai4land_coupler.errors import BadInputError, ConfigError, GridError
from ai4land_coupler.features import Channel, signed_root
from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.training.data import luh
from ai4land_coupler.training.data.legends import Legend
from ai4land_coupler.training.data.rasters import Classes, Values, commonest, raster
from ai4land_coupler.training.data.store import Block, Layout, Store, StoreWriter

log = logging.getLogger("ai4land_coupler")

Years = tuple[int, ...]
TRANSFORMS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "none": lambda x: x,
    "root": signed_root,
    "log1p": lambda x: np.sign(x) * np.log1p(np.abs(x)),
    "cos": lambda x: np.cos(np.radians(x)),
}
SAMPLED_ROWS, SAMPLED_BAND = 1024, 64
"""Rows from which the mean and the spread of a static field are taken, in bands evenly over the window."""


class GridConfig(Section):
    """The fine grid, its coarse cells of ratio x ratio, and the window [west, east, south, north] in degrees."""

    nlat: Annotated[int, Field(ge=2)]
    nlon: Annotated[int, Field(ge=2)]
    ratio: Annotated[int, Field(ge=1)] | None = None
    region: tuple[float, float, float, float] | None = None


class MapsConfig(Section):
    """Class maps: one file of several years, or a file a year with {year} in its name; GeoTIFF or netCDF."""

    file: str
    legend: str
    years: Annotated[Years, Field(min_length=1)]
    variable: str | None = None


class StatesConfig(Section):
    """Coarse states: LUH2's or LUH3's file, with its static one; or others, whose names are given."""

    file: Path
    static: Path | None = None
    names: tuple[str, ...] = ()
    fraction_of: Literal["cell", "land"] = "cell"
    years: Years | None = None


class StaticConfig(Section):
    """A static field: `missing` is what cells without a value count as."""

    name: str
    file: Path
    variable: str | None = None
    transform: Literal["none", "root", "log1p", "cos"] = "none"
    missing: float | None = None


class ClimateConfig(Section):
    """A map of climate classes 1..classes, 0 none."""

    file: Path
    classes: Annotated[int, Field(ge=1, le=254)]
    variable: str | None = None


class PrepareConfig(Section):
    """What goes into a store."""

    store: Path
    grid: GridConfig
    maps: MapsConfig
    states: StatesConfig | None = None
    statics: tuple[StaticConfig, ...] = ()
    climate: ClimateConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> PrepareConfig:
        if self.grid.ratio is None and self.states is None:
            raise ValueError("give `grid.ratio`, the fine cells an edge of a coarse cell; only states tell it too")
        for years in (self.maps.years, self.states.years if self.states else None):
            if years is not None and list(years) != sorted(set(years)):
                raise ValueError(f"years must rise, each once, got {list(years)}")
        return self

    @classmethod
    def load(cls, path: Path) -> PrepareConfig:
        """Read a YAML file; relative paths refer to its folder. ConfigError names a wrong key and the nearest one."""
        try:
            tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
            raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
        if not isinstance(tree, dict):
            raise ConfigError(f"{path} must be a mapping with store, grid and maps, got {type(tree).__name__}")
        return validated(cls, _absolute(_spans(tree), path.resolve().parent), str(path))


def _spans(tree: Any) -> Any:
    """The same tree with years as `1960-1990` or a list of such written out."""
    if not isinstance(tree, dict):
        return tree
    return {key: _years(value) if key == "years" else _spans(value) for key, value in tree.items()}


def _years(value: Any) -> Any:
    try:
        if isinstance(value, str):
            first, _, last = value.partition("-")
            return list(range(int(first), int(last or first) + 1))
        if isinstance(value, list):
            return [year for part in value for year in (_years(part) if isinstance(part, str) else [part])]
    except ValueError:
        pass
    return value


def _absolute(tree: Any, folder: Path) -> Any:
    if isinstance(tree, list):
        return [_absolute(part, folder) for part in tree]
    if not isinstance(tree, dict):
        return tree
    out = {key: _absolute(value, folder) for key, value in tree.items()}
    for key in ("file", "static", "store"):
        if isinstance(out.get(key), str):
            out[key] = str(folder / out[key])
    legend = out.get("legend")
    if isinstance(legend, str) and ("/" in legend or legend.endswith((".yaml", ".yml"))):
        out["legend"] = str(folder / legend)
    return out


@dataclass(frozen=True, eq=False)
class Preparation:
    """A configuration with its files found: what `run` writes."""

    config: PrepareConfig

    @cached_property
    def fine(self) -> RegularGrid:
        """The global fine grid."""
        return RegularGrid(self.config.grid.nlat, self.config.grid.nlon)

    @cached_property
    def coarse(self) -> RegularGrid:
        """The global coarse grid, in which the fine one nests; GridError says which would."""
        grid, states = self.config.grid, self.config.states
        if grid.ratio is not None:
            if grid.nlat % grid.ratio or grid.nlon % grid.ratio:
                nest = [n for n in range(1, 129) if grid.nlat % n == grid.nlon % n == 0]
                raise GridError(
                    f"{grid.nlat} x {grid.nlon} fine cells do not nest in coarse cells of {grid.ratio} x {grid.ratio}; "
                    f"these ratios do: {', '.join(map(str, nest))}"
                )
            return RegularGrid(grid.nlat // grid.ratio, grid.nlon // grid.ratio)
        assert states is not None  # the configuration has been checked
        coarse = luh.grid_of(states.file, states.names)
        try:
            coarse.ratio_to(self.fine)
        except GridError as error:
            fit = ", ".join(f"{coarse.nlat * n} x {coarse.nlon * n}" for n in (5, 10, 25))
            raise GridError(f"{states.file}: {error}; fine grids that do: any multiple, as {fit}") from error
        return coarse

    @cached_property
    def window(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Coarse rows and columns of the region, which is widened to whole coarse cells."""
        region, coarse = self.config.grid.region, self.coarse
        if region is None:
            return np.arange(coarse.nlat), np.arange(coarse.nlon)
        west, east, south, north = region
        if not (-90 <= south < north <= 90 and west < east <= west + 360):
            raise ConfigError(f"grid.region: expected [west, east, south, north] in degrees, got {list(region)}")
        step, eps = 180.0 / coarse.nlat, 1e-9
        rows = np.arange(int(np.floor((south + 90) / step + eps)), int(np.ceil((north + 90) / step - eps)))
        step = 360.0 / coarse.nlon
        cols = np.arange(int(np.floor((west + 180) / step + eps)), int(np.ceil((east + 180) / step - eps)))
        return rows, cols[: coarse.nlon] % coarse.nlon

    @cached_property
    def cells(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Fine rows and columns of the window."""
        ratio = self.coarse.ratio_to(self.fine)
        rows, cols = ((part[:, None] * ratio + np.arange(ratio)).ravel() for part in self.window)
        return rows, cols

    @cached_property
    def legend(self) -> Legend:
        """From the codes of the maps to the store's classes."""
        return Legend.load(self.config.maps.legend)

    @cached_property
    def states(self) -> luh.StateFile | None:
        """The states' file, where there is one."""
        part = self.config.states
        if part is None:
            return None
        found = luh.StateFile.open(part.file, self.coarse, *self.window, part.static, part.names, part.fraction_of)
        missing = sorted(set(part.years or ()) - set(found.years))
        if missing:
            raise BadInputError(
                f"{part.file} has no states of {missing}; it has {min(found.years)}..{max(found.years)}"
            )
        return found

    @property
    def state_years(self) -> Years:
        """Years of the states that are put in: those asked for, or of the maps, where the file has them."""
        if self.states is None or self.config.states is None:
            return ()
        return self.config.states.years or tuple(year for year in self.config.maps.years if year in self.states.years)

    def map_of(self, year: int) -> Classes:
        """The class map of a year."""
        maps = self.config.maps
        path = Path(maps.file.replace("{year}", str(year)))
        return Classes.of(raster(path, maps.variable, year), self.fine, *self.cells)

    def classes(self, source: Classes, rows: slice) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
        """Classes of rows of the window, part by part."""
        for part, codes in source.bands(rows.start, rows.stop):
            yield part, commonest(self.legend.of(codes, source.raster.name))

    def climate(self, rows: slice) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
        """Climate classes of rows of the window, part by part."""
        part = self.config.climate
        assert part is not None  # asked for where there is one
        source = Classes.of(raster(part.file, part.variable), self.fine, *self.cells, coarser=True)
        legend = Legend.plain(tuple(map(str, range(1, part.classes + 1))))
        for band, codes in source.bands(rows.start, rows.stop):
            yield band, commonest(legend.of(codes, source.raster.name), over_none=True)

    def field(self, part: StaticConfig) -> Callable[[slice], NDArray[np.float64]]:
        """A static field of rows of the window, transformed."""
        source = Values.of(raster(part.file, part.variable), self.fine, *self.cells, part.missing)
        return lambda rows: TRANSFORMS[part.transform](source.band(rows).astype(np.float64))

    def layout(self, channels: tuple[Channel, ...]) -> Layout:
        """What the store is of."""
        rows, cols = self.cells
        return Layout(
            legend=self.legend.classes, shape=(rows.size, cols.size), ratio=self.coarse.ratio_to(self.fine),
            years=self.config.maps.years, nlat=self.fine.nlat, nlon=self.fine.nlon, row0=int(rows[0]),
            col0=int(cols[0]), state_legend=self.states.names if self.states and self.state_years else (),
            state_years=self.state_years, channels=channels,
            climate_classes=self.config.climate.classes if self.config.climate else 0,
        )  # fmt: skip


def run(path: Path) -> Store:
    """Make or complete the store that a configuration describes."""
    start, config = time.monotonic(), PrepareConfig.load(path)
    work = Preparation(config)
    source = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    first = work.map_of(config.maps.years[0])
    log.info("%s: %s", first.raster.name, first.how)
    writer = StoreWriter(config.store, work.layout(_channels(work, first)), source, inputs(config))
    _write_classes(work, writer)
    _write_bands(writer, "climate", work.climate if config.climate else None)
    _write_statics(work, writer)
    _write_states(work, writer)
    writer.refuse_changed(inputs(config))
    writer.finish()
    store = Store.open(config.store)
    ny, nx = store.shape
    log.info("%s: %d x %d cells, %d years, in %.0f s", config.store, ny, nx, len(store.years), time.monotonic() - start)
    return store


def inputs(config: PrepareConfig) -> dict[str, tuple[int, int]]:
    """Size in bytes and time of change in ns of each file that is there of those a store is made from."""
    states, climate, legend = config.states, config.climate, config.maps.legend
    paths = [
        *(Path(config.maps.file.replace("{year}", str(year))) for year in config.maps.years),
        *((path for path in (states.file, states.static) if path) if states else ()),
        *(part.file for part in config.statics),
        *((climate.file,) if climate else ()),
        *((Path(legend),) if legend.endswith((".yaml", ".yml")) else ()),
    ]
    found = {str(path): path.stat() for path in paths if path.exists()}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def _channels(work: Preparation, first: Classes) -> tuple[Channel, ...]:
    """The static channels with mean and spread over the land of the first map; from the store where it is begun."""
    parts = work.config.statics
    if not parts:
        return ()
    known = StoreWriter.channels_of(work.config.store)
    if known is not None:
        return known
    area = work.fine.area_rows[work.cells[0]]
    fields = [work.field(part) for part in parts]
    bands = _sample(area.size)
    sums = np.zeros((3, len(parts)))
    with progress("statistics of the static fields", len(bands), True) as done:
        for rows in bands:
            land = np.concatenate([part for _, part in work.classes(first, rows)]) > 0
            weight = np.broadcast_to(area[rows, None], land.shape)[land]
            for i, field in enumerate(fields):
                x = field(rows)[land]
                sums[:, i] += weight.sum(), (weight * x).sum(), (weight * x * x).sum()
            done()
    if not sums[0].all():
        raise BadInputError(f"{first.raster.name}: there is no land in the window")
    mean = sums[1] / sums[0]
    std = np.sqrt(np.maximum(sums[2] / sums[0] - mean * mean, 0.0))
    flat = [part.name for part, s in zip(parts, std, strict=True) if not s > 0]
    if flat:
        raise BadInputError(f"static fields {flat} have one value all over the land of the window; leave them out")
    return tuple(Channel(p.name, float(m), float(s)) for p, m, s in zip(parts, mean, std, strict=True))


def _sample(n: int) -> list[slice]:
    """Bands of rows, evenly over n, that hold SAMPLED_ROWS of them, or all."""
    step = max(1, -(-n // SAMPLED_ROWS)) * SAMPLED_BAND
    return [slice(first, min(first + SAMPLED_BAND, n)) for first in range(0, n, step)]


def _bands(writer: StoreWriter, name: str) -> Iterator[list[Block]]:
    """The blocks of an array by their rows."""
    blocks = writer.blocks(name)
    for start in sorted({block.rows.start for block in blocks}):
        yield [block for block in blocks if block.rows.start == start]


def _write_classes(work: Preparation, writer: StoreWriter) -> None:
    bands, years = list(_bands(writer, "class")), work.config.maps.years
    with progress("class maps", len(bands) * len(years), True) as done:
        for t, year in enumerate(years):
            for blocks in bands:
                if not all(writer.written("class", t, block) for block in blocks):
                    source = work.map_of(year)
                    _write(writer, "class", t, blocks, work.classes(source, blocks[0].rows))
                done()


def _write_bands(
    writer: StoreWriter, name: str, read: Callable[[slice], Iterator[tuple[slice, NDArray[np.uint8]]]] | None
) -> None:
    if read is None:
        return
    bands = list(_bands(writer, name))
    with progress(name, len(bands), True) as done:
        for blocks in bands:
            if not all(writer.written(name, 0, block) for block in blocks):
                _write(writer, name, 0, blocks, read(blocks[0].rows))
            done()


def _write(
    writer: StoreWriter,
    name: str,
    t: int,
    blocks: list[Block],
    parts: Iterator[tuple[slice, NDArray[np.uint8]]],
) -> None:
    """Put the parts of a band together and write its blocks."""
    start = blocks[0].rows.start
    band = np.empty((blocks[0].shape[0], blocks[-1].cols.stop), np.uint8)
    for rows, values in parts:
        band[rows.start - start : rows.stop - start] = values
    for block in blocks:
        writer.write(name, t, block, band[:, block.cols])


def _write_statics(work: Preparation, writer: StoreWriter) -> None:
    """Normalise and write the static channels, a few rows of all of them at a time."""
    parts, channels = work.config.statics, writer.layout.channels
    if not parts:
        return
    fields = [work.field(part) for part in parts]
    bands = list(_bands(writer, "static"))
    with progress("static fields", len(bands), True) as done:
        for blocks in bands:
            if not all(writer.written("static", 0, block) for block in blocks):
                _write_static_band(writer, blocks, fields, channels)
            done()


def _write_static_band(
    writer: StoreWriter,
    blocks: list[Block],
    fields: list[Callable[[slice], NDArray[np.float64]]],
    channels: tuple[Channel, ...],
) -> None:
    rows = blocks[0].rows
    band = np.empty((len(fields), blocks[0].shape[0], blocks[-1].cols.stop), np.float16)
    step = max(1, 2**21 // band.shape[2])
    for first in range(rows.start, rows.stop, step):
        part = slice(first, min(first + step, rows.stop))
        for i, (field, channel) in enumerate(zip(fields, channels, strict=True)):
            values = np.clip((field(part) - channel.mean) / channel.std, -30, 30)
            band[i, part.start - rows.start : part.stop - rows.start] = values
    for block in blocks:
        writer.write("static", 0, block, band[:, :, block.cols])


def _write_states(work: Preparation, writer: StoreWriter) -> None:
    states, years = work.states, work.state_years
    if states is None or not years:
        return
    blocks = writer.blocks("state")
    with progress("states", len(years), True) as done:
        for t, year in enumerate(years):
            if not all(writer.written("state", t, block) for block in blocks):
                values = states.read(year)
                for block in blocks:
                    writer.write("state", t, block, values[:, block.rows, block.cols])
            done()
