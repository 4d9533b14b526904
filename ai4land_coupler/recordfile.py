"""The record of a run in netCDF-4: written a call at a time, readable after a crash up to the last whole call."""

import errno
import hashlib
import json
import os
import resource
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.answer import Answer
from ai4land_coupler.damage import refuse_damaged
from ai4land_coupler.errors import GridError, OutputError
from ai4land_coupler.grids import HostGrid

FORMAT = "ai4land_coupler record 1"
TEXTS = ("hook", "arguments", "message", "digest", "columns", "held", "contents", "checksum")
NUMBERS = ("rank", "year", "status", "answer_year", "has_answer", "has_put", "complete")
ALL_RANKS = -1
SLACK = 1 << 16
"""Bytes that a call needs at most beside its texts, what was put and the restart it read."""
TOGETHER = 64
"""Calls whose texts and numbers lie in one chunk; a chunk is allocated whole."""
PIECE = 1 << 20
"""Bytes of a restart in one chunk."""


@dataclass(frozen=True)
class Call:
    """One call of a host. rank: who made it, ALL_RANKS for a collective one; contents: hash of a restart it wrote."""

    hook: str
    year: int = 0
    arguments: str = ""
    rank: int = ALL_RANKS
    status: int = 0
    message: str = ""
    answer: Answer | None = None
    contents: str = ""

    @property
    def name(self) -> str:
        """As a host would write it."""
        return f"{self.hook}({self.year if self.hook == 'step' else self.arguments})"


@dataclass(frozen=True, eq=False)
class Put:
    """values (K, n) as put, float64, cells in order of id; there (K, ranks) uint8: 1 where that rank put that class."""

    values: NDArray[np.float64]
    there: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class RecordedGrid:
    """The host cells of all ranks in order of id; rank (n,) and position (n,): where each stood."""

    cells: HostGrid
    rank: NDArray[np.int64]
    position: NDArray[np.int64]


