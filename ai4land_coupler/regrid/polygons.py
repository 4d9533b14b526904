"""Spherical polygons with great-circle edges: corners without padding, areas, bounding caps."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.grids import RegularGrid

Float = NDArray[np.float64]
Index = NDArray[np.int64]

SAME_POINT = 1e-10
"""Radians below which two consecutive corners are one."""


@dataclass(frozen=True, eq=False)
class Polygons:
    """Cells by their distinct corners, counterclockwise seen from outside.

    lon, lat (n, nvertex) float64, radians; count (n,) int64 corners that matter: the rest repeat the first one.
    """

    lon: Float
    lat: Float
    count: Index

    @classmethod
    def of(cls, lon: Float, lat: Float) -> "Polygons":
        """From corners in degrees (n, nvertex), in either winding, padded by repeated corners."""
        lon, lat = np.radians(lon), np.radians(lat)
        lon = np.where(np.abs(np.abs(lat) - np.pi / 2) < SAME_POINT, 0.0, lon)  # a pole is one point
        xyz = _xyz(lon, lat)
        kept = ~_same(xyz, np.roll(xyz, 1, axis=1))
        order = np.argsort(~kept, axis=1, kind="stable")
        count = kept.sum(1)
        lon, lat = np.take_along_axis(lon, order, 1), np.take_along_axis(lat, order, 1)
        flip = signed_area(_xyz(*_padded(lon, lat, count))) < 0
        place = np.arange(lon.shape[1])[None, :]
        turned = np.where(flip[:, None] & (place < count[:, None]), count[:, None] - 1 - place, place)
        lon, lat = np.take_along_axis(lon, turned, 1), np.take_along_axis(lat, turned, 1)
        return cls(*_padded(lon, lat, count), count)

    @classmethod
    def of_cells(cls, grid: RegularGrid, cells: Index) -> "Polygons":
        """Cells of a regular grid, by 0-based index, as polygons."""
        return cls.of(*grid.corners(cells))

    @cached_property
    def xyz(self) -> Float:
        """Corners as unit vectors, (n, nvertex, 3)."""
        return _xyz(self.lon, self.lat)

    @cached_property
    def area(self) -> Float:
        """Solid angle, (n,), steradians."""
        return signed_area(self.xyz)

    @cached_property
    def degenerate(self) -> NDArray[np.bool_]:
        """Cells without area: fewer than three corners, or corners on one line."""
        edge = np.linalg.norm(self.xyz - np.roll(self.xyz, 1, axis=1), axis=2).max(1)
        return (self.count < 3) | ~(self.area > 1e-9 * edge**2)

    @cached_property
    def normals(self) -> Float:
        """Unit vectors (n, nvertex, 3) whose half-spaces n.x >= 0 meet in the polygon, where it is convex."""
        after = np.roll(self.xyz, -1, axis=1)
        # (a x b) as a x (b - a): no cancellation on short edges
        normal = np.cross(self.xyz, after - self.xyz)
        length = np.linalg.norm(normal, axis=2, keepdims=True)
        unit = normal / np.where(length > 0, length, 1.0)
        return np.where(length > SAME_POINT, unit, unit[:, :1])

    @cached_property
    def supporting(self) -> NDArray[np.bool_]:
        """Edges (n, nvertex) whose great circle has no corner outside."""
        return np.asarray(np.einsum("nvi,nki->nvk", self.normals, self.xyz).min(2) > -1e-12)

    @cached_property
    def convex(self) -> NDArray[np.bool_]:
        """Cells with no corner outside the great circle of any edge."""
        return np.asarray(self.supporting.all(1))

    @cached_property
    def caps(self) -> tuple[Float, Float]:
        """Unit vector (n, 3) and angle (n,), radians, of a cap around each cell; cells are less than a hemisphere.

        The angle is pi where the corners have no middle.
        """
        weight = (np.arange(self.lon.shape[1]) < self.count[:, None]).astype(np.float64)
        centre = (self.xyz * weight[..., None]).sum(1)
        length = np.linalg.norm(centre, axis=1, keepdims=True)
        centre /= np.where(length > SAME_POINT, length, 1.0)
        return centre, np.where(length[:, 0] > SAME_POINT, angle(centre[:, None], self.xyz).max(1), np.pi)

    def take(self, cells: Index) -> "Polygons":
        """Some of the cells."""
        return Polygons(self.lon[cells], self.lat[cells], self.count[cells])


def angle(a: Float, b: Float) -> Float:
    """Angle between unit vectors (..., 3), radians, exact for small ones."""
    return 2 * np.arcsin(np.minimum(0.5 * np.linalg.norm(a - b, axis=-1), 1.0))


def _xyz(lon: Float, lat: Float) -> Float:
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)


def _same(a: Float, b: Float) -> NDArray[np.bool_]:
    return np.linalg.norm(a - b, axis=-1) < SAME_POINT


def _padded(lon: Float, lat: Float, count: Index) -> tuple[Float, Float]:
    used = np.arange(lon.shape[1]) < count[:, None]
    return np.where(used, lon, lon[:, :1]), np.where(used, lat, lat[:, :1])


def signed_area(xyz: Float) -> Float:
    """Solid angle (n,) of corners (n, nvertex, 3), steradians, positive if counterclockwise seen from outside.

    A fan of triangles with tan(E/2) = a.(b-a)x(c-a) / (1 + a.b + b.c + c.a) (Eriksson 1990).
    """
    a, b, c = xyz[:, :1], xyz[:, 1:-1], xyz[:, 2:]
    triple = np.einsum("nvi,nvi->nv", np.broadcast_to(a, b.shape), np.cross(b - a, c - a))
    below = 1 + (a * b).sum(-1) + (b * c).sum(-1) + (c * a).sum(-1)
    return (2 * np.arctan2(triple, below)).sum(1)
