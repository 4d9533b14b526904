"""What is refused as a host cell, and which host cells overlap."""

import time
from itertools import permutations

import numpy as np
import pytest
from regrid_hosts import boxes, cubed_sphere, host, lattice, octants, shuffled, t63, voronoi

from ai4land_coupler.errors import GridError
from ai4land_coupler.grids import HostGrid
from ai4land_coupler.regrid import yac
from ai4land_coupler.regrid.clip import shared_area
from ai4land_coupler.regrid.geometry import OVERLAP_TOLERANCE, crossed, overlaps, refuse_overlaps
from ai4land_coupler.regrid.polygons import Polygons

CHECK = yac.engine().check


def polygons(grid):
    return Polygons.of(grid.vertex_lon, grid.vertex_lat)


def both(*grids):
    """Cells of several grids, padded to as many corners, ids from 1."""
    width = max(g.nvertex for g in grids)
    lon, lat = (
        np.concatenate([np.pad(getattr(g, name), ((0, 0), (0, width - g.nvertex)), "edge") for g in grids])
        for name in ("vertex_lon", "vertex_lat")
    )
    return host(lon, lat)


@pytest.mark.parametrize(
    ("lon", "lat"),
    [
        ([0.0, 10, 0, 10], [0.0, 0, 10, 10]),
        ([0.0, 10, 0, 10, 10], [0.0, 0, 10, 10, 10]),
        ([175.0, -175, 175, -175], [40.0, 40, 50, 52]),
        ([0.0, 90, 270, 180], [80.0, 80, 80, 80]),
        ([0.0, 144, 288, 72, 216], [70.0, 70, 70, 70, 70]),  # a star that goes round the pole twice
        ([0.0, 10, 10, 5, 5.2, 0], [0.0, 0, 10, 10, -1, 10]),
    ],
    ids=["quadrilateral", "padded", "date line", "over the pole", "star", "six corners"],
)
def test_a_bow_tie_is_named(lon, lat):
    lon, lat = (np.pad(np.array([part]), ((0, 0), (0, 6 - len(part))), "edge") for part in (lon, lat))
    grid = both(octants(), host(lon, lat))
    for turned in (grid, shuffled(grid, 1)):
        bad = HostGrid(turned.cell_id * 11, turned.vertex_lon, turned.vertex_lat, turned.land_fraction)
        with pytest.raises(GridError, match=r"host cell 99 .*its edges cross.* in order around .*\(1 such cells"):
            CHECK(bad)


@pytest.mark.parametrize(
    ("lon", "lat", "message"),
    [
        ([0.0, 10, 20, 5], [0.0, 0, 0, 0], "host cell 7 has no area"),
        ([0.0, 10, 10, 0], [5.0, 5, 5, 5], "host cell 7 has no area"),
        ([3.0, 3, 3, 3], [5.0, 5, 5, 5], "host cell 7 has no area"),
        ([0.0, 50, 120, 300], [90.0, 90, 90, 90], "host cell 7 has no area"),
        ([0.0, 180, 180, 0], [0.0, 0, 50, 50], "host cell 7 has an edge of 180 degrees"),
        ([0.0, 90, 0, -90], [-90.0, 0, 90, 0], "host cell 7 reaches more than 90 degrees"),
        ([0.0, 90, 180, 270], [0.0, 0, 0, 0], "host cell 7 reaches more than 90 degrees"),
        ([0.0, 90, 170, 170], [-89.0, 0, 60, 80], "host cell 7 reaches more than 90 degrees"),
    ],
)
def test_cells_that_are_no_polygons_are_named(lon, lat, message):
    with pytest.raises(GridError, match=message):
        CHECK(host([[0.0, 1, 1, 0], lon], [[0.0, 0, 1, 1], lat], cell_id=[3, 7]))


def test_cells_of_any_sound_shape_are_accepted():
    concave = host([[0.0, 10, 10, 5, 5, 0]], [[0.0, 0, 5, 5, 10, 10]])
    arrow = host([[0.0, 10, 0, 5]], [[-5.0, 0, 5, 0]])
    lune = host([[90.0, 135, 90, 45]], [[-90.0, 0, 90, 0]])
    cap = host([[0.0, 90, 180, 270]], [[80.0, 80, 80, 80]])
    for grid in (concave, arrow, lune, cap, cubed_sphere(4), voronoi(200), octants(), t63()):
        CHECK(grid)
        CHECK(shuffled(grid, 3))
    CHECK(host(np.zeros((0, 4)), np.zeros((0, 4))))


