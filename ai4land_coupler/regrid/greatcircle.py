"""Overlaps of polygons with great-circle edges, whichever library makes them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.grids import EARTH_RADIUS, HostGrid, RegularGrid
from ai4land_coupler.regrid import cover
from ai4land_coupler.regrid.bounds import Bounds
from ai4land_coupler.regrid.clip import shared_area
from ai4land_coupler.regrid.engine import Patch
from ai4land_coupler.regrid.geometry import refuse_odd, refuse_overlaps
from ai4land_coupler.regrid.overlap import Overlap
from ai4land_coupler.regrid.polygons import Polygons

Float = NDArray[np.float64]
Index = NDArray[np.int64]

_R2 = EARTH_RADIUS**2
_WHOLE = 1e-9
_SLIVER = 1e-10
_KNOWN: WeakKeyDictionary[HostGrid, Polygons] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Shares:
    """Parts of target cells (row) that source cells (col) cover: row, col (n,) int64 from 0, share (n,) float64."""

    row: Index
    col: Index
    share: Float


Task = tuple[Polygons, Polygons]
"""Source cells and target cells."""


@dataclass(frozen=True, eq=False)
class GreatCircleEngine:
    """An engine for cells of any number of corners, joined by great circles.

    name: what stands in log, cache and output. shares: first-order conservative shares for each (source, target),
    in that order; RegridError where they cannot be made.

    Every rank makes the overlaps of its own fine cells, and there the library would cost more than the work: a fine
    cell wholly inside one host cell counts whole, with its exact latitude-longitude area, and one that host edges cut
    is shared out by clipping, scaled to that area. No cell's result depends on the others asked for.
    """

    name: str
    shares: Callable[[Sequence[Task]], list[Shares]]
    area_tolerance = 1e-6

    def check(self, hosts: HostGrid) -> None:
        """GridError naming the first cell without area, with crossing edges, or too large."""
        refuse_odd(hosts, _polygons(hosts))

    def area(self, hosts: HostGrid) -> Float:
        """Areas of the spherical polygons, (n,), m2."""
        return _polygons(hosts).area * _R2

    def bounds(self, hosts: HostGrid, grid: RegularGrid) -> Bounds:
        """Boxes around the caps that bound the cells."""
        return Bounds.of_polygons(_polygons(hosts), grid)

    def coarse(self, grid: RegularGrid, patches: Sequence[Patch]) -> list[Overlap]:
        """Great circles on both sides; all patches go to the library in one call."""
        chosen: list[Index] = []
        tasks: list[Task] = []
        for patch in patches:
            hosts = _polygons(patch.hosts)
            refuse_odd(patch.hosts, hosts)
            refuse_overlaps(patch.hosts, hosts)
            reached = cover.within_reach(hosts, grid, patch.cells)
            chosen.append(reached)
            tasks.append((hosts, Polygons.of_cells(grid, patch.cells[reached])))
        return [
            _overlap(found, target, rows, patch.cells.size, patch.hosts.size)
            for found, (_, target), rows, patch in zip(self._made(tasks), tasks, chosen, patches, strict=True)
        ]

    def fine(self, grid: RegularGrid, patch: Patch) -> Overlap:
        """Exact areas of the regular cells, shared out without the library."""
        cells, n = patch.cells, patch.hosts.size
        exact = grid.area_rows[cells // grid.nlon]
        if not (cells.size and n):
            return Overlap.from_triplets([], [], [], cells.size, n)
        hosts = _polygons(patch.hosts)
        (whole, owner), (cut, reaching) = cover.split(hosts, grid, cells)
        cut_cells, at = np.unique(cut, return_inverse=True)
        target = Polygons.of_cells(grid, cells[cut_cells])
        share = shared_area(hosts, reaching, target, at) / target.area[at]
        share[share < _SLIVER] = 0.0
        covered = np.bincount(at, weights=share, minlength=cut_cells.size)
        share /= np.where(np.abs(covered - 1) < _WHOLE, covered, 1.0)[at]
        blocks = [(whole, owner, exact[whole]), (cut, reaching, share * exact[cut])]
        return Overlap.from_blocks(blocks, cells.size, n)

    def between(self, source: HostGrid, target: HostGrid) -> Overlap:
        """Great circles on both sides; GridError where cells of either grid are odd or overlap."""
        cells = []
        for grid in (source, target):
            cells.append(_polygons(grid))
            refuse_odd(grid, cells[-1])
            refuse_overlaps(grid, cells[-1])
        (found,) = self._made([(cells[0], cells[1])])
        return _overlap(found, cells[1], np.arange(target.size), target.size, source.size)

    def _made(self, tasks: Sequence[Task]) -> list[Shares]:
        """The shares of every task; those without cells on either side are not asked for."""
        asked = [i for i, (source, target) in enumerate(tasks) if source.count.size and target.count.size]
        none = np.zeros(0, dtype=np.int64)
        made = [Shares(none, none, np.zeros(0))] * len(tasks)
        for i, found in zip(asked, self.shares([tasks[i] for i in asked]) if asked else [], strict=True):
            made[i] = found
        return made


def _polygons(hosts: HostGrid) -> Polygons:
    """The cells of a host grid, which a caller asks for several times; kept as long as the grid is."""
    if hosts not in _KNOWN:
        _KNOWN[hosts] = Polygons.of(hosts.vertex_lon, hosts.vertex_lat)
    return _KNOWN[hosts]


def _overlap(found: Shares, target: Polygons, rows: Index, n_row: int, n_col: int) -> Overlap:
    """Shares of the target cells as areas, with the targets standing in `rows` of the overlap."""
    area = found.share * target.area[found.row] * _R2
    return Overlap.from_triplets(rows[found.row], found.col, area, n_row, n_col)
