"""The compiled part of the package, where it was built; bindings/kernel/kernel.h says what each function does.

Where it was not, numpy serves in its place: `ready` says which. Calls leave other threads running.
"""

from importlib import import_module
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = 12
"""Of the interface in kernel.h; what was built of another one is not used."""

FIELDS = 8
"""Of `apply`, which sums so many at a time."""

_C_TYPES = {
    np.dtype(name).num: c_type
    for name, c_type in {
        "f8": "double[]", "f4": "float[]", "i8": "int64_t[]", "i4": "int32_t[]", "u8": "uint64_t[]",
        "u2": "uint16_t[]", "u1": "unsigned char[]",
    }.items()
}  # fmt: skip

Float = NDArray[np.float64]
Index = NDArray[np.int64]


def _found() -> Any:
    try:
        module = import_module("ai4land_coupler._kernel")
    except ImportError:  # not built, or for another machine
        return None
    return module if module.lib.KERNEL_VERSION == VERSION else None


_module = _found()


def ready() -> bool:
    """Whether the compiled functions are there."""
    return _module is not None


def name() -> str:
    """What closes totals and draws maps here, for provenance."""
    return f"compiled kernel {VERSION}" if ready() else "numpy"


def close(
    first: Index, area: Float, z: NDArray[np.float32], at: Index, step: int, allowed: NDArray[np.uint8] | None,
    totals: Float, out: Float, to: Index, stride: int,
) -> tuple[Float, int | None]:  # fmt: skip
    """Close the totals (C, K) of coarse cells into `out`; the residual (C, K), and the first cell with a bad logit."""
    left = np.empty_like(totals)
    may = _ffi().NULL if allowed is None else _pointer(allowed)
    failed = _lib().kernel_close(
        *totals.shape, _pointer(first), _pointer(area), _pointer(z), _pointer(at), step, may, _pointer(totals),
        _pointer(out), _pointer(to), stride, _pointer(left),
    )  # fmt: skip
    _refuse_no_memory(failed)
    return left, failed - 1 if failed else None


def spread(first: Index, area: Float, q: Float, totals: Float) -> tuple[Float, Float]:
    """Shares (K, n) closest to q (K, n) that meet the totals (C, K) of host cells; what is missed of these (C, K)."""
    shares, left = np.empty_like(q), np.empty_like(totals)
    parts = _pointer(first), _pointer(area), _pointer(q), _pointer(totals), _pointer(shares), _pointer(left)
    _refuse_no_memory(_lib().kernel_spread(*totals.shape, *parts))
    return shares, left


def counts(totals: Float, pixels: Index, whole: float) -> Index:
    """Pixels of each class (C, K) of `pixels` (C,) by largest remainder; what is short of one by < whole is one."""
    count = np.empty(totals.shape, np.int64)
    parts = _pointer(np.ascontiguousarray(totals)), _pointer(pixels), whole, _pointer(count)
    _refuse_no_memory(_lib().kernel_counts(*totals.shape, *parts))
    return count


def quota(first: Index, p: Float, to: Index, stride: int, cell_id: Index, counts: Index) -> NDArray[np.uint8]:
    """Classes (n,) of the pixels, 1.., with counts (C, K) of each in every coarse cell."""
    place = np.zeros(to.size, np.uint8)
    _refuse_no_memory(
        _lib().kernel_quota(
            *counts.shape, _pointer(first), _pointer(p), _pointer(to), stride, _pointer(cell_id), _pointer(counts),
            _pointer(place),
        )
    )  # fmt: skip
    return place


ONE, BASE, RUN = range(3)
"""What a coarse cell shows: one class alone, the base map, what the network said."""


class Tile:
    """The pixels of the coarse cells of a tile of `size` cells a side that begins at `start`; see TileCells.

    area_rows: area of a fine cell by row, m2; nlon: columns of the fine grid.
    """

    def __init__(
        self, first: Index, inside: NDArray[np.int32], size: int, start: tuple[int, int], area_rows: Float, nlon: int
    ) -> None:
        self.first = first
        self._kept = first, inside, np.ascontiguousarray(area_rows[start[0] : start[0] + size])
        parts = [_pointer(part) for part in self._kept]
        given = [first.size - 1, *parts[:2], size, parts[2], start[0] * nlon + start[1] + 1, nlon]
        self.struct = _ffi().new("kernel_tile *", given)