class RecordWriter:
    """Appends calls to a new file; raises OSError or RuntimeError where that fails."""

    def __init__(
        self, path: Path, ranks: int, legend: Sequence[str], configuration: str, provenance: Mapping[str, str]
    ) -> None:
        self._path = path
        self._room = path.with_name(path.name + ".room")
        self._need(0, _bytes(configuration, *legend, *provenance, *provenance.values()))
        if path.exists():
            path.replace(path.with_name(path.name + ".1"))
        self._file = file = netCDF4.Dataset(path, "w", format="NETCDF4")
        file.set_auto_maskandscale(False)
        file.setncatts({**provenance, "format": FORMAT, "configuration": configuration, "ranks": np.int64(ranks)})
        file.head_checksum = head_checksum({name: file.getncattr(name) for name in file.ncattrs()}, legend)
        for name, length in (("call", None), ("class", len(legend)), ("rank_of_host", ranks)):
            file.createDimension(name, length)
        file.createVariable("class_name", str, ("class",))[:] = np.array(legend, dtype=object)
        for name in TEXTS:
            file.createVariable(name, str, ("call",), chunksizes=(TOGETHER,))
        for name in NUMBERS:
            file.createVariable(name, "i8", ("call",), fill_value=0, chunksizes=(TOGETHER,))
        file.createVariable(
            "was_put", "u1", ("call", "class", "rank_of_host"), fill_value=0, chunksizes=(1, len(legend), ranks)
        )
        file["rank"].long_name = f"rank that made the call, {ALL_RANKS} where all did"
        file["complete"].long_name = "1 once all of the call is in this file"
        self.sync()

    def grid(self, grid: RecordedGrid) -> None:
        """The host's cells, once."""
        file, cells = self._file, grid.cells
        self._need(self._size, sum(values.nbytes for values in _grid_arrays(grid).values()))
        file.createDimension("host_cell", cells.size)
        file.createDimension("vertex", cells.nvertex)
        for name, values in _grid_arrays(grid).items():
            dims = ("host_cell", "vertex")[: values.ndim]
            file.createVariable(name, values.dtype, dims, zlib=bool(cells.size), complevel=1)[...] = values
        file.grid_checksum = _sha(_grid_arrays(grid).values())
        put = file.createVariable(
            "put", "f8", ("call", "class", "host_cell"), fill_value=np.nan, zlib=True, complevel=1,
            chunksizes=(1, 1, max(cells.size, 1)),
        )  # fmt: skip
        put.setncatts({"units": "1", "long_name": "fractions as the host put them, NaN too where it put none"})
        put.set_auto_maskandscale(False)
        self.sync()

    def append(
        self, call: Call, put: Put | None = None, restart: bytes | None = None,
        grid: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:  # fmt: skip
        """A call, with what was put before it, the bytes of the restart it read, or the cells it was refused with.

        grid: an array for each name of GRID.
        """
        file, i = self._file, len(self._file.dimensions["call"])
        answer = call.answer or Answer(0, "", "")
        texts = (call.hook, call.arguments, call.message, answer.digest, answer.columns, answer.held, call.contents,
                 checksum(call, put, restart, grid))  # fmt: skip
        arrays = [*(grid or {}).values(), *((put.values, put.there) if put else ())]
        self._need(self._size, sum(values.nbytes for values in arrays) + len(restart or b"") + _bytes(*texts))
        for name, values in (grid or {}).items():
            dims = tuple(f"{axis}_of_{name}_{i}" for axis in ("row", "column")[: values.ndim])
            for dim, length in zip(dims, values.shape, strict=True):
                file.createDimension(dim, max(length, 1))
            variable = file.createVariable(f"{name}_{i}", values.dtype, dims)
            variable.length = np.int64(values.shape[0])
            if values.size:
                variable[...] = values
        if put is not None:
            file["put"][i] = put.values
            file["was_put"][i] = put.there
        if restart is not None:
            length = max(len(restart), 1)
            file.createDimension(f"byte_of_restart_{i}", length)
            variable = file.createVariable(
                f"restart_{i}", "u1", (f"byte_of_restart_{i}",), zlib=True, complevel=1,
                chunksizes=(min(length, PIECE),),
            )  # fmt: skip
            variable.length = np.int64(len(restart))
            if restart:
                variable[:] = np.frombuffer(restart, dtype=np.uint8)
        for name, text in zip(TEXTS, texts, strict=True):
            file[name][i] = _writable(text)
        numbers = (call.rank, call.year, call.status, answer.year, call.answer is not None, put is not None, 1)
        for name, number in zip(NUMBERS, numbers, strict=True):
            file[name][i] = int(number)
        self.sync()

    @property
    def _size(self) -> int:
        return self._path.stat().st_size

    def _need(self, before: int, size: int) -> None:
        """Raise OSError where a file of `before` bytes cannot take this many and its own, before it is touched.

        HDF5 cannot give up a write half-way: a file whose disk became full in one cannot be read again.
        """
        size += size // 64 + SLACK
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if most != resource.RLIM_INFINITY and before + size > most:
            raise OSError(errno.EFBIG, f"no file may be larger than {most} bytes here")
        try:
            with self._room.open("wb") as room:
                os.posix_fallocate(room.fileno(), 0, size)
        finally:
            self._room.unlink(missing_ok=True)

    def sync(self) -> None:
        """Bring everything to the disk."""
        self._file.sync()
        handle = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def close(self, whole: bool) -> None:
        """End the file; `whole` says that the host finalized."""
        if whole:
            self._need(self._size, 0)
            self._file.finalized = "yes"
        self._file.close()


class Record:
    """A record to read; raises OutputError naming what is wrong with the file.

    No file stays open: HDF5 crashes where one with text in it is opened again and again while it is open
    (netcdf4-python, issues 261 and 1444).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened() as file:
            if getattr(file, "format", None) != FORMAT:
                raise OutputError(f"{path} is not a record of this plugin: expected format {FORMAT!r}, "
                                  f"got {getattr(file, 'format', None)!r}")  # fmt: skip
            self.attributes = {name: file.getncattr(name) for name in file.ncattrs()}
            self.configuration = str(self.attributes["configuration"])
            self.ranks = int(self.attributes["ranks"])
            self.legend = tuple(str(name) for name in file["class_name"][:])
            self.finalized = "finalized" in self.attributes
            self._variables = frozenset(file.variables)
            self._texts = {name: file[name][:] for name in TEXTS}
            self._numbers = {name: file[name][:] for name in NUMBERS}
            complete = self._numbers["complete"] == 1
            self.calls = tuple(self._call(i) for i in range(int(np.argmin([*complete, False]))))

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """The file, for one reading."""
        try:
            refuse_damaged(self.path)
            with netCDF4.Dataset(self.path) as file:
                file.set_auto_maskandscale(False)
                yield file
        except (OSError, RuntimeError, LookupError, ValueError, AttributeError, TypeError, MemoryError,
                GridError) as error:  # fmt: skip
            raise OutputError(f"record {self.path} cannot be read: {type(error).__name__}: {error}") from error

    def grid(self) -> tuple[RecordedGrid, bool]:
        """The host's cells, and whether they are those that were written."""
        with self._opened() as file:
            part = {name: np.asarray(file[name][...]) for name in GRID}
            cells = HostGrid(part["cell_id"], part["vertex_lon"], part["vertex_lat"], part["land_fraction"])
        same = _sha(part.values()) == str(self.attributes.get("grid_checksum"))
        return RecordedGrid(cells, part["rank_of_cell"], part["position"]), same

    def put(self, i: int) -> Put | None:
        """What was put before call i."""
        if not self._numbers["has_put"][i]:
            return None
        with self._opened() as file:
            return Put(np.asarray(file["put"][i]), np.asarray(file["was_put"][i]))

    def restart(self, i: int) -> bytes | None:
        """The restart file that call i read; none where there was none to read."""
        if f"restart_{i}" not in self._variables:
            return None
        with self._opened() as file:
            variable = file[f"restart_{i}"]
            return bytes(variable[: int(variable.length)].tobytes())

    def refused_grid(self, i: int) -> dict[str, NDArray[Any]] | None:
        """The cells that a failed set_grid, call i, was given: an array for each name of GRID; none where none came."""
        if f"{GRID[0]}_{i}" not in self._variables:
            return None
        with self._opened() as file:
            found = {name: file[f"{name}_{i}"] for name in GRID}
            return {name: np.asarray(values[: int(values.length)]) for name, values in found.items()}

    def intact(self, i: int) -> bool:
        """Whether call i is as it was written, to the bit."""
        made = checksum(self.calls[i], self.put(i), self.restart(i), self.refused_grid(i))
        return made == str(self._texts["checksum"][i])

    @property
    def head_intact(self) -> bool:
        """Whether configuration, provenance, ranks and legend are as they were written."""
        return head_checksum(self.attributes, self.legend) == str(self.attributes.get("head_checksum"))

    def _call(self, i: int) -> Call:
        text, number = {k: str(v[i]) for k, v in self._texts.items()}, {k: int(v[i]) for k, v in self._numbers.items()}
        answer = Answer(number["answer_year"], text["digest"], text["columns"], text["held"])
        return Call(
            text["hook"], number["year"], text["arguments"], number["rank"], number["status"], text["message"],
            answer if number["has_answer"] else None, text["contents"],
        )  # fmt: skip


GRID = ("cell_id", "vertex_lon", "vertex_lat", "land_fraction", "rank_of_cell", "position")


def _grid_arrays(grid: RecordedGrid) -> dict[str, NDArray[Any]]:
    cells = grid.cells
    arrays = (cells.cell_id, cells.vertex_lon, cells.vertex_lat, cells.land_fraction, grid.rank, grid.position)
    return dict(zip(GRID, arrays, strict=True))


def head_checksum(attributes: Mapping[str, Any], legend: Sequence[str]) -> str:
    """SHA-256 of what the attributes of a record said when it was begun, and of the names that `put` takes."""
    later = ("head_checksum", "grid_checksum", "finalized")
    said = sorted((name, str(value)) for name, value in attributes.items() if name not in later)
    return hashlib.sha256(json.dumps([said, list(legend)]).encode()).hexdigest()


def checksum(call: Call, put: Put | None, restart: bytes | None, grid: Mapping[str, NDArray[Any]] | None = None) -> str:
    """SHA-256 of a call and of all that came with it."""
    a = call.answer
    answer = [a.year, a.digest, a.columns, _writable(a.held)] if a else None
    words = [call.hook, call.year, _writable(call.arguments), call.rank, call.status, _writable(call.message), answer,
             call.contents]  # fmt: skip
    hashed = hashlib.sha256(json.dumps(words).encode())
    for part in (put.values, put.there) if put else ():
        hashed.update(np.ascontiguousarray(part).data if part.size else b"")
    hashed.update(restart if restart is not None else b"none")
    for name, values in (grid or {}).items():
        hashed.update(f"{name} {values.shape} ".encode() + np.ascontiguousarray(values).tobytes())
    return hashed.hexdigest()


def _bytes(*texts: str) -> int:
    return sum(len(text.encode(errors="replace")) for text in texts)


def _sha(arrays: Any) -> str:
    hashed = hashlib.sha256()
    for array in arrays:
        hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()


def _writable(text: str) -> str:
    """What a netCDF string can hold of a text: valid UTF-8 without NUL."""
    return text.encode(errors="replace").decode().replace("\0", " ")
