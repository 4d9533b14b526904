"""The training store: yearly class maps, static fields and coarse states of one area as a zarr v3 group.

class (year, y, x) uint8: 0 none, 1..K in the legend's order. static (C, y, x) float16, normalised. climate (y, x)
uint8: 0 none, 1..n, optional. state (state_year, S, Y, X) float32: fractions of land, NaN for none, optional.
year, state_year, row_area (y,). The fine cells y, x nest in the coarse ones Y, X, `ratio` of them an edge.

Rows run from the south on a latitude-longitude grid, which may be a window of the global one, and as they come on a
projected equal-area grid. Every array is filled with a value that no data have, so that a chunk that was lost is seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from ai4land_coupler.errors import BadInputError, GridError, OutputError
from ai4land_coupler.features import Channel
from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.training.data.chunks import Chunks

FORMAT = 1
CHUNK, STATIC_CHUNK, STATE_CHUNK = 256, 128, 64
BLOCK = 1024  #: edge of what is written at once; and of a shard, in stores of many chunks
STATIC_ROWS = 256  #: rows of such blocks of the static fields, whose channels are written together
MANY = 2**26  #: fine cells from which on chunks go into shards, a file a block
UNWRITTEN = 255  #: class and climate of cells that nobody wrote
NO_STATE_YET = -1.0


@dataclass(frozen=True)
class Layout:
    """What a store is of.

    kind: "latlon", a window at (row0, col0) of the global grid nlat x nlon, or "projected" (equal area), where these
    four are 0. shape: fine rows and columns. climate_classes: 0 where there is no climate.
    """

    legend: tuple[str, ...]
    shape: tuple[int, int]
    ratio: int
    years: tuple[int, ...]
    kind: str = "latlon"
    nlat: int = 0
    nlon: int = 0
    row0: int = 0
    col0: int = 0
    state_legend: tuple[str, ...] = ()
    state_years: tuple[int, ...] = ()
    channels: tuple[Channel, ...] = ()
    climate_classes: int = 0

    def __post_init__(self) -> None:
        ny, nx = self.shape
        latlon = self.kind == "latlon"
        inside = 0 <= self.row0 <= self.nlat - ny and 0 <= self.col0 < max(self.nlon, 1) and nx <= self.nlon
        expected = {
            "kind latlon or projected": latlon or self.kind == "projected",
            f"a window inside the grid {self.nlat} x {self.nlon}": inside or not latlon,
            f"{ny} x {nx} fine cells in whole coarse cells of {self.ratio} x {self.ratio}": self.ratio >= 1
            and min(ny, nx) >= 1
            and (ny % self.ratio, nx % self.ratio, self.row0 % self.ratio, self.col0 % self.ratio) == (0, 0, 0, 0),
            "1 to 254 distinct classes": 1 <= len(set(self.legend)) == len(self.legend) < UNWRITTEN,
            "distinct state classes": len(set(self.state_legend)) == len(self.state_legend),
            "years that rise": _rises(self.years) and _rises(self.state_years),
            "state years with a state legend": bool(self.state_years) == bool(self.state_legend),
            "0 to 254 climate classes": 0 <= self.climate_classes < UNWRITTEN,
        }
        wrong = [what for what, holds in expected.items() if not holds]
        if wrong:
            raise GridError(f"a training store needs {'; '.join(wrong)}; got {self}")

    @property
    def wraps(self) -> bool:
        """Whether the first column is the eastern neighbour of the last."""
        return self.kind == "latlon" and self.shape[1] == self.nlon

    @property
    def coarse_shape(self) -> tuple[int, int]:
        """Coarse rows and columns."""
        return self.shape[0] // self.ratio, self.shape[1] // self.ratio

    def row_area(self) -> NDArray[np.float64]:
        """Area of a fine cell of each row (ny,): m2 on a latitude-longitude grid, 1 on an equal-area one."""
        if self.kind != "latlon":
            return np.ones(self.shape[0])
        return RegularGrid(self.nlat, self.nlon).area_rows[self.row0 : self.row0 + self.shape[0]]

    def attributes(self) -> dict[str, Any]:
        """Attributes of the group."""
        grid: dict[str, Any] = {"kind": self.kind}
        if self.kind == "latlon":
            grid |= {"nlat": self.nlat, "nlon": self.nlon, "row0": self.row0, "col0": self.col0}
        known: dict[str, Any] = {"format": FORMAT, "legend": list(self.legend), "ratio": self.ratio, "grid": grid}
        return known | ({"state_legend": list(self.state_legend)} if self.state_legend else {})


def _rises(years: Sequence[int]) -> bool:
    return all(a < b for a, b in pairwise(years))


@dataclass(frozen=True, eq=False)
class Store:
    """A store to read; use `Store.open`.

    `t` counts `years` (or `state_years`) from 0; rows: a slice within the store; cols: columns within it, in any order,
    fast where they run on, over the date line too; out: where the values go, in place of new memory. Raises
    BadInputError where a chunk is damaged or was lost.
    """

    path: Path
    layout: Layout
    row_area: NDArray[np.float64]
    _arrays: dict[str, Chunks] = field(repr=False)

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Read what a store is of. Raises BadInputError where it is none, of another format, or not complete."""
        path = Path(path)
        group = _opened(path)
        version = group.attrs.get("format")
        if version != FORMAT:
            raise BadInputError(f"{path}: expected a store of format {FORMAT}, got {version}; make it anew")
        if not group.attrs.get("complete"):
            raise BadInputError(f"{path} is not complete: run `ai4land prepare` again, it goes on where it ended")
        try:
            arrays = {name: array for name, array in group.arrays()}
            layout = _layout(dict(group.attrs), arrays)
            area = np.asarray(arrays["row_area"][:], np.float64)
            _refuse_other_shapes(layout, arrays)
        except (OSError, LookupError, TypeError, ValueError, RuntimeError, GridError) as error:
            raise BadInputError(f"{path} is damaged: {error}; make it anew") from error
        coded = {name: Chunks.of(path / name, arrays[name]) for name in _arrays_of(layout)}
        return cls(path, layout, area, coded)

    @property
    def legend(self) -> tuple[str, ...]:
        """Classes 1..K of the maps."""
        return self.layout.legend

    @property
    def state_legend(self) -> tuple[str, ...]:
        """Classes of the coarse states; empty where there are none."""
        return self.layout.state_legend

    @property
    def years(self) -> tuple[int, ...]:
        """Years of the maps."""
        return self.layout.years

    @property
    def state_years(self) -> tuple[int, ...]:
        """Years of the states, which hold at their start."""
        return self.layout.state_years

    @property
    def ratio(self) -> int:
        """Fine cells an edge of a coarse cell."""
        return self.layout.ratio

    @property
    def shape(self) -> tuple[int, int]:
        """Fine rows and columns."""
        return self.layout.shape

    @property
    def wraps(self) -> bool:
        """Whether the columns go round the globe."""
        return self.layout.wraps

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Static channels with the statistics that normalised them."""
        return self.layout.channels

    @property
    def statics(self) -> tuple[str, ...]:
        """Names of the static channels."""
        return tuple(channel.name for channel in self.layout.channels)

    @property
    def climate_classes(self) -> int:
        """Climate classes 1..n; 0 where there is no climate."""
        return self.layout.climate_classes

    def classes(
        self, t: int, rows: slice, cols: NDArray[np.int64], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Classes (nrow, ncol) of a year, 0 none."""
        values = self._read("class", (_index(t, len(self.years)),), rows, cols, out)
        return self._sound("class", values, values.max(initial=0) <= len(self.legend))

    def static(
        self, rows: slice, cols: NDArray[np.int64], out: NDArray[np.float16] | None = None
    ) -> NDArray[np.float16]:
        """Static channels (C, nrow, ncol), normalised."""
        values = self._read("static", (), rows, cols, out)
        return self._sound("static", values, not np.isnan(values[:1]).any())  # a chunk has all channels

    def climate(self, rows: slice, cols: NDArray[np.int64], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Climate classes (nrow, ncol), 0 none."""
        values = self._read("climate", (), rows, cols, out)
        return self._sound("climate", values, values.max(initial=0) <= self.climate_classes)

    def state(
        self, t: int, rows: slice, cols: NDArray[np.int64], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """States (S, nrow, ncol) of a year on coarse rows and columns: fractions of land, NaN where there is none."""
        values = self._read("state", (_index(t, len(self.state_years)),), rows, cols, out)
        return self._sound("state", values, not (values < 0).any())

    def _read(
        self,
        name: str,
        before: tuple[int, ...],
        rows: slice,
        cols: NDArray[np.int64],
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        if name not in self._arrays:
            raise BadInputError(f"{self.path} has no {name}")
        array, cols = self._arrays[name], np.asarray(cols)
        ny, nx = array.shape[-2:]
        if not 0 <= rows.start <= rows.stop <= ny or cols.min(initial=0) < 0 or cols.max(initial=0) >= nx:
            raise IndexError(f"rows {rows} or columns {cols} lie beyond {name} of {ny} x {nx} cells")
        if out is None:
            out = np.empty((*array.shape[len(before) : -2], rows.stop - rows.start, cols.size), array.dtype)
        first = 0
        try:
            for run in runs(cols):
                last = first + run.stop - run.start
                array.read(before, rows, run, out[..., first:last])
                first = last
        except Exception as error:  # whatever a codec raises
            raise BadInputError(f"{self.path}: {name} {rows} cannot be read: {error}; make it anew") from error
        return out

    def _sound(self, name: str, values: NDArray[Any], sound: bool) -> NDArray[Any]:
        if not sound:
            raise BadInputError(f"{self.path}: {name} holds values that no store has, a chunk was lost; make it anew")
        return values


def _index(t: int, n: int) -> int:
    if not 0 <= t < n:
        raise IndexError(f"year {t} of {n}, counted from 0")
    return t


def runs(cols: NDArray[np.int64]) -> Iterator[slice]:
    """Slices of columns that run on by 1, in order."""
    breaks = np.flatnonzero(np.diff(cols) != 1) + 1
    for part in np.split(cols, breaks):
        yield slice(int(part[0]), int(part[-1]) + 1) if part.size else slice(0, 0)


def _opened(path: Path) -> Any:
    if not (path / "zarr.json").is_file():
        raise BadInputError(
            f"{path} is no training store: there is no zarr.json in it; make one with `ai4land prepare`"
        )
    try:
        return zarr.open_group(path, mode="r")
    except (OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise BadInputError(f"{path} is damaged: {error}; make it anew") from error


def _layout(attributes: dict[str, Any], arrays: dict[str, Any]) -> Layout:
    grid = attributes["grid"]
    stats: dict[str, Any] = dict(arrays["static"].attrs) if "static" in arrays else {}
    channels = zip(stats.get("names", ()), stats.get("mean", ()), stats.get("std", ()), strict=True)
    return Layout(
        legend=tuple(attributes["legend"]),
        shape=tuple(arrays["class"].shape[1:]),
        ratio=int(attributes["ratio"]),
        years=tuple(int(year) for year in arrays["year"][:]),
        **grid,
        state_legend=tuple(attributes.get("state_legend", ())),
        state_years=tuple(int(year) for year in arrays["state_year"][:]) if "state_year" in arrays else (),
        channels=tuple(Channel(*entry) for entry in channels),
        climate_classes=int(arrays["climate"].attrs["classes"]) if "climate" in arrays else 0,
    )


def _refuse_other_shapes(layout: Layout, arrays: dict[str, Any]) -> None:
    for name, (shape, dtype) in _arrays_of(layout).items():
        if arrays[name].shape != shape or arrays[name].dtype != np.dtype(dtype):
            raise ValueError(f"{name} is {arrays[name].shape} {arrays[name].dtype}, expected {shape} {dtype}")


def _arrays_of(layout: Layout) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of the arrays on cells."""
    arrays: dict[str, tuple[tuple[int, ...], str]] = {"class": ((len(layout.years), *layout.shape), "uint8")}
    if layout.channels:
        arrays["static"] = ((len(layout.channels), *layout.shape), "float16")
    if layout.climate_classes:
        arrays["climate"] = (layout.shape, "uint8")
    if layout.state_years:
        counts = len(layout.state_years), len(layout.state_legend)
        arrays["state"] = ((*counts, *layout.coarse_shape), "float32")
    return arrays


@dataclass(frozen=True)
class Block:
    """Rows and columns that are written at once."""

    rows: slice
    cols: slice

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the block."""
        return self.rows.stop - self.rows.start, self.cols.stop - self.cols.start


class StoreWriter:
    """Writes a store block by block; one that was broken off goes on with the blocks that are not there yet."""

    def __init__(
        self, path: str | Path, layout: Layout, source: str = "", inputs: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        """Make the store, or go on with the one that is there.

        source: text that tells what is put in; inputs: size and time of change of each file that is read. A store
        begun with another text, layout or state of a file is refused with OutputError.
        """
        self.path, self.layout = Path(path), layout
        self._inputs = {name: list(stamp) for name, stamp in (inputs or {}).items()}
        if (self.path / "zarr.json").is_file():
            self._group = zarr.open_group(self.path, mode="r+")
            if dict(self._group.attrs).get("prepared_from") != source or not self._fits():
                raise OutputError(
                    f"{self.path} was made with another configuration; give another folder, or remove this one"
                )
            self.refuse_changed(self._inputs)
            begun: Any = self._group.attrs.get("inputs", {})
            self._group.attrs["inputs"] = self._inputs | begun
        else:
            self._group = self._made(source)

    def refuse_changed(self, inputs: Mapping[str, Sequence[int]]) -> None:
        """Raise OutputError where a file is not as it was when the store was begun; one that is gone is left to who
        reads it."""
        begun: Any = self._group.attrs.get("inputs", {})
        changed = [name for name, stamp in inputs.items() if name in begun and list(stamp) != list(begun[name])]
        if changed:
            raise OutputError(
                f"{self.path} was begun with other contents of {', '.join(changed)}: size or time (ns) of change "
                f"was {list(begun[changed[0]])}, is {list(inputs[changed[0]])}; give another folder, or remove this one"
            )

    @staticmethod
    def channels_of(path: str | Path) -> tuple[Channel, ...] | None:
        """The static channels of a store that is begun; None where there is none, or without statics."""
        if not (Path(path) / "zarr.json").is_file():
            return None
        group = _opened(Path(path))
        try:
            stats = dict(group["static"].attrs)
            return tuple(Channel(*entry) for entry in zip(stats["names"], stats["mean"], stats["std"], strict=True))
        except (LookupError, TypeError, ValueError):
            return None

    def blocks(self, name: str) -> list[Block]:
        """Blocks of "class", "static", "climate" or "state", of BLOCK cells an edge and fewer at the end."""
        ny, nx = self.layout.coarse_shape if name == "state" else self.layout.shape
        high = STATIC_ROWS if name == "static" else BLOCK
        return [
            Block(slice(y, min(y + high, ny)), slice(x, min(x + BLOCK, nx)))
            for y in range(0, ny, high)
            for x in range(0, nx, BLOCK)
        ]

    def written(self, name: str, t: int, block: Block) -> bool:
        """Whether all chunks of a block are in the store; files come whole, or not at all."""
        array = self._array(name)
        edge = array.shards or array.chunks
        before = {"class": (t,), "state": (t, 0), "static": (0,), "climate": ()}[name]
        parts = zip((block.rows, block.cols), edge[-2:], strict=True)
        spans = [range(part.start // n, -(-part.stop // n)) for part, n in parts]
        folder = self.path / name / "c"
        return all(folder.joinpath(*map(str, (*before, y, x))).is_file() for y in spans[0] for x in spans[1])

    def write(self, name: str, t: int, block: Block, values: NDArray[Any]) -> None:
        """Write a block of an array: class, climate (nrow, ncol), static (C, nrow, ncol), state (S, nrow, ncol)."""
        before: tuple[Any, ...] = {
            "class": (t,), "state": (t, slice(None)), "static": (slice(None),), "climate": ()
        }[name]  # fmt: skip
        try:
            self._array(name)[(*before, block.rows, block.cols)] = values
        except OSError as error:
            raise OutputError(f"{self.path}: {name} cannot be written: {error}; make room and run it again") from error

    def finish(self) -> None:
        """Declare the store complete; raises OutputError where a block was not written."""
        for name, (shape, _) in _arrays_of(self.layout).items():
            for t in range(shape[0] if name in ("class", "state") else 1):
                if not all(self.written(name, t, block) for block in self.blocks(name)):
                    raise OutputError(f"{self.path}: blocks of {name} were not written")
        self._group.attrs["complete"] = True

    def _array(self, name: str) -> Any:
        return self._group[name]

    def _fits(self) -> bool:
        try:
            arrays = {name: array for name, array in self._group.arrays()}
            return _layout(dict(self._group.attrs), arrays) == self.layout
        except (LookupError, TypeError, ValueError, GridError):
            return False

    def _made(self, source: str) -> Any:
        layout = self.layout
        try:
            group = zarr.open_group(self.path, mode="w", zarr_format=3)
            group.create_array("row_area", data=layout.row_area())
            for name, years in (("year", layout.years), ("state_year", layout.state_years)):
                if years:
                    group.create_array(name, data=np.asarray(years, np.int32))
            for name, (shape, dtype) in _arrays_of(layout).items():
                array = _create(group, name, shape, dtype, layout.shape)
                if name == "static":
                    stats = layout.channels
                    array.attrs.update(
                        names=[c.name for c in stats], mean=[c.mean for c in stats], std=[c.std for c in stats]
                    )
                if name == "climate":
                    array.attrs["classes"] = layout.climate_classes
            group.attrs.update(layout.attributes() | {"prepared_from": source, "inputs": self._inputs})
        except OSError as error:
            raise OutputError(f"{self.path} cannot be made: {error}") from error
        return group


def _create(group: Any, name: str, shape: tuple[int, ...], dtype: str, fine: tuple[int, int]) -> Any:
    edge = {"static": STATIC_CHUNK, "state": STATE_CHUNK}.get(name, CHUNK)
    before = tuple(1 if i == 0 and name in ("class", "state") else n for i, n in enumerate(shape[:-2]))
    sharded = fine[0] * fine[1] >= MANY and name != "state"
    names = {"class": ["year", "y", "x"], "static": ["channel", "y", "x"], "climate": ["y", "x"]}
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=(*before, edge, edge),
        shards=(*before, STATIC_ROWS if name == "static" else BLOCK, BLOCK) if sharded else None,
        fill_value={"static": float("nan"), "state": NO_STATE_YET}.get(name, UNWRITTEN),
        compressors=BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"),
        dimension_names=names.get(name, ["state_year", "state", "Y", "X"]),
        config={"write_empty_chunks": True},
    )


def write_store(
    path: str | Path,
    layout: Layout,
    classes: NDArray[np.uint8],
    static: NDArray[np.float16] | None = None,
    climate: NDArray[np.uint8] | None = None,
    state: NDArray[np.float32] | None = None,
) -> Store:
    """Write arrays held in memory as a store: (year, y, x), (C, y, x), (y, x), (state_year, S, Y, X); open it."""
    writer = StoreWriter(path, layout)
    given = {"class": classes, "static": static, "climate": climate, "state": state}
    for name, (shape, _) in _arrays_of(layout).items():
        values = given[name]
        if values is None or values.shape != shape:
            raise BadInputError(f"{name}: expected {shape}, got {None if values is None else values.shape}")
        for t in range(shape[0] if name in ("class", "state") else 1):
            part = values[t] if name in ("class", "state") else values
            for block in writer.blocks(name):
                writer.write(name, t, block, part[..., block.rows, block.cols])
    writer.finish()
    return Store.open(path)
