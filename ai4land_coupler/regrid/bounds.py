"""Boxes of latitude and longitude around cells, and which blocks of a grid they touch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.regrid.polygons import Polygons

Float = NDArray[np.float64]
Index = NDArray[np.int64]

_MARGIN = 1e-4
"""Degrees by which boxes are widened: more than any engine moves an edge."""


@dataclass(frozen=True, eq=False)
class Bounds:
    """A box around each cell: south, north, west of any turn, width; (n,) float64, degrees."""

    south: Float
    north: Float
    west: Float
    width: Float

    @classmethod
    def of_polygons(cls, cells: Polygons, grid: RegularGrid) -> "Bounds":
        """Around cells whose edges are great circles, from their bounding caps.

        Cells of `grid` with such edges reach beyond their northern and southern parallels: boxes are widened by that.
        """
        centre, radius = cells.caps
        lat, lon = np.arcsin(np.clip(centre[:, 2], -1, 1)), np.arctan2(centre[:, 1], centre[:, 0])
        round_pole = np.abs(lat) + radius >= np.pi / 2 - 1e-6
        half = np.arcsin(np.minimum(np.sin(radius) / np.where(round_pole, 1.0, np.cos(lat)), 1.0))
        half = np.where(round_pole, np.pi, half)
        south, north = np.degrees(lat - radius) - bulge(grid), np.degrees(lat + radius) + bulge(grid)
        return cls(south, north, np.degrees(lon - half), np.degrees(2 * half))

    def touched(self, blocks: RegularGrid) -> tuple[Index, Index]:
        """(block, cell) of every block of a regular grid that a cell's box touches, in order of cell."""
        step_lat, step_lon = 180.0 / blocks.nlat, 360.0 / blocks.nlon
        south = np.floor((self.south + 90.0 - _MARGIN) / step_lat).astype(np.int64).clip(0, blocks.nlat - 1)
        north = np.floor((self.north + 90.0 + _MARGIN) / step_lat).astype(np.int64).clip(0, blocks.nlat - 1)
        west = np.floor((self.west + 180.0 - _MARGIN) / step_lon).astype(np.int64)
        east = np.floor((self.west + self.width + 180.0 + _MARGIN) / step_lon).astype(np.int64)
        across = np.minimum(east - west + 1, blocks.nlon)
        count = (north - south + 1) * across
        cell = np.repeat(np.arange(count.size), count)
        place = np.arange(cell.size) - np.repeat(np.cumsum(count) - count, count)
        row, column = south[cell] + place // across[cell], (west[cell] + place % across[cell]) % blocks.nlon
        return row * blocks.nlon + column, cell


def bulge(grid: RegularGrid) -> float:
    """Degrees by which a great circle between the corners of a cell leaves the parallel through them, at most.

    Midway between two points dlon apart at latitude phi it is at latitude arctan(tan(phi) / cos(dlon / 2)).
    """
    phi = np.radians(grid.lat_edges[1:-1])
    apart = np.arctan2(np.sin(phi), np.cos(phi) * np.cos(np.pi / grid.nlon)) - phi
    return float(np.degrees(np.abs(apart).max(initial=0.0)))
