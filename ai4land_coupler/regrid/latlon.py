"""Exact overlaps where every host cell is a latitude-longitude rectangle.

The overlap of two rectangles is R^2 (lambda_2 - lambda_1) (sin phi_2 - sin phi_1) on the sphere, exact for edges that
are parallels and meridians. Corners that agree within what real32 can hold are taken for one: every edge value of the
grid goes into a sorted list, values closer than the tolerance become one value of that list, and all cells use the
list. Neighbours therefore share their edges bit for bit, with neither overlap nor gap.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import GridError, RegridError
from ai4land_coupler.grids import EARTH_RADIUS, HostGrid, RegularGrid, wrap_longitude
from ai4land_coupler.regrid.bounds import Bounds
from ai4land_coupler.regrid.engine import Patch
from ai4land_coupler.regrid.overlap import Overlap

Float = NDArray[np.float64]
Index = NDArray[np.int64]

EDGE_TOLERANCE = 4e-5
"""Degrees within which two corners can be one edge: real32 holds longitudes to 360 within 1.5e-5."""

EDGE_TOLERANCE_OF_CELL = 1e-3
"""The same as a share of the cell's width and height, which bounds it for cells below 0.04 degrees."""

NOISE = 1e-11
"""Degrees within which an edge of a host cell is the grid line beside it: what double precision loses."""

OVERLAP_TOLERANCE = 1e-4
"""Share of a host cell that another may cover before the grid is refused."""

_BLOCK = 1 << 19
_MOST_LISTED = 4
"""Times the values that there are, up to which `_distinct` lists all that they could be."""
_TURN = 1000.0


@dataclass(frozen=True, eq=False)
class Rectangles:
    """Cells between parallels and meridians.

    south, north, west, east (n,) float64, degrees: west in [-180, 180), 0 < east - west <= 360.
    """

    south: Float
    north: Float
    west: Float
    east: Float

    def area(self) -> Float:
        """R^2 dlon (sin north - sin south), m2."""
        return EARTH_RADIUS**2 * np.radians(self.east - self.west) * band(self.south, self.north)


def band(south: Float, north: Float) -> Float:
    """sin(north) - sin(south) of latitudes in degrees, without the cancellation of the difference."""
    return 2 * np.cos(np.radians(0.5 * (north + south))) * np.sin(np.radians(0.5 * (north - south)))


def is_rectangle(lon: Float, lat: Float) -> NDArray[np.bool_]:
    """Which cells (n,) are latitude-longitude rectangles, from corners (n, nvertex) in degrees.

    Four corners in either winding and any turn of longitude, any of them repeated; at a pole any longitude will do.
    """
    return _corners(lon, lat)[0]


def rectangles(lon: Float, lat: Float) -> Rectangles:
    """The cells as rectangles with shared edges; only for corners that `is_rectangle` accepts."""
    return _with_shared_edges(*_corners(lon, lat)[1:])


def _with_shared_edges(south: Float, north: Float, west: Float, width: Float) -> Rectangles:
    n, everywhere = south.size, np.zeros(2 * south.size + 2, dtype=np.int64)
    if not n:
        return Rectangles(south, north, west, west)
    tolerance = min(EDGE_TOLERANCE, EDGE_TOLERANCE_OF_CELL * (north - south).min())
    parallels = _merge(np.concatenate([south, north, [-90.0, 90.0]]), everywhere, tolerance)
    south, north = parallels[:n], parallels[n : 2 * n]
    # Meridians are shared within a row of cells; rows of a reduced grid have edges of their own, however close.
    row = _rows_of(south, north)[2]
    tolerance = min(EDGE_TOLERANCE, EDGE_TOLERANCE_OF_CELL * width.min())
    edges = _merge(wrap_longitude(np.concatenate([west, west + width])), np.tile(row, 2), tolerance)
    edges[np.abs(np.abs(edges) - 180.0) <= tolerance] = -180.0
    west, east = edges[:n], edges[n:]
    return Rectangles(south, north, west, np.where(east <= west, east + 360.0, east))


