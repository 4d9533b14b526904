"""What is wrong with host cells, found before any engine sees them: odd cells one by one, and cells that overlap."""

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import GridError
from ai4land_coupler.grids import HostGrid
from ai4land_coupler.regrid.clip import shared_area
from ai4land_coupler.regrid.polygons import Polygons, angle

Float = NDArray[np.float64]
Index = NDArray[np.int64]
Bool = NDArray[np.bool_]
Pairs = tuple[Index, Index]

OVERLAP_TOLERANCE = 1e-4
"""Share of the smaller of two host cells that the other may cover before the grid is refused."""

ROUNDING = np.radians(2e-5)
"""Width of a strip along a cell that counts as rounding to real32 of its corners and its neighbour's, radians,"""

ROUNDING_OF_CELL = 1e-3
"""up to this share of the cell: it goes beyond OVERLAP_TOLERANCE for cells of less than 0.2 degrees."""

CROSSING_TOLERANCE = 3e-4
"""Share of a cell's longest edge by which its edges may cross: what rounding to real32 does to corners close by."""

_STRAIGHT = 1e-9
_WIDE = np.pi / 4
_PAIRS = 1 << 14
_SMALLEST_BIN = 1e-6


def refuse_odd(hosts: HostGrid, cells: Polygons) -> None:
    """GridError naming the first cell that is no polygon smaller than a hemisphere; `cells` are those of `hosts`."""
    opposite = (angle(cells.xyz, -np.roll(cells.xyz, -1, axis=1)) < _STRAIGHT).any(1)
    wide = ~(cells.caps[1] <= np.pi / 2 + _STRAIGHT)
    wrong = (
        (cells.count < 3, "has no area: it has fewer than three distinct corners"),
        (opposite, "has an edge of 180 degrees, which great circle is open; give it a corner halfway"),
        (wide, "reaches more than 90 degrees from its middle; cells must be smaller than a hemisphere, split it"),
        (crossed(cells), "is no simple polygon: its edges cross; give the corners in order around the cell"),
        (cells.degenerate, "has no area: its corners lie on one line"),
    )
    for found, what in wrong:
        if found.any():
            cell = int(hosts.cell_id[np.argmax(found)])
            raise GridError(f"host cell {cell} {what} ({int(found.sum())} such cells in all)")


def crossed(cells: Polygons) -> Bool:
    """Cells (n,) two of whose edges cross: bow-ties."""
    found = np.zeros(cells.count.size, dtype=bool)
    odd = np.flatnonzero((~cells.convex | cells.degenerate) & (cells.count > 3))
    if not odd.size:
        return found
    start = cells.xyz[odd]
    end = np.roll(start, -1, axis=1)
    normal = np.cross(start, end - start)
    length = np.linalg.norm(normal, axis=2, keepdims=True)
    normal /= np.where(length > 0, length, 1.0)
    least = CROSSING_TOLERANCE * length[..., 0].max(1)
    n_vertex = start.shape[1]
    for i in range(n_vertex):
        for j in range(i + 2, n_vertex):
            # each edge's ends lie on the two sides of the other, in the senses that exclude the opposite side
            a, b = _depth(normal[:, i], start[:, j]), _depth(normal[:, i], end[:, j])
            c, d = _depth(normal[:, j], start[:, i]), _depth(normal[:, j], end[:, i])
            apart = np.minimum.reduce([np.abs(a), np.abs(b), np.abs(c), np.abs(d)]) > least
            found[odd] |= apart & (a * b < 0) & (c * d < 0) & (a * c < 0)
    return found


def _depth(normal: Float, point: Float) -> Float:
    """How far points (n, 3) are inside the half-spaces of `normal` (n, 3), as the sine of the angle."""
    return np.einsum("ni,ni->n", normal, point)


def refuse_overlaps(hosts: HostGrid, cells: Polygons) -> None:
    """GridError naming the two cells that overlap most, where that is more than rounding; see `overlaps`."""
    first, second, share = overlaps(cells)
    if share.size:
        worst = int(np.argmax(share))
        one, other = sorted((int(hosts.cell_id[first[worst]]), int(hosts.cell_id[second[worst]])))
        raise GridError(
            f"host cells {one} and {other} overlap by {share[worst]:.2g} of the smaller one; "
            f"host cells must not overlap ({share.size} such pairs in all)"
        )