@pytest.mark.parametrize("latitude", [0.0, 50.0, 90.0])
def test_only_the_order_around_a_convex_cell_does_not_cross(latitude):
    """Of the 720 orders of a hexagon's corners the 12 that go round it, six starts in two senses."""
    angle = np.radians(np.arange(6) * 60.0 + 10)
    middle, east, north = np.radians(latitude), 0.1 * np.cos(angle), 0.1 * np.sin(angle)
    x, z = np.cos(middle) - np.sin(middle) * north, np.sin(middle) + np.cos(middle) * north
    lon, lat = np.degrees(np.arctan2(east, x)), np.degrees(np.arctan2(z, np.hypot(x, east)))
    orders = np.array(list(permutations(range(6))))
    steps = np.diff(orders, axis=1, append=orders[:, :1]) % 6
    round_it = (steps == 1).all(1) | (steps == 5).all(1)
    assert round_it.sum() == 12
    assert np.array_equal(crossed(Polygons.of(lon[orders], lat[orders])), ~round_it)


def test_corners_that_rounding_has_swapped_are_accepted():
    """Two corners 1e-5 degrees apart, the order of which real32 has turned round."""
    CHECK(host([[0.0, 1, 1, 0.50001, 0.5, 0]], [[0.0, 0, 1, 1.0, 1.00001, 1]]))
    CHECK(host([[0.0, 1, 1, 0.5, 0.50001, 0]], [[0.0, 0, 1, 1.0, 1.00001, 1]]))


@pytest.mark.parametrize(
    "grid",
    [cubed_sphere(12), voronoi(500), octants(), t63(), shuffled(voronoi(300), 5)],
    ids=["cubed sphere", "voronoi", "octants", "t63", "shuffled"],
)
def test_cells_that_only_touch_do_not_overlap(grid):
    assert overlaps(polygons(grid))[0].size == 0


def test_every_overlap_of_two_grids_is_found_and_no_other():
    """Against clipping of all pairs of cells of two Voronoi grids laid over one another."""
    grid = polygons(both(voronoi(60, 1), voronoi(90, 2)))
    every = np.arange(150)
    a, b = (part.ravel() for part in np.meshgrid(every, every, indexing="ij"))
    a, b = a[a < b], b[a < b]
    share = shared_area(grid, a, grid, b) / np.minimum(grid.area[a], grid.area[b])
    kept = share > OVERLAP_TOLERANCE
    first, second, found = overlaps(grid)
    assert kept.sum() > 300
    assert np.array_equal(np.stack([first, second]), np.stack([a[kept], b[kept]]))
    assert found == pytest.approx(share[kept], rel=1e-9)
    assert np.bincount(first, found * np.minimum(grid.area[first], grid.area[second]))[:60] == pytest.approx(
        grid.area[:60], rel=1e-2
    )


@pytest.mark.parametrize("factor", [1.0, 10.0, 1000.0])
def test_cells_of_very_different_sizes(factor):
    """A cell of 10 / factor degrees on a corner of each of four cells of 10 degrees that meet at (20 E, 0)."""
    small = 10.0 / factor
    large = boxes([(10, 20, -10, 0), (20, 30, -10, 0), (10, 20, 0, 10), (20, 30, 0, 10)])
    for place, partners in (((20, 0), {1, 2, 3, 4}), ((25, 0), {2, 4}), ((25, -5), {2}), ((50, 0), set())):
        west, south = place[0] - small / 2, place[1] - small / 2
        grid = both(large, boxes([(west, west + small, south, south + small)]))
        first, second, share = overlaps(polygons(grid))
        assert set((first + 1).tolist()) == partners
        assert (second + 1).tolist() == [5] * len(partners)
        if partners:
            assert share == pytest.approx(1 / len(partners), rel=2e-2)


def test_a_fine_patch_beside_coarse_cells():
    """0.01 degrees beside 10 degrees: 40,000 cells, one of which is twice there."""
    edges = np.linspace(0, 2, 201)
    grid = both(lattice(edges, edges), boxes([(2, 12, 0, 10), (-10, 0, 0, 10)]), boxes([(1, 1.01, 0.5, 0.51)]))
    first, second, share = overlaps(polygons(grid))
    assert (first.tolist(), second.tolist()) == ([50 * 200 + 100], [40_002])
    assert share == pytest.approx([1.0], rel=1e-9)