def _corners(lon: Float, lat: Float) -> tuple[NDArray[np.bool_], Float, Float, Float, Float]:
    """(accepted, south, north, west, width) of each cell, (n,) each; the numbers are unsnapped."""
    lon, lat = np.ascontiguousarray(lon.T), np.ascontiguousarray(lat.T)
    south, north = lat.min(0), lat.max(0)
    pole = np.abs(lat) > 90.0 - 1e-9
    nearest = np.argmin(np.abs(lat), axis=0)[None, :]
    reference = np.take_along_axis(lon, nearest, 0)
    turn = np.where(pole, 0.0, lon - reference)
    full = turn.max(0) - turn.min(0) > 360.0 - EDGE_TOLERANCE
    turn = np.where(full, turn, wrap_longitude(turn))
    low, high = turn.min(0), turn.max(0)
    width, height = high - low, north - south
    tol_lon = np.minimum(EDGE_TOLERANCE, EDGE_TOLERANCE_OF_CELL * width)
    tol_lat = np.minimum(EDGE_TOLERANCE, EDGE_TOLERANCE_OF_CELL * height)
    at_south, at_north = lat - south <= tol_lat, north - lat <= tol_lat
    at_west, at_east = (turn - low <= tol_lon) & ~pole, (high - turn <= tol_lon) & ~pole
    accepted = ((at_south | at_north) & (at_west | at_east | pole)).all(0)
    for row in (at_south, at_north):  # both ends of each parallel, unless it is a pole
        accepted &= (row & pole).any(0) | ((row & at_west).any(0) & (row & at_east).any(0))
    # A step from one corner to the next runs along an edge: it never changes both, except at a pole.
    moves_lat = at_south != np.roll(at_south, -1, 0)
    moves_lon = (at_west != np.roll(at_west, -1, 0)) & ~pole & ~np.roll(pole, -1, 0)
    accepted &= ~(moves_lat & moves_lon).any(0) & (width > 0) & (height > 0) & ((width < 180.0) | full)
    return accepted, south, north, wrap_longitude(reference[0] + low), np.where(full, 360.0, width)


