"""Chunks of a store's arrays, decoded straight into the memory they are wanted in.

A sample needs a dozen chunks; through zarr's own machinery each costs several times its decoding. What is read here is
the one form that `store.py` writes: zarr v3, `bytes` and `blosc`, with or without shards (zarr.dev/zarr-specs, v3:
sharding codec; a blosc buffer's header: bytes 4 to 8 hold the decoded size, 12 to 16 its own).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from ai4land_coupler.errors import BadInputError

NOT_THERE = 2**64 - 1  #: offset of a chunk that a shard lacks


@dataclass(frozen=True)
class Chunks:
    """An array (..., ny, nx) in the folder `path`, in chunks of `chunk` cells; several of them a file where `shard` is
    not `chunk`. The last axes before ny are whole in a chunk, those before them one entry each."""

    path: Path
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    shard: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: Any

    @classmethod
    def of(cls, path: Path, array: Any) -> Chunks:
        """Return the chunks of a zarr array. Raises BadInputError where they are coded in another way."""
        told = array.metadata.to_dict()
        codecs = told["codecs"]
        if codecs[0]["name"] == "sharding_indexed":
            inner = codecs[0]["configuration"]
            codecs = inner["codecs"] if inner["index_location"] == "end" else ()
        names = [codec["name"] for codec in codecs]
        separator = told["chunk_key_encoding"]["configuration"]["separator"]
        little = array.dtype.itemsize == 1 or array.dtype.newbyteorder("<") == array.dtype
        if names != ["bytes", "blosc"] or separator != "/" or not little:
            raise BadInputError(
                f"{path}: expected chunks coded by bytes and blosc, got {names or codecs}; make the store anew with "
                "`ai4land prepare`"
            )
        return cls(path, array.shape, array.chunks, array.shards or array.chunks, array.dtype, array.fill_value)

    def read(self, before: tuple[int, ...], rows: slice, cols: slice, out: NDArray[Any]) -> None:
        """Copy the window of rows and columns of entry `before` of the first axes into `out` (..., nrow, ncol).

        A chunk that is not there gives the fill value. Raises ValueError or OSError where one is damaged.
        """
        lead = (*before, *(0 for _ in self.shape[len(before) : -2]))
        scratch = np.empty(self.chunk, self.dtype)
        block = scratch.reshape(self.chunk[len(before) :])
        spans = [
            range(part.start // n, -(-part.stop // n)) for part, n in zip((rows, cols), self.chunk[-2:], strict=True)
        ]
        for (y, x), coded in self._coded(lead, spans[0], spans[1]):
            if coded is None:
                scratch.fill(self.fill)
            else:
                _decode(coded, scratch)
            (to_y, from_y), (to_x, from_x) = _overlap(rows, y, self.chunk[-2]), _overlap(cols, x, self.chunk[-1])
            out[..., to_y, to_x] = block[..., from_y, from_x]

    def _coded(self, lead: tuple[int, ...], ys: range, xs: range) -> Iterator[tuple[tuple[int, int], bytes | None]]:
        """Yield the place of each chunk and its bytes, None where it is not there."""
        if self.shard == self.chunk:
            for y, x in product(ys, xs):
                try:
                    yield (y, x), self._file(lead, y, x).read_bytes()
                except FileNotFoundError:
                    yield (y, x), None
            return
        high, wide = (s // c for s, c in zip(self.shard[-2:], self.chunk[-2:], strict=True))
        for row, col in product(_groups(ys, high), _groups(xs, wide)):
            places = [(y, x) for y in ys if y // high == row for x in xs if x // wide == col]
            try:
                with self._file(lead, row, col).open("rb") as file:
                    index = _index(file, high * wide)
                    for y, x in places:
                        offset, length = map(int, index[y % high * wide + x % wide])
                        file.seek(0 if offset == NOT_THERE else offset)
                        yield (y, x), None if offset == NOT_THERE else file.read(length)
            except FileNotFoundError:
                yield from ((place, None) for place in places)

    def _file(self, lead: tuple[int, ...], y: int, x: int) -> Path:
        return self.path.joinpath("c", *map(str, (*lead, y, x)))


def _groups(places: range, size: int) -> range:
    return range(places.start // size, -(-places.stop // size)) if places else range(0)


def _index(file: Any, count: int) -> NDArray[np.uint64]:
    """Offsets and lengths (count, 2) of a shard's chunks."""
    size = count * 16 + 4
    file.seek(-size, 2)
    coded = file.read(size)
    if google_crc32c.value(coded[:-4]) != int.from_bytes(coded[-4:], "little"):
        raise ValueError("the index of its shard is damaged")
    return np.frombuffer(coded[:-4], "<u8").reshape(count, 2)


def _decode(coded: bytes, out: NDArray[Any]) -> None:
    sizes = int.from_bytes(coded[4:8], "little"), int.from_bytes(coded[12:16], "little")
    if sizes != (out.nbytes, len(coded)):
        raise ValueError(f"a chunk of {len(coded)} bytes says it is {sizes[1]} of {sizes[0]}, expected {out.nbytes}")
    blosc.decompress(coded, out)


def _overlap(wanted: slice, number: int, edge: int) -> tuple[slice, slice]:
    """Return where chunk `number` lies in what is wanted, and where that lies in the chunk."""
    start, stop = max(wanted.start, number * edge), min(wanted.stop, (number + 1) * edge)
    return slice(start - wanted.start, stop - wanted.start), slice(start - number * edge, stop - number * edge)
