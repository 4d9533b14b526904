"""Exact overlaps where every host cell is a latitude-longitude rectangle.

The overlap of two rectangles is R^2 (lambda_2 - lambda_1) (sin phi_2 - sin phi_1) on the sphere, exact for edges that
are parallels and meridians. Corners that agree within what real32 can hold are taken for one: every edge value of the
grid goes into a sorted list, values closer than the tolerance become one value of that list, and all cells use the
list. Neighbours therefore share their edges bit for bit, with neither overlap nor gap.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
    _, south, north, west, width = _corners(lon, lat)
    if not len(lon):
        return Rectangles(south, north, west, west)
    n, everywhere = len(lon), np.zeros(2 * len(lon) + 2, dtype=np.int64)
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

    def check(self, hosts: HostGrid) -> None:
        """GridError naming the first cell without area, RegridError the first that is no rectangle."""
        accepted, south, north, _, width = _corners(hosts.vertex_lon, hosts.vertex_lat)
        _refuse_empty(hosts, width * (north - south))
        bad = np.flatnonzero(~accepted)
        if bad.size:
            raise RegridError(
                f"regrid.engine is latlon but host cell {int(hosts.cell_id[bad[0]])} is no latitude-longitude "
                f"rectangle (corners lon {hosts.vertex_lon[bad[0]].tolist()}, lat {hosts.vertex_lat[bad[0]].tolist()}; "
                f"{bad.size} such cells in all); use regrid.engine: auto"
            )

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
        self.check(hosts)
        cells = rectangles(hosts.vertex_lon, hosts.vertex_lat)
        rows = _Rows.of(cells)
        _refuse_overlaps(hosts, cells, rows)
        return rows


@dataclass(frozen=True, eq=False)
class _Targets:
    """Target cells, or their parts on either side of 180, by rows of the same parallels.

    south, north, bands (n_rows,): parallels and sin north - sin south; row, cell, west, east, width (n,): the row and
    the target cell each part belongs to, its meridians in [-180, 180] and its degrees of longitude.
    """

    south: Float
    north: Float
    bands: Float
    row: Index
    cell: Index
    west: Float
    east: Float
    width: Float

    @classmethod
    def of_cells(cls, grid: RegularGrid, cells: Index) -> "_Targets":
        row, column = np.divmod(cells, grid.nlon)
        first, step = row.min(initial=grid.nlat), 360.0 / grid.nlon
        edges = grid.lat_edges[first : row.max(initial=0) + 2]
        bands = grid.area_rows[first : first + edges.size - 1] / np.radians(step) / EARTH_RADIUS**2
        west, east = grid.lon_edges[column], grid.lon_edges[column + 1]
        every = np.arange(cells.size)
        return cls(edges[:-1], edges[1:], bands, row - first, every, west, east, np.full(cells.size, step))

    @classmethod
    def of(cls, rows: "_Rows") -> "_Targets":
        bands = band(rows.south, rows.north)
        return cls(rows.south, rows.north, bands, rows.row, rows.host, rows.west, rows.east, rows.east - rows.west)


def _overlap(rows: "_Rows", targets: _Targets, n_row: int, n_col: int) -> Overlap:
    """Overlap areas of target cells with host cells, a block of targets at a time."""
    blocks = [_block(rows, targets, slice(at, at + _BLOCK)) for at in range(0, targets.cell.size, _BLOCK)]
    return Overlap.from_blocks(blocks, n_row, n_col)


def _block(rows: "_Rows", targets: _Targets, part: slice) -> tuple[Index, Index, Float]:
    row, cell, west, east = targets.row[part], targets.cell[part], targets.west[part], targets.east[part]
    query, segment, host_row = rows.find(targets.south, targets.north, row, west, east)
    at = row[query]
    height = _overlap_bands(
        rows.south[host_row], rows.north[host_row], targets.south[at], targets.north[at], targets.bands[at]
    )
    width = _overlap_lengths(
        rows.west[segment], rows.east[segment], west[query], east[query], targets.width[part][query]
    )
    area = EARTH_RADIUS**2 * np.radians(width) * height
    kept = (width > 0) & (height > 0)
    return cell[query[kept]], rows.host[segment[kept]], area[kept]


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

    def find(self, south: Float, north: Float, row: Index, west: Float, east: Float) -> tuple[Index, Index, Index]:
        """(query, segment, host row) of every pair that may overlap.

        Queries are rectangles with parallels south[row], north[row] and meridians west, east in [-180, 180].
        """
        meets = (self.south < north[:, None] - NOISE) & (self.north > south[:, None] + NOISE)
        query_row, host_row = np.nonzero(meets)
        first = np.searchsorted(query_row, row, "left")
        query, band_of = _expand(first, np.searchsorted(query_row, row, "right") - first)
        at = host_row[band_of]
        key = at * _TURN
        begin = np.searchsorted(self.row * _TURN + self.east, key + west[query] - 1e-6, "left")
        end = np.searchsorted(self.row * _TURN + self.west, key + east[query] + 1e-6, "right")
        pair, segment = _expand(begin, end - begin)
        return query[pair], segment, at[pair]


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
    query, segment, at = rows.find(rows.south, rows.north, rows.row, rows.west, rows.east)
    other = at != rows.row[query]
    query, segment = query[other], segment[other]
    a, b = rows.host[query], rows.host[segment]
    length = np.minimum(rows.east[query], rows.east[segment]) - np.maximum(rows.west[query], rows.west[segment])
    south, north = np.maximum(cells.south[a], cells.south[b]), np.minimum(cells.north[a], cells.north[b])
    shared = EARTH_RADIUS**2 * np.radians(np.maximum(length, 0)) * np.maximum(band(south, north), 0)
    for i in np.flatnonzero(shared > OVERLAP_TOLERANCE * np.minimum(area[a], area[b])):
        refuse(a[i], b[i], float(shared[i]))