def overlaps(cells: Polygons) -> tuple[Index, Index, Float]:
    """(first, second, share of the smaller one) of all pairs of cells that overlap by more than they may.

    They may by OVERLAP_TOLERANCE of the smaller one, or by ROUNDING along it.
    Almost every pair of neighbours is told apart by an edge of one of them; only the rest are clipped.
    """
    first, second = _candidates(cells)
    none = np.zeros(0)
    found: list[tuple[Index, Index, Float]] = [(first[:0], second[:0], none)]
    for at in range(0, first.size, _PAIRS):
        a, b = first[at : at + _PAIRS], second[at : at + _PAIRS]
        for _ in range(2):
            open_ = ~_separated(cells, a, b)
            a, b = b[open_], a[open_]
        if a.size:
            smaller = np.where(cells.area[a] <= cells.area[b], a, b)
            area, length = cells.area[smaller], 2 * cells.caps[1][smaller]
            share = _shared(cells, a, b) / area
            above = share > np.maximum(OVERLAP_TOLERANCE, np.minimum(ROUNDING * length / area, ROUNDING_OF_CELL))
            found.append((a[above], b[above], share[above]))
    a, b, share = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.lexsort((b, a))
    return a[order], b[order], share[order]


def _separated(cells: Polygons, a: Index, b: Index) -> Bool:
    """Pairs (n,) of which b lies outside an edge of a, all of it but less than half of OVERLAP_TOLERANCE.

    What of a cell lies deeper than a great circle, by d at most, has no more area than d times its diameter.
    """
    radius = cells.caps[1][b]
    smaller = np.minimum(cells.area[a], cells.area[b])
    slack = np.where(radius < _WIDE, 0.5 * OVERLAP_TOLERANCE * smaller / (2 * radius), 0.0)
    depth = np.einsum("nvi,nki->nvk", cells.normals[a], cells.xyz[b]).max(2)
    return ((depth <= slack[:, None]) & cells.supporting[a]).any(1)


def _shared(cells: Polygons, a: Index, b: Index) -> Float:
    """Solid angle (n,) that pairs of cells share, convex or not.

    A concave cell counts as the triangles from its first corner to each edge, with the sign of their winding.
    """
    swap = cells.convex[a] & ~cells.convex[b]
    subject, clip = np.where(swap, b, a), np.where(swap, a, b)
    area = np.zeros(a.size)
    plain = cells.convex[clip]
    area[plain] = shared_area(cells, subject[plain], cells, clip[plain])
    hard = np.flatnonzero(~plain)
    for corner in range(1, cells.lon.shape[1] - 1 if hard.size else 0):
        fan = [0, corner, corner + 1]
        lon, lat = cells.lon[clip[hard]][:, fan], cells.lat[clip[hard]][:, fan]
        raw = Polygons(lon, lat, np.full(hard.size, 3))
        sign = np.sign(raw.area)
        triangles = Polygons(
            np.where(sign[:, None] < 0, lon[:, ::-1], lon), np.where(sign[:, None] < 0, lat[:, ::-1], lat), raw.count
        )
        area[hard] += sign * shared_area(cells, subject[hard], triangles, np.arange(hard.size))
    return area


def _candidates(cells: Polygons) -> Pairs:
    """(first, second), first < second, of all pairs whose bounding caps meet, in order."""
    centre, radius = cells.caps
    if not radius.size:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    # cells of like size are sorted into bins of that size, so that a large cell among small ones costs no more
    level = np.floor(np.log2(np.maximum(radius, _SMALLEST_BIN))).astype(np.int64)
    pairs = [_meeting(centre, radius, level, large) for large in np.unique(level)]
    a, b = (np.concatenate(part) for part in zip(*pairs, strict=True))
    first, second = np.minimum(a, b), np.maximum(a, b)
    order = np.lexsort((second, first))
    return first[order], second[order]


def _meeting(centre: Float, radius: Float, level: Index, large: int) -> Pairs:
    """Pairs of a cell of level `large` with one of that level or below, each once, whose caps meet."""
    own, below = np.flatnonzero(level == large), np.flatnonzero(level <= large)
    size = max(2 * float(radius[own].max()) * (1 + 1e-9), _SMALLEST_BIN)
    n = int(np.ceil(2 / size)) + 3
    place = np.floor((centre + 1) / size).astype(np.int64) + 1
    key = (place[:, 0] * n + place[:, 1]) * n + place[:, 2]
    held = below[np.argsort(key[below], kind="stable")]
    ranked = key[held]
    pairs: list[Pairs] = []
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            middle = key[own] + (dx * n + dy) * n
            begin = np.searchsorted(ranked, middle - 1, "left")
            count = np.searchsorted(ranked, middle + 1, "right") - begin
            item = np.repeat(np.arange(own.size), count)
            other = held[begin[item] + np.arange(item.size) - np.repeat(np.cumsum(count) - count, count)]
            mine = own[item]
            kept = (level[other] < large) | (mine < other)
            mine, other = mine[kept], other[kept]
            meet = angle(centre[mine], centre[other]) <= radius[mine] + radius[other]
            pairs.append((mine[meet], other[meet]))
    a, b = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return a, b
