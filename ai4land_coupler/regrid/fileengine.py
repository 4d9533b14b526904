"""Overlaps with the coarse grid from a weight file; those with the fine grid come from the polygons.

The source address of a link is the `cell_id` of a host cell, the destination address a cell of the emulator's coarse
grid, west to east from 180 W, then south to north from 90 S, both counted from 1. Links of cells that the host does
not have (its sea cells, where only land is coupled) are left out.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import RegridError
from ai4land_coupler.grids import EARTH_RADIUS, HostGrid, RegularGrid, wrap_longitude
from ai4land_coupler.regrid.bounds import Bounds
from ai4land_coupler.regrid.engine import Engine, Patch
from ai4land_coupler.regrid.overlap import Overlap
from ai4land_coupler.regrid.polygons import Polygons
from ai4land_coupler.regrid.weightfile import Links, read_links

Float = NDArray[np.float64]
Index = NDArray[np.int64]

AREA_TOLERANCE = 0.02
"""How far a file's target areas may be from the coarse grid's: great-circle edges, not another grid."""

_LOG = logging.getLogger("ai4land_coupler")


class FileEngine:
    """The host's weights from a file, read once; everything else from an engine for its polygons."""

    area_tolerance = AREA_TOLERANCE

    def __init__(self, path: Path, polygons: Engine) -> None:
        self._path, self._polygons = Path(path), polygons
        self._shared: tuple[RegularGrid, Float] | None = None
        try:
            with self._path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as reason:
            raise RegridError(f"regrid.file {path} cannot be read: {reason}") from reason
        self.name = f"file {self._path.name} sha256:{digest}"

    def check(self, hosts: HostGrid) -> None:
        """Look at the polygons, and whether the file knows the ids."""
        self._polygons.check(hosts)
        n_source = self._links.n_source
        if n_source is not None and hosts.cell_id.max(initial=0) > n_source:
            raise self._links.error(
                f"it is for {n_source} source cells but the host has cell id {int(hosts.cell_id.max())}; source "
                "addresses are the host's cell ids"
            )

    def area(self, hosts: HostGrid) -> Float:
        """Areas of the cells' polygons, (n,), m2; those of the file may differ by AREA_TOLERANCE."""
        return self._polygons.area(hosts)

    def bounds(self, hosts: HostGrid, grid: RegularGrid) -> Bounds:
        """Boxes that hold the cells whether the file's edges are great circles or parallels."""
        own = self._polygons.bounds(hosts, grid)
        caps = Bounds.of_polygons(Polygons.of(hosts.vertex_lon, hosts.vertex_lat), grid)
        west = np.where(own.width > caps.width, own.west, caps.west)
        return Bounds(
            np.minimum(own.south, caps.south), np.maximum(own.north, caps.north), west,
            np.maximum(own.width, caps.width),
        )  # fmt: skip

    def coarse(self, grid: RegularGrid, patches: Sequence[Patch]) -> list[Overlap]:
        """Overlap areas from the file: row = position in the patch's cells, column = position in its hosts."""
        return [self._overlap(grid, patch) for patch in patches]

    def fine(self, grid: RegularGrid, patch: Patch) -> Overlap:
        """Overlap areas from the polygons."""
        return self._polygons.fine(grid, patch)

    def between(self, source: HostGrid, target: HostGrid) -> Overlap:
        """Overlap areas from the polygons."""
        return self._polygons.between(source, target)

    @cached_property
    def _links(self) -> Links:
        """The file's links in order of target cell, those of a cell in the order of the file."""
        return _sorted(read_links(self._path))

    def _areas(self, grid: RegularGrid) -> Float:
        """Area of each link, m2, once the whole file is found to be for this grid."""
        if self._shared is None or self._shared[0] != grid:
            _check_grid(self._links, grid)
            self._shared = grid, self._links.shares() * _target_area(self._links, grid)[self._links.row]
            if self._links.covered is None and self._links.rule() == "fracarea":
                _LOG.warning(
                    "%s does not say how much of its target cells is covered; taken as all of each", self._path
                )
        return self._shared[1]

    def _overlap(self, grid: RegularGrid, patch: Patch) -> Overlap:
        area, links, ids = self._areas(grid), self._links, patch.hosts.cell_id
        first, last = (np.searchsorted(links.row, patch.cells, side) for side in ("left", "right"))
        count = last - first
        link = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())
        row, source = np.repeat(np.arange(patch.cells.size), count), links.col[link] + 1
        column = np.searchsorted(ids, source)
        here = np.append(ids, -1)[column] == source
        return Overlap.from_triplets(row[here], column[here], area[link[here]], patch.cells.size, ids.size)


def _sorted(links: Links) -> Links:
    order = np.argsort(links.row, kind="stable")
    return replace(links, row=links.row[order], col=links.col[order], weight=links.weight[order])


def _check_grid(links: Links, grid: RegularGrid) -> None:
    """RegridError where the file is for another target than this grid."""
    size = f"the emulator's coarse grid has {grid.size} ({grid.nlat} x {grid.nlon})"
    if links.n_target not in (None, grid.size):
        raise links.error(f"it is for {links.n_target} target cells, {size}")
    if links.row.max() >= grid.size:
        raise links.error(f"it has links to target cell {links.row.max() + 1}, {size}")
    if links.lon is not None and links.lat is not None:
        _check_centres(links, links.lon, links.lat, grid)


def _check_centres(links: Links, lon: Float, lat: Float, grid: RegularGrid) -> None:
    north, east = np.repeat(grid.lat, grid.nlon), np.tile(grid.lon, grid.nlat)
    apart = np.maximum(np.abs(lat - north), np.abs(wrap_longitude(lon - east)) * np.cos(np.radians(north)))
    cell = int(np.argmax(apart))
    if apart[cell] > 0.1 * 180.0 / grid.nlat:
        raise links.error(
            f"target cell {cell + 1} lies at {lon[cell]:.4f} E {lat[cell]:.4f} N, expected {east[cell]:.4f} E "
            f"{north[cell]:.4f} N: cells must run west to east from 180 W, then south to north"
        )


def _target_area(links: Links, grid: RegularGrid) -> Float:
    """Area of each coarse cell, m2: the file's own, which its weights refer to, else the exact one."""
    exact = np.repeat(grid.area_rows, grid.nlon)
    if links.area is None:
        return exact
    area = links.area * EARTH_RADIUS**2
    used = np.unique(links.row)
    off = np.abs(area[used] / exact[used] - 1)
    if off.max() > AREA_TOLERANCE:
        cell = int(used[np.argmax(off)])
        raise links.error(
            f"target cell {cell + 1} has area {links.area[cell]:.6g}, expected {exact[cell] / EARTH_RADIUS**2:.6g} "
            "steradians; another grid, another order or another unit"
        )
    return area