def _merge(values: Float, group: Index, tolerance: float) -> Float:
    """Values of one group that lie closer than the tolerance replaced by the middle one of those that differ.

    How many cells have a value does not matter: patches that hold different cells of a row agree on its edges.
    """
    order = np.lexsort((values, group))
    ranked, of = values[order], group[order]
    starts = np.r_[True, (np.diff(ranked) > tolerance) | (np.diff(of) != 0)]
    cluster = np.cumsum(starts) - 1
    distinct = np.flatnonzero(starts | np.r_[True, np.diff(ranked) != 0])
    first = np.searchsorted(cluster[distinct], np.arange(cluster[-1] + 1))
    count = np.diff(np.append(first, distinct.size))
    merged = np.empty_like(values)
    merged[order] = ranked[distinct[first + (count - 1) // 2]][cluster]
    return merged


class LatLonEngine:
    """Overlaps of host cells that are all latitude-longitude rectangles."""

    name = "latlon"
    area_tolerance = 2.5 * EDGE_TOLERANCE_OF_CELL

    def __init__(self) -> None:
        self._made: WeakKeyDictionary[HostGrid, _Rows] = WeakKeyDictionary()

    def check(self, hosts: HostGrid) -> None:
        """GridError naming the first cell without area, RegridError the first that is no rectangle."""
        self._corners(hosts)

    def _corners(self, hosts: HostGrid) -> tuple[Float, Float, Float, Float]:
        """South, north, west and width of each cell, unsnapped; raises what `check` does."""
        accepted, south, north, west, width = _corners(hosts.vertex_lon, hosts.vertex_lat)
        _refuse_empty(hosts, width * (north - south))
        bad = np.flatnonzero(~accepted)
        if bad.size:
            raise RegridError(
                f"regrid.engine is latlon but host cell {int(hosts.cell_id[bad[0]])} is no latitude-longitude "
                f"rectangle (corners lon {hosts.vertex_lon[bad[0]].tolist()}, lat {hosts.vertex_lat[bad[0]].tolist()}; "
                f"{bad.size} such cells in all); use regrid.engine: auto"
            )
        return south, north, west, width

    def area(self, hosts: HostGrid) -> Float:
        """R^2 dlon (sin north - sin south) of the corners as given, (n,), m2.

        Overlaps are made with edges that neighbours share, so for corners in real32 their sums differ from this by
        what rounding moved the edges, at most EDGE_TOLERANCE_OF_CELL of each side.
        """
        _, south, north, west, width = _corners(hosts.vertex_lon, hosts.vertex_lat)
        return Rectangles(south, north, west, west + width).area()

    def bounds(self, hosts: HostGrid, grid: RegularGrid) -> Bounds:
        """The rectangles themselves."""
        _, south, north, west, width = _corners(hosts.vertex_lon, hosts.vertex_lat)
        return Bounds(south, north, west, width)

    def coarse(self, grid: RegularGrid, patches: Sequence[Patch]) -> list[Overlap]:
        """Overlap areas of the cells of each patch (rows) with its host cells (columns), exact."""
        return [self._patch(grid, patch) for patch in patches]

    def fine(self, grid: RegularGrid, patch: Patch) -> Overlap:
        """The same: exact on every grid."""
        return self._patch(grid, patch)

    def between(self, source: HostGrid, target: HostGrid) -> Overlap:
        """Exact overlaps of two sets of rectangles; GridError where cells of either overlap."""
        rows, other = self._rows(source), self._rows(target)
        return _overlap(rows, _Targets.of(other), target.size, source.size)

    def _patch(self, grid: RegularGrid, patch: Patch) -> Overlap:
        return _overlap(
            self._rows(patch.hosts), _Targets.of_cells(grid, patch.cells), patch.cells.size, patch.hosts.size
        )

    def _rows(self, hosts: HostGrid) -> "_Rows":
        """Host cells by rows, made once of those of a patch; GridError or RegridError where there can be none."""
        if hosts not in self._made:
            cells = _with_shared_edges(*self._corners(hosts))
            rows = _Rows.of(cells)
            _refuse_overlaps(hosts, cells, rows)
            self._made[hosts] = rows
        return self._made[hosts]


@dataclass(frozen=True, eq=False)
class _Targets:
    """Target cells, or their parts on either side of 180, by rows (same parallels) and spans (same meridians).

    south, north, bands (n_rows,): parallels and sin north - sin south; west, east, width (n_spans,): meridians in
    [-180, 180] and degrees of longitude; row, span, cell (n,): those of each part, and the target cell it belongs to.
    """

    south: Float
    north: Float
    bands: Float
    west: Float
    east: Float
    width: Float
    row: Index
    span: Index
    cell: Index

    @classmethod
    def of_cells(cls, grid: RegularGrid, cells: Index) -> "_Targets":
        row, column = np.divmod(cells, grid.nlon)
        first, step = row.min(initial=grid.nlat), 360.0 / grid.nlon
        edges = grid.lat_edges[first : row.max(initial=0) + 2]
        bands = grid.area_rows[first : first + edges.size - 1] / np.radians(step) / EARTH_RADIUS**2
        used, span = _distinct(column, grid.nlon)
        west, east = grid.lon_edges[used], grid.lon_edges[used + 1]
        every = np.arange(cells.size)
        return cls(edges[:-1], edges[1:], bands, west, east, np.full(used.size, step), row - first, span, every)

    @classmethod
    def of(cls, rows: "_Rows") -> "_Targets":
        bands, every = band(rows.south, rows.north), np.arange(rows.row.size)
        width = rows.east - rows.west
        return cls(rows.south, rows.north, bands, rows.west, rows.east, width, rows.row, every, rows.host)


def _overlap(rows: "_Rows", targets: _Targets, n_row: int, n_col: int) -> Overlap:
    """Overlap areas of target cells with host cells, a block of targets at a time."""
    blocks = [_block(rows, targets, slice(at, at + _BLOCK)) for at in range(0, targets.cell.size, _BLOCK)]
    return Overlap.from_blocks(blocks, n_row, n_col)


def _block(rows: "_Rows", targets: _Targets, part: slice) -> tuple[Index, Index, Float]:
    """(cell, host, area) of the overlaps of some target cells: heights are those of rows, widths those of spans."""
    row, host_row, height = _shared_bands(rows, targets)
    first = np.searchsorted(row, targets.row[part], "left")
    query, pair = _expand(first, np.searchsorted(row, targets.row[part], "right") - first)
    n_spans = targets.west.size
    wanted, which = _distinct(host_row[pair] * n_spans + targets.span[part][query], rows.south.size * n_spans)
    first, segment, width = _shared_lengths(rows, targets, *np.divmod(wanted, max(n_spans, 1)))
    of, at = _expand(first[which], first[which + 1] - first[which])
    area = EARTH_RADIUS**2 * np.radians(width)[at] * height[pair[of]]
    return targets.cell[part][query[of]], rows.host[segment[at]], area


def _shared_bands(rows: "_Rows", targets: _Targets) -> tuple[Index, Index, Float]:
    """(row, host row, sin north - sin south of what they share) of all that share some, in this order."""
    row, host_row = rows.beside(targets.south, targets.north)
    height = _overlap_bands(
        rows.south[host_row], rows.north[host_row], targets.south[row], targets.north[row], targets.bands[row]
    )
    kept = height > 0
    return row[kept], host_row[kept], height[kept]


def _shared_lengths(rows: "_Rows", targets: _Targets, host_row: Index, span: Index) -> tuple[Index, Index, Float]:
    """Of pairs (n,) of host row and span: (n + 1,) where what follows begins for each, segments they share, degrees."""
    pair, segment = rows.reached(host_row, targets.west[span], targets.east[span])
    of = span[pair]
    width = _overlap_lengths(
        rows.west[segment], rows.east[segment], targets.west[of], targets.east[of], targets.width[of]
    )
    kept = width > 0
    return np.searchsorted(pair[kept], np.arange(span.size + 1)), segment[kept], width[kept]


def _distinct(values: Index, below: int) -> tuple[Index, Index]:
    """Distinct ones of values (n,) in 0..below - 1 and which of them each is; themselves where these are too many."""
    if below > _MOST_LISTED * values.size:
        return values, np.arange(values.size)
    there = np.zeros(below, bool)
    there[values] = True
    return np.flatnonzero(there), (np.cumsum(there) - 1)[values]


def _overlap_bands(south: Float, north: Float, low: Float, high: Float, whole: Float) -> Float:
    """sin north - sin south of what host rows and rows low..high share; exactly `whole` where the row lies inside."""
    covered = (south <= low + NOISE) & (north >= high - NOISE)
    bottom = np.where(south <= low + NOISE, low, np.where(south >= high - NOISE, high, south))
    top = np.where(north >= high - NOISE, high, np.where(north <= low + NOISE, low, north))
    return np.where(covered, whole, band(bottom, np.maximum(top, bottom)))


def _overlap_lengths(west: Float, east: Float, low: Float, high: Float, whole: Float) -> Float:
    """Degrees of longitude that host segments and columns low..high share; exactly `whole` where all of one."""
    covered = (west <= low + NOISE) & (east >= high - NOISE)
    left = np.where(west <= low + NOISE, low, np.where(west >= high - NOISE, high, west))
    right = np.where(east >= high - NOISE, high, np.where(east <= low + NOISE, low, east))
    return np.where(covered, whole, np.maximum(right - left, 0.0))


@dataclass(frozen=True, eq=False)
class _Rows:
    """Host cells by rows: cells with the same parallels, in order of longitude, cut at 180.

    south, north (n_rows,), sorted by south; west, east, row, host (n_segments,), sorted by (row, west).
    """

    south: Float
    north: Float
    west: Float
    east: Float
    row: Index
    host: Index

    @classmethod
    def of(cls, cells: Rectangles) -> "_Rows":
        south, north, row = _rows_of(cells.south, cells.north)
        over = np.flatnonzero(cells.east > 180.0)
        west = np.concatenate([cells.west, np.full(over.size, -180.0)])
        east = np.concatenate([np.minimum(cells.east, 180.0), cells.east[over] - 360.0])
        host = np.concatenate([np.arange(row.size), over])
        row = row[host]
        order = np.lexsort((host, west, row))
        return cls(south, north, west[order], east[order], row[order], host[order])

    def beside(self, south: Float, north: Float) -> tuple[Index, Index]:
        """(i, host row) of every pair of parallels south[i], north[i] and a row that may overlap, in this order."""
        meets = (self.south < north[:, None] - NOISE) & (self.north > south[:, None] + NOISE)
        row, host_row = np.nonzero(meets)
        return row, host_row

    def reached(self, host_row: Index, west: Float, east: Float) -> tuple[Index, Index]:
        """(i, segment) of every pair of meridians west[i], east[i] in [-180, 180] and a segment of row host_row[i] that
        may overlap, in this order."""  # fmt: skip
        key = host_row * _TURN
        begin = np.searchsorted(self.row * _TURN + self.east, key + west - 1e-6, "left")
        end = np.searchsorted(self.row * _TURN + self.west, key + east + 1e-6, "right")
        return _expand(begin, end - begin)


def _rows_of(south: Float, north: Float) -> tuple[Float, Float, Index]:
    """Distinct pairs (south, north), ascending, and which of them each cell has."""
    low, at_low = np.unique(south, return_inverse=True)
    high, at_high = np.unique(north, return_inverse=True)
    pair, row = np.unique(at_low * high.size + at_high, return_inverse=True)
    return low[pair // high.size], high[pair % high.size], row


def _expand(first: Index, count: Index) -> tuple[Index, Index]:
    """(i, first[i] + j) for every j < count[i], in order."""
    count = np.maximum(count, 0)
    item = np.repeat(np.arange(count.size), count)
    return item, first[item] + np.arange(item.size) - np.repeat(np.cumsum(count) - count, count)


def _refuse_empty(host: HostGrid, extent: Float) -> None:
    empty = np.flatnonzero(~(extent > 0))
    if empty.size:
        cell = int(host.cell_id[empty[0]])
        raise GridError(f"host cell {cell} has no area: its corners lie on one line ({empty.size} such cells in all)")


def _refuse_overlaps(host: HostGrid, cells: Rectangles, rows: _Rows) -> None:
    """GridError where two host cells share more than OVERLAP_TOLERANCE of the smaller one."""
    area = cells.area()

    def refuse(a: int, b: int, shared: float) -> None:
        if shared > OVERLAP_TOLERANCE * min(area[a], area[b]):
            first, second = sorted((int(host.cell_id[a]), int(host.cell_id[b])))
            raise GridError(
                f"host cells {first} and {second} overlap by {shared / 1e6:.6g} km2, "
                f"{shared / min(area[a], area[b]):.2g} of the smaller one; host cells must not overlap"
            )

    beside = (np.diff(rows.row) == 0) & (rows.west[1:] < rows.east[:-1])
    for i in np.flatnonzero(beside):
        a, b = rows.host[i], rows.host[i + 1]
        length = min(rows.east[i], rows.east[i + 1]) - rows.west[i + 1]
        if a != b:
            refuse(a, b, EARTH_RADIUS**2 * np.radians(length) * float(band(cells.south[a], cells.north[a])))
    row, host_row = rows.beside(rows.south, rows.north)
    row, host_row = row[row != host_row], host_row[row != host_row]
    first = np.searchsorted(row, rows.row, "left")
    query, pair = _expand(first, np.searchsorted(row, rows.row, "right") - first)
    at, segment = rows.reached(host_row[pair], rows.west[query], rows.east[query])
    query = query[at]
    a, b = rows.host[query], rows.host[segment]
    length = np.minimum(rows.east[query], rows.east[segment]) - np.maximum(rows.west[query], rows.west[segment])
    south, north = np.maximum(cells.south[a], cells.south[b]), np.minimum(cells.north[a], cells.north[b])
    shared = EARTH_RADIUS**2 * np.radians(np.maximum(length, 0)) * np.maximum(band(south, north), 0)
    for i in np.flatnonzero(shared > OVERLAP_TOLERANCE * np.minimum(area[a], area[b])):
        refuse(a[i], b[i], float(shared[i]))