def pick(
    tile: Tile, some: Index, z: NDArray[np.float32], corner: tuple[int, int], out: NDArray[np.float32], means: bool
) -> Float | None:
    """Put the logits of the n pixels of coarse cells `some` (c,) into out (K, n); where asked for, means (c, K).

    z (ny / 2, nx / 2, 4 K): of 2 x 2 pixels each; it begins at row and column `corner` of the tile. Means are of
    softmax(z).
    """
    classes, expected = z.shape[2] // 4, int((tile.first[some + 1] - tile.first[some]).sum())
    if out.shape != (classes, expected):
        raise ValueError(f"room for {classes} classes of {expected} pixels is expected, got {out.shape}")
    mean = np.empty((some.size, classes)) if means else None
    to = _ffi().NULL if mean is None else _pointer(mean)
    parts = tile.struct, some.size, _pointer(some), classes, _pointer(z), *corner, z.shape[1]
    _refuse_no_memory(_lib().kernel_pick(*parts, *_rows(out), to))
    return mean


def fields(
    tile: Tile, kind: NDArray[np.uint8], z: NDArray[np.float32], totals: Float, whole: float, base: NDArray[np.uint8],
    fractions: Float, classes: NDArray[np.uint8],
) -> tuple[Float, int | None]:  # fmt: skip
    """Put the fields of a tile into fractions (K, n) and classes (n,); the residual (m, K), and a cell as of `close`.

    kind (m,): what each coarse cell shows; z (K, pixels of those that show what the network said), the rows of which
    may lie at the ends of those of `fractions`; base: of the globe.
    """
    left = np.empty_like(totals)
    failed = _lib().kernel_fields(
        tile.struct, totals.shape[1], _pointer(kind), *_rows(z), _pointer(totals), whole, _pointer(base),
        _pointer(fractions), _pointer(classes), _pointer(left),
    )  # fmt: skip
    _refuse_no_memory(failed)
    return left, failed - 1 if failed else None


class Rows:
    """A sparse matrix in the order in which `apply` adds: two entries of each row, then those that long rows have left.

    first (n + 1,): where the entries of each row begin in column and weight (nnz,); of `columns` columns, below 2^31.
    room: what one call at a time may use, the one that holds `free`.
    """

    def __init__(self, first: Index, column: Index, weight: Float, columns: int) -> None:
        count, size = np.diff(first), first.size - 1
        pair, pairs = np.full((size, 2), columns, np.int32), np.zeros((size, 2))
        for slot in range(2):
            has = np.flatnonzero(count > slot)
            at = first[has] + slot
            pair[has, slot], pairs[has, slot] = column[at], weight[at]
        rows = np.flatnonzero(count > 2)
        left = count[rows] - 2
        rest_first = np.concatenate([[0], np.cumsum(left)])
        rest = np.repeat(first[rows] + 2 - rest_first[:-1], left) + np.arange(rest_first[-1])
        self.room, self.free = np.empty((columns + 1, FIELDS)), Lock()
        self._kept = pair, pairs, rows, rest_first, column[rest].astype(np.int32), weight[rest]
        parts = [_pointer(part) for part in self._kept]
        self.matrix = _ffi().new("kernel_rows *", [size, *parts[:2], rows.size, *parts[2:]])


def apply(rows: Rows, x: Float, out: Float) -> None:
    """Put the sums of weight times x (K, columns) over the entries of each row into out (K, rows)."""
    with rows.free:
        _lib().kernel_apply(rows.matrix, x.shape[1], len(x), _pointer(x), _pointer(rows.room), _pointer(out))


def gather(pixel: NDArray[np.int32], host: NDArray[np.int32], area: Float, x: Float, hosts: int) -> Float:
    """Sums (hosts, K) of area times x (K, n) over overlaps of `pixel` and `host`, each host's in the order given."""
    total = np.zeros((hosts, len(x)))
    parts = _pointer(pixel), _pointer(host), _pointer(area), _pointer(x), _pointer(total)
    _lib().kernel_gather(pixel.size, *x.shape, *parts)
    return total


def tally(
    tile: Tile, fractions: Float, some: NDArray[np.uint8], host: NDArray[np.uint16] | None, hosts: int
) -> tuple[Float, Float, Float, int]:
    """Areas in m2 of a tile's fractions (K, n): by host (hosts, K), in all (K,), of coarse cells with `some` (m,) (K,).

    host (n,): of each cell; where None, none is summed by host. Last comes the mark of the fractions' bits.
    """
    by_host, total, part = np.zeros((hosts, len(fractions))), np.empty(len(fractions)), np.empty(len(fractions))
    under, mark = _ffi().NULL if host is None else _pointer(host), np.empty(1, np.uint64)
    parts = _pointer(some), under, _pointer(total), _pointer(part), _pointer(by_host), _pointer(mark)
    _refuse_no_memory(_lib().kernel_tally(tile.struct, len(fractions), _pointer(fractions), *parts))
    return by_host, total, part, int(mark[0])


