"""Which cells of a regular grid lie wholly inside one host cell, and which are cut by a host edge.

A host cell with great-circle edges is, where convex, the meeting of half-spaces n.x >= 0. A small cell between
parallels and meridians stays within (dlon^2 + dlat^2) / 8 of the convex hull of its corners (the sagitta of its
edges), so its corners decide with that margin: all farther inside than the margin, or all farther outside of one edge.
"""

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.regrid.polygons import Polygons, angle

Float = NDArray[np.float64]
Index = NDArray[np.int64]
Pairs = tuple[Index, Index]

_ROUNDING = 1e-13
_PAIRS = 4096


def split(hosts: Polygons, grid: RegularGrid, cells: Index) -> tuple[Pairs, Pairs]:
    """Pair cells of a regular grid (m,), 0-based and distinct, with the host cells that cover them.

    Returns (position in `cells`, host) of every cell wholly inside a host cell, and of every other cell with each host
    cell that may reach it, both in order of host.
    """
    blocks = _Blocks(grid, cells)
    block, host = _near(hosts, blocks)
    whole: list[Pairs] = []
    cut: list[Pairs] = []
    for first in range(0, block.size, _PAIRS):
        b, h = block[first : first + _PAIRS], host[first : first + _PAIRS]
        within, near = _sides(hosts, h, blocks, b)
        place = blocks.position[b]
        for found, chosen in ((whole, within), (cut, near & ~within)):
            pair, cell = np.nonzero(chosen & (place >= 0))
            found.append((place[pair, cell], h[pair]))
    position, owner = _joined(whole)
    is_whole = np.zeros(cells.size, dtype=bool)
    is_whole[position] = True
    place, reaching = _joined(cut)
    open_ = ~is_whole[place]
    return (position, owner), (place[open_], reaching[open_])


def within_reach(hosts: Polygons, grid: RegularGrid, cells: Index) -> Index:
    """Positions in `cells` (0-based, distinct) of those that host cells may overlap, ascending; no others they do."""
    if not (cells.size and hosts.count.size):
        return np.zeros(0, dtype=np.int64)
    blocks = _Blocks(grid, cells)
    place = np.sort(blocks.position[np.unique(_near(hosts, blocks)[0])].ravel())
    return place[place >= 0]


def _joined(pairs: list[Pairs]) -> Pairs:
    empty = np.zeros(0, dtype=np.int64)
    return np.concatenate([empty, *(p[0] for p in pairs)]), np.concatenate([empty, *(p[1] for p in pairs)])


class _Blocks:
    """Square blocks of grid cells that hold asked-for cells; the lattice of their corners is shared by the cells."""

    def __init__(self, grid: RegularGrid, cells: Index) -> None:
        self.size = next(size for size in (10, 8, 6, 5, 4, 3, 2, 1) if grid.nlat % size == grid.nlon % size == 0)
        self.grid = grid
        self.shape = (grid.nlat // self.size, grid.nlon // self.size)
        row, column = np.divmod(cells, grid.nlon)
        index, block = np.unique(
            row // self.size * self.shape[1] + column // self.size, return_inverse=True
        )  # fmt: skip
        self.position = np.full((index.size, self.size**2), -1, dtype=np.int64)
        self.position[block, row % self.size * self.size + column % self.size] = np.arange(cells.size)
        self.row, self.column = np.divmod(index, self.shape[1])
        self.number = np.full(self.shape, -1, dtype=np.int64)
        self.number[self.row, self.column] = np.arange(index.size)

    def margin(self, size: float = 1.0) -> float:
        """How far a cell `size` cells wide reaches beyond the hull of its corners, in the unit of n.x."""
        step = np.radians([180.0 / self.grid.nlat, 360.0 / self.grid.nlon]) * size
        return float((step**2).sum() / 8) + _ROUNDING

    def lattice(self, blocks: Index, step: int) -> Float:
        """Every `step`-th corner of the cells of some blocks as unit vectors, (n, k, k, 3), south to north."""
        offset = np.arange(0, self.size + 1, step)
        lat = np.radians(self.grid.lat_edges[self.row[blocks, None] * self.size + offset])[:, :, None]
        lon = np.radians(self.grid.lon_edges[self.column[blocks, None] * self.size + offset])[:, None, :]
        z = np.broadcast_to(np.sin(lat), (blocks.size, offset.size, offset.size))
        return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), z], -1)


def _near(hosts: Polygons, blocks: _Blocks) -> Pairs:
    """(block, host) of all pairs whose bounding caps meet, in order of host."""
    centre, radius = hosts.caps
    every = np.arange(blocks.row.size)
    corners = blocks.lattice(every, blocks.size).reshape(every.size, 4, 3)
    middle = corners.sum(1)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    reach = angle(middle[:, None], corners).max(1) + blocks.margin(blocks.size)
    lat, lon = np.arcsin(np.clip(centre[:, 2], -1, 1)), np.arctan2(centre[:, 1], centre[:, 0])
    n_row, n_column = blocks.shape
    step_lat, step_lon = np.pi / n_row, 2 * np.pi / n_column
    south = np.floor((lat - radius + np.pi / 2) / step_lat - 1e-6).astype(np.int64)
    north = np.floor((lat + radius + np.pi / 2) / step_lat + 1e-6).astype(np.int64)
    south, north = np.maximum(south, blocks.row.min()), np.minimum(north, blocks.row.max())
    round_pole = np.abs(lat) + radius >= np.pi / 2 - 1e-6
    half = np.arcsin(np.minimum(np.sin(radius) / np.where(round_pole, 1.0, np.cos(lat)), 1.0))
    west = np.floor((lon - half + np.pi) / step_lon - 1e-6).astype(np.int64)
    count = np.minimum(np.floor((lon + half + np.pi) / step_lon + 1e-6).astype(np.int64) - west + 1, n_column)
    west, count = np.where(round_pole, 0, west), np.where(round_pole, n_column, count)
    host, at = _boxes(np.maximum(north - south + 1, 0), count)
    row, column = south[host] + at // count[host], (west[host] + at % count[host]) % n_column
    block = blocks.number[row, column]
    host, block = host[block >= 0], block[block >= 0]
    meet = angle(centre[host], middle[block]) <= radius[host] + reach[block]
    return block[meet], host[meet]


def _boxes(rows: Index, columns: Index) -> Pairs:
    """(i, j) for every j < rows[i] columns[i], in order."""
    count = rows * columns
    item = np.repeat(np.arange(count.size), count)
    return item, np.arange(item.size) - np.repeat(np.cumsum(count) - count, count)


def _sides(hosts: Polygons, host: Index, blocks: _Blocks, block: Index) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(wholly inside, not wholly outside) for every cell of each (block, host) pair, (n, size^2) each."""
    lattice = blocks.lattice(block, 1)
    n, k = lattice.shape[:2]
    depth = np.einsum("nvi,nki->nvk", hosts.normals[host], lattice.reshape(n, k * k, 3)).reshape(n, -1, k, k)
    corners = [depth[:, :, i : k - 1 + i, j : k - 1 + j] for i in (0, 1) for j in (0, 1)]
    margin = blocks.margin()
    low, high = np.minimum.reduce(corners).min(1), np.maximum.reduce(corners).min(1)
    convex = hosts.convex[host][:, None, None]
    within, near = (low > margin) & convex, (high > -margin) | ~convex
    return within.reshape(n, -1), near.reshape(n, -1)