@pytest.mark.parametrize("size", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("rounded", ["real32", "1e-5"])
def test_corners_rounded_apart_are_no_overlap(size, rounded):
    """Every cell has its own corners, off by what real32 or five decimals lose; longitudes 0 to 360."""
    random = np.random.default_rng(4)
    for lat, lon in ((0.0, 359.0), (60.0, 179.0), (90.0 - 20 * size, 255.0)):
        grid = lattice(lat + np.arange(21) * size, lon + np.arange(21) * size)
        off = [5e-6, 5e-6] if rounded == "1e-5" else [1.5e-5 / 2, 3.8e-6]
        turn = grid.vertex_lon + random.uniform(-off[0], off[0], grid.vertex_lon.shape)
        tilt = np.clip(grid.vertex_lat + random.uniform(-off[1], off[1], grid.vertex_lat.shape), -90, 90)
        CHECK(host(turn, tilt))
        assert overlaps(polygons(host(turn, tilt)))[0].size == 0


def test_the_limit_is_a_ten_thousandth_of_the_smaller_cell():
    """Meridians overlap by 0.0009 and 0.0011 of 10 degrees, which is 0.9 and 1.1 ten thousandths of either cell."""
    for width, found in ((10.0009, 0), (10.0011, 1)):
        share = overlaps(polygons(boxes([(0, width, 0, 10), (10, 20, 0, 10)])))[2]
        assert share.size == found


def test_an_overlap_over_a_pole_and_over_the_date_line():
    """Caps of 80 N and 85 N around the pole; 170 E to 170 W and 175 E to 165 W share half of 20 degrees."""
    square = [0.0, 90, 180, 270]
    caps = polygons(host([square, square], [[80.0] * 4, [85.0] * 4]))
    first, second, share = overlaps(caps)
    assert (first.tolist(), second.tolist(), share.tolist()) == ([0], [1], pytest.approx([1.0]))
    line = polygons(boxes([(170, 190, 0, 5), (-185 + 360, 195, 0, 5), (-170, -160, 0, 5)]))
    first, second, share = overlaps(line)
    assert (first.tolist(), second.tolist()) == ([0, 1], [1, 2])
    assert share == pytest.approx([0.75, 0.5], rel=1e-2)


@pytest.mark.parametrize(("moved", "shared"), [(0.0, 0.0), (-0.5, 0.5), (-1.0, 2.0)])
def test_two_concave_cells(moved, shared):
    """[0, 2] x [0, 1] with [0, 1] x [1, 2] against [1, 3] x [2, 3] with [2, 3] x [1, 2]: two Ls that touch in a point.

    Moved by half a degree south and west they share two squares of half a degree, by one degree two of one degree.
    Great circles bend by 1e-4 of that.
    """
    lon = np.array([[0.0, 2, 2, 1, 1, 0], [3.0, 1, 1, 2, 2, 3]])
    lat = np.array([[0.0, 0, 1, 1, 2, 2], [3.0, 3, 2, 2, 1, 1]])
    move = np.array([[0.0], [moved]])
    cells = polygons(host(lon + move, lat + move))
    assert not cells.convex.any()
    assert overlaps(cells)[2].sum() == pytest.approx(shared / 3, rel=1e-3)


def test_the_worst_pair_is_named():
    lon = [[0.0, 10, 11, 1], [20.0, 28, 30, 22], [5.0, 15, 15, 5], [27.0, 40, 40, 27]]
    lat = [[0.0, 0, 10, 10], [0.0, 0, 5, 5], [5.0, 5, 12, 12], [0.0, 0, 5, 5]]
    grid = host(lon, lat, cell_id=[7, 8, 40, 3])
    with pytest.raises(GridError, match=r"host cells 7 and 40 overlap by 0\.\d+ of the smaller .*\(2 such pairs"):
        refuse_overlaps(grid, polygons(grid))


def test_a_grid_of_21600_cells_takes_well_under_two_seconds():
    grid = cubed_sphere(60)
    start = time.process_time()
    CHECK(grid)
    refuse_overlaps(grid, polygons(grid))
    assert grid.size == 21_600
    assert time.process_time() - start < 1.0