def window(
    block: Index, side: int, start: tuple[int, int], far: NDArray[np.float32], of_row: Index, of_column: Index
) -> NDArray[np.float32]:
    """Blocks [side, side, width] float16 at the addresses (across, down) joined, plus values (ny, nx, width) from afar.

    The result is (rows, columns, width), beginning at `start` in the first block; of_row (rows,) and of_column
    (columns,) say what of `far` is added where.
    """
    out = np.empty((of_row.size, of_column.size, far.shape[2]), np.float32)
    _lib().kernel_window(
        *out.shape, side, _pointer(block), block.shape[1], *start, _pointer(far), far.shape[1], _pointer(of_row),
        _pointer(of_column), _pointer(out),
    )  # fmt: skip
    return out


def bilinear(
    values: NDArray[np.float32], row: Index, north: NDArray[np.float32], column: Index, east: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Values between those of a coarser grid (.., width): `north` of the way from row[y] to the next, as columns."""
    for places, there in zip((row, column), values.shape, strict=True):
        if places.min() < 0 or places.max() + 1 >= there:
            raise IndexError(
                f"places {places.min()} to {places.max()} and the next of {there} are expected to be there"
            )
    out, room = np.empty((row.size, column.size), np.float32), np.empty(values.shape[1], np.float32)
    parts = _pointer(row), _pointer(north), _pointer(column), _pointer(east)
    _lib().kernel_bilinear(*out.shape, room.size, _pointer(values), *parts, _pointer(room), _pointer(out))
    return out


def normalise(planes: NDArray[np.float32], mean: NDArray[np.float32], std: NDArray[np.float32], limit: float) -> None:
    """(x - mean) / std, within -limit and limit, of each plane (C, ..), in place."""
    parts = _pointer(mean), _pointer(std), limit, _pointer(planes)
    _lib().kernel_normalise(len(planes), planes[0].size, *parts)


def settled(
    values: Index, rim: int, radii: Index, shares: Index, scale: float, roots: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Roots of box sums, and of shares of one box in another, of values (rows + 2 rim, columns + 2 rim).

    radii (r,) at most `rim`; shares (s, 2): positions in `radii`; roots (listed,): those of small sums. The result is
    (r + s, rows, columns); kernel.h says more.
    """
    rows, columns = (n - 2 * rim for n in values.shape)
    out = np.empty((radii.size + len(shares), rows, columns), np.float32)
    room = np.empty((values.shape[0] + 1) * (values.shape[1] + 1) + radii.size * columns, np.int64)
    _lib().kernel_settled(
        rows, columns, rim, _pointer(values), radii.size, _pointer(radii), len(shares), _pointer(shares), scale,
        roots.size, _pointer(roots), _pointer(room), _pointer(out),
    )  # fmt: skip
    return out


def interleave(
    planes: NDArray[np.float32], start: tuple[int, int], side: int, table: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """A square of planes (C, rows, columns) cell by cell, (side, side, ..); rows of `table` stand for the last one."""
    width = 0 if table is None else table.shape[1]
    out = np.empty((side, side, len(planes) + width - (width > 0)), np.float32)
    rows = _ffi().NULL if table is None else _pointer(table)
    _lib().kernel_interleave(*planes.shape, _pointer(planes), *start, side, width, rows, _pointer(out))
    return out


def _lib() -> Any:
    return _module.lib


def _ffi() -> Any:
    return _module.ffi


def _pointer(array: NDArray) -> Any:
    """A pointer to contiguous values of a type the kernel knows; TypeError for others."""
    if not array.flags.c_contiguous:
        raise TypeError("contiguous values are expected")
    return _ffi().from_buffer(_C_TYPES[array.dtype.num], array)


def _rows(values: NDArray[np.float32]) -> tuple[Any, int]:
    """A pointer to values (K, n) each row of which is contiguous, and how many values apart they are."""
    if values.size and (values.dtype != np.float32 or values.strides[1] != 4 or values.strides[0] % 4):
        raise TypeError("contiguous rows of float32 are expected")
    return _ffi().cast("float *", values.ctypes.data), values.strides[0] // 4


def _refuse_no_memory(failed: int) -> None:
    if failed == -1:
        raise MemoryError("no memory for the work on one coarse cell")
