"""Host grids for the regridding tests, as a host model would hand them over."""

from types import SimpleNamespace

import numpy as np
from scipy.spatial import ConvexHull, SphericalVoronoi

from ai4land_coupler.grids import EARTH_RADIUS, HostGrid
from ai4land_coupler.regrid import Patch, is_rectangle, make_engine

SPHERE = 4 * np.pi * EARTH_RADIUS**2

AUTO = SimpleNamespace(engine="auto", file=None, cache=None)


def engine_for(*hosts, options=AUTO, lacks_esmf="it is not asked for here"):
    """What `make_engine` takes for these hosts."""
    odd = [g.cell_id[~is_rectangle(g.vertex_lon, g.vertex_lat)] for g in hosts]
    return make_engine(options, min((int(o.min()) for o in odd if o.size), default=None), lacks_esmf)


def coarse(engine, hosts, grid):
    """The overlap of all cells of a grid, as one patch."""
    (overlap,) = engine.coarse(grid, [Patch(np.arange(grid.size), hosts)])
    return overlap


def fine(engine, hosts, grid, cells):
    """The fine overlap of some cells, ascending, as one patch."""
    return engine.fine(grid, Patch(cells, hosts))


def only(grid, kept):
    """Some of the cells."""
    return grid.take(np.flatnonzero(kept))


def same_entries(a, b):
    """Whether two overlaps agree bit for bit."""
    return np.array_equal(a.row, b.row) and np.array_equal(a.col, b.col) and np.array_equal(a.area, b.area)


def host(lon, lat, cell_id=None, land=None):
    """A host grid of corners (n, nvertex) in degrees, ids from 1."""
    n = len(lon)
    return HostGrid(
        np.arange(1, n + 1) if cell_id is None else np.asarray(cell_id),
        np.asarray(lon, dtype=np.float64),
        np.asarray(lat, dtype=np.float64),
        np.ones(n) if land is None else np.asarray(land, dtype=np.float64),
    )


def boxes(bounds, **kwargs):
    """Rectangles given as (west, east, south, north), corners counterclockwise from the south-west."""
    west, east, south, north = np.asarray(bounds, dtype=np.float64).T
    return host(np.stack([west, east, east, west], 1), np.stack([south, south, north, north], 1), **kwargs)


def lattice(lat_edges, lon_edges, **kwargs):
    """All cells between the parallels and meridians given, west to east, then south to north."""
    south, west = np.meshgrid(lat_edges[:-1], lon_edges[:-1], indexing="ij")
    north, east = np.meshgrid(lat_edges[1:], lon_edges[1:], indexing="ij")
    return boxes(np.stack([west.ravel(), east.ravel(), south.ravel(), north.ravel()], 1), **kwargs)


def gaussian_edges(nlat):
    """Parallels between the rows of a Gaussian grid: the cells' areas are the quadrature weights."""
    _, weight = np.polynomial.legendre.leggauss(nlat)
    sine = np.clip(np.concatenate([[-1.0], -1 + np.cumsum(weight)]), -1, 1)
    sine[-1] = 1.0
    return np.degrees(np.arcsin(sine))


def t63():
    """192 x 96 Gaussian cells, the first one centred on Greenwich."""
    return lattice(gaussian_edges(96), (np.arange(193) - 0.5) * 1.875)


def cubed_sphere(n):
    """Equiangular cubed sphere, 6 n^2 quadrilaterals with great-circle edges; no edge is a parallel but by chance."""
    t = np.tan(np.linspace(-np.pi / 4, np.pi / 4, n + 1))
    a, b = np.meshgrid(t, t, indexing="ij")
    one = np.ones_like(a)
    faces = [(one, a, b), (-one, -a, b), (-a, one, b), (a, -one, b), (-b, a, one), (b, a, -one)]
    lon, lat = [], []
    for x, y, z in faces:
        corner_lon, corner_lat = np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y)))
        for corners, out in ((corner_lon, lon), (corner_lat, lat)):
            out.append(np.stack([corners[:-1, :-1], corners[1:, :-1], corners[1:, 1:], corners[:-1, 1:]], -1))
    return host(np.concatenate([c.reshape(-1, 4) for c in lon]), np.concatenate([c.reshape(-1, 4) for c in lat]))


def shuffled(grid, seed=0):
    """The same cells in another winding, from another corner, turned by whole circles, padded by repeated corners."""
    random = np.random.default_rng(seed)
    n, nvertex = grid.vertex_lon.shape
    lon, lat = np.empty((n, nvertex + 2)), np.empty((n, nvertex + 2))
    for i in range(n):
        order = np.roll(np.arange(nvertex), random.integers(nvertex))[:: random.choice([-1, 1])]
        order = np.sort(np.concatenate([np.arange(nvertex), random.integers(nvertex, size=2)])), order
        order = order[1][order[0]]
        lon[i] = grid.vertex_lon[i, order] + 360.0 * random.integers(-1, 2)
        lat[i] = grid.vertex_lat[i, order]
    return HostGrid(grid.cell_id, lon, lat, grid.land_fraction)


def voronoi(n, seed=0):
    """Voronoi cells of n random points on the sphere: convex, three to a dozen corners, padded by the last one."""
    return _voronoi(np.random.default_rng(seed).normal(size=(n, 3)))


def hexagons(n):
    """The 10 n^2 + 2 Voronoi cells of an icosahedron with edges cut in n: twelve pentagons, else hexagons."""
    golden = (1 + np.sqrt(5)) / 2
    base = np.array([[a, b * golden, 0.0] for a in (-1, 1) for b in (-1, 1)])
    corners = np.concatenate([np.roll(base, turn, axis=1) for turn in range(3)])
    weight = np.array([[i, j, n - i - j] for i in range(n + 1) for j in range(n + 1 - i)]) / n
    points = (weight @ corners[ConvexHull(corners).simplices]).reshape(-1, 3)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    _, first = np.unique(np.round(points, 9) + 0.0, axis=0, return_index=True)
    return _voronoi(points[np.sort(first)])


def _voronoi(points):
    cells = SphericalVoronoi(points / np.linalg.norm(points, axis=1, keepdims=True))
    cells.sort_vertices_of_regions()
    nvertex = max(map(len, cells.regions))
    corner = np.array([region + [region[-1]] * (nvertex - len(region)) for region in cells.regions])
    x, y, z = np.moveaxis(cells.vertices[corner], -1, 0)
    return host(np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y))))


def capped(n):
    """Rings of n quadrilaterals, 20 degrees high, and a polygon of n corners round each pole."""
    lon = np.arange(n) * 360.0 / n + 7.0
    rings = lattice(np.arange(-80.0, 81.0, 20.0), np.append(lon, lon[0] + 360.0))
    pad = ((0, 0), (0, n - 4))
    return host(
        np.concatenate([[lon, lon], np.pad(rings.vertex_lon, pad, "edge")]),
        np.concatenate([np.repeat([[-80.0], [80.0]], n, 1), np.pad(rings.vertex_lat, pad, "edge")]),
    )


def octants():
    """The eight triangles between the equator and the meridians 0, 90, 180, 270: a half pi steradians each."""
    lon, lat = [], []
    for west in (0.0, 90.0, 180.0, 270.0):
        for pole in (-90.0, 90.0):
            lon.append([west, west + 90.0, west])
            lat.append([0.0, 0.0, pole])
    return host(lon, lat)
