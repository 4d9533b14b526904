"""Areas that pairs of spherical polygons share, by clipping one with the edges of the other."""

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.regrid.polygons import Polygons, signed_area

Float = NDArray[np.float64]
Index = NDArray[np.int64]

_PAIRS = 1 << 15


def shared_area(subjects: Polygons, subject: Index, convex: Polygons, of: Index) -> Float:
    """Solid angle (n,) that subjects[subject] and convex[of] share, steradians; subjects may be concave.

    Sutherland and Hodgman (1974) with great circles for lines: the subject is cut by the half-spaces n.x >= 0 of each
    edge of the convex cell in turn. Each pair is computed by itself.
    """
    area = np.empty(subject.size)
    for first in range(0, subject.size, _PAIRS):
        part = slice(first, first + _PAIRS)
        corners = subjects.xyz[subject[part]]
        for normal in np.moveaxis(convex.normals[of[part]], 1, 0):
            corners = _cut(corners, normal)
        area[part] = signed_area(corners)
    return area


def _cut(corners: Float, normal: Float) -> Float:
    """The part of polygons (n, k, 3) where normal.x >= 0, (n, m, 3), padded by their first corner."""
    depth = np.einsum("nki,ni->nk", corners, normal)
    after, depth_after = np.roll(corners, -1, axis=1), np.roll(depth, -1, axis=1)
    inside, inside_after = depth >= 0, depth_after >= 0
    crosses = inside != inside_after
    along = depth / np.where(crosses, depth - depth_after, 1.0)
    crossing = corners + along[..., None] * (after - corners)
    length = np.linalg.norm(crossing, axis=-1, keepdims=True)
    crossing /= np.where(length > 0, length, 1.0)
    n, k, _ = corners.shape
    points = np.stack([crossing, after], 2).reshape(n, 2 * k, 3)
    kept = np.stack([crosses, inside_after], 2).reshape(n, 2 * k)
    count = kept.sum(1)
    order = np.argsort(~kept, axis=1, kind="stable")[:, : max(int(count.max(initial=1)), 1)]
    order = np.where(np.arange(order.shape[1]) < count[:, None], order, order[:, :1])
    found = np.take_along_axis(points, order[..., None], 1)
    return np.where((count > 0)[:, None, None], found, 0.0)
