"""Exact overlaps of latitude-longitude rectangles, against integrals written out by hand and a brute-force oracle."""

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from regrid_hosts import (
    SPHERE,
    boxes,
    coarse,
    cubed_sphere,
    engine_for,
    fine,
    gaussian_edges,
    host,
    lattice,
    same_entries,
    shuffled,
    t63,
)

from ai4land_coupler.errors import GridError, RegridError
from ai4land_coupler.grids import EARTH_RADIUS, RegularGrid
from ai4land_coupler.regrid import Patch
from ai4land_coupler.regrid.latlon import LatLonEngine, is_rectangle

R2 = EARTH_RADIUS**2
LATLON = LatLonEngine()
QUADRANTS = RegularGrid(2, 4)  # cells 0-3 south, 4-7 north of the equator, from 180 W
COARSE, FINE = RegularGrid(360, 720), RegularGrid(3600, 7200)


def dense(overlap):
    matrix = np.zeros((overlap.n_row, overlap.n_col))
    matrix[overlap.row, overlap.col] = overlap.area
    return matrix


def oracle(host_bounds, grid):
    """R^2 dlon (sin - sin) of every pair, one at a time; bounds (west, east, south, north), 0 < east - west <= 360."""
    matrix = np.zeros((grid.size, len(host_bounds)))
    for c in range(grid.size):
        south, north = grid.lat_edges[c // grid.nlon], grid.lat_edges[c // grid.nlon + 1]
        west, east = grid.lon_edges[c % grid.nlon], grid.lon_edges[c % grid.nlon + 1]
        for h, (w, e, s, n) in enumerate(host_bounds):
            height = np.sin(np.radians(min(n, north))) - np.sin(np.radians(max(s, south)))
            width = sum(max(min(e + t, east) - max(w + t, west), 0) for t in (-720, -360, 0, 360, 720))
            matrix[c, h] = R2 * np.radians(width) * max(height, 0)
    return matrix


def test_a_cell_across_a_meridian():
    """45 E to 135 E, equator to 30 N: half in 0-90 E, half in 90-180 E; each R^2 (pi/4) (sin 30 - sin 0)."""
    overlap = coarse(LATLON, boxes([(45, 135, 0, 30)]), QUADRANTS)
    assert overlap.row.tolist() == [6, 7]
    assert overlap.area == pytest.approx(2 * [R2 * np.pi / 8], rel=1e-14)


def test_a_pole_cell_across_the_equator():
    """60 W to 60 E, 30 S to the pole: per 60 degrees R^2 (pi/3) times sin 0 - sin(-30) = 1/2 and sin 90 - sin 0 = 1."""
    overlap = coarse(LATLON, boxes([(-60, 60, -30, 90)]), QUADRANTS)
    assert overlap.row.tolist() == [1, 2, 5, 6]
    assert overlap.area == pytest.approx(R2 * np.pi / 3 * np.array([0.5, 0.5, 1, 1]), rel=1e-14)


def test_a_cell_across_the_date_line():
    """170 E to 170 W, north of the equator: 10 degrees, R^2 pi/18, in the last column and in the first."""
    for turn in (-360, 0, 360):
        overlap = coarse(LATLON, boxes([(170 + turn, 190 + turn, 0, 90)]), QUADRANTS)
        assert overlap.row.tolist() == [4, 7]
        assert overlap.area == pytest.approx(2 * [R2 * np.pi / 18], rel=1e-13)
    lon, lat = [[170.0, -170.0, -170.0, 170.0]], [[0.0, 0.0, 45.0, 45.0]]
    overlap = coarse(LATLON, host(lon, lat), QUADRANTS)
    assert overlap.area == pytest.approx(2 * [R2 * np.pi / 18 * np.sqrt(0.5)], rel=1e-13)


def test_a_polar_cap_is_one_cell_of_360_degrees():
    """The cap south of 60 S has R^2 2 pi (1 - sin 60), a quarter of it in each column."""
    overlap = coarse(LATLON, boxes([(0, 360, -90, -60)]), QUADRANTS)
    assert overlap.row.tolist() == [0, 1, 2, 3]
    assert overlap.area == pytest.approx(4 * [R2 * np.pi / 2 * (1 - np.sqrt(0.75))], rel=1e-13)


def test_a_triangle_at_the_pole_with_any_longitude_there():
    lon, lat = [[10.0, 30.0, 123.0, 123.0]], [[60.0, 60.0, 90.0, 90.0]]
    overlap = coarse(LATLON, host(lon, lat), QUADRANTS)
    assert overlap.row.tolist() == [6]
    assert overlap.area == pytest.approx([R2 * np.pi / 9 * (1 - np.sqrt(0.75))], rel=1e-13)


def test_rows_and_columns_are_positions_in_the_patch():
    hosts = boxes([(-180, -90, -90, 80), (0, 90, -80, 90), (90, 180, -90, 90 - 1e-6)], cell_id=[4, 50, 51])
    overlap = fine(LATLON, hosts, QUADRANTS, np.array([0, 5, 6, 7]))
    assert overlap.row.tolist() == [0, 2, 3]
    assert overlap.col.tolist() == [0, 1, 2]
    assert overlap.area == pytest.approx(3 * [R2 * np.pi / 2], rel=1e-15)


@st.composite
def rectilinear(draw):
    """Bounds of a global lattice with edges anywhere, some cells missing."""
    inner = draw(st.lists(st.floats(-89, 89), min_size=1, max_size=5, unique_by=lambda v: round(v, 1)))
    lat = [-90.0, *sorted(inner), 90.0]
    first = draw(st.floats(-360, 360))
    steps = np.array(draw(st.lists(st.floats(1, 10), min_size=3, max_size=6)))
    lon = first + np.concatenate([[0], np.cumsum(steps / steps.sum() * 360)])
    bounds = [(w, e, s, n) for s, n in pairwise(lat) for w, e in pairwise(lon)]
    kept = draw(st.lists(st.booleans(), min_size=len(bounds), max_size=len(bounds)))
    return [b for b, k in zip(bounds, kept, strict=True) if k and b[1] - b[0] < 180], draw(st.integers(0, 2**31))


@settings(max_examples=30, deadline=None)
@given(rectilinear())
def test_any_lattice_agrees_with_the_oracle(case):
    bounds, seed = case
    if not bounds:
        return
    grid = RegularGrid(6, 12)
    overlap = coarse(LATLON, shuffled(boxes(bounds), seed), grid)
    # an edge is taken for the grid line it lies within 1e-11 degrees of
    assert dense(overlap) == pytest.approx(oracle(bounds, grid), abs=1e-12 * R2)


def test_the_globe_is_covered_once_and_every_host_cell_keeps_its_area():
    for grid in (t63(), lattice(np.linspace(-90, 90, 181), np.linspace(0, 360, 361))):
        overlap = coarse(LATLON, grid, COARSE)
        south, north = grid.vertex_lat[:, 0], grid.vertex_lat[:, 2]
        width = np.radians(360 / np.unique(grid.vertex_lon[:, 0]).size)
        area = R2 * width * 2 * np.cos(np.radians((south + north) / 2)) * np.sin(np.radians((north - south) / 2))
        assert_allclose(overlap.col_sum(), area, rtol=1e-12)
        assert_allclose(overlap.row_sum(), np.repeat(COARSE.area_rows, COARSE.nlon), rtol=2e-12)
        assert overlap.area.sum() == pytest.approx(SPHERE, rel=1e-14)


def test_winding_turn_padding_and_first_corner_change_nothing():
    plain = coarse(LATLON, lattice(gaussian_edges(16), np.arange(33) * 11.25), COARSE)
    other = coarse(LATLON, shuffled(lattice(gaussian_edges(16), np.arange(33) * 11.25), 3), COARSE)
    assert np.array_equal(plain.row, other.row)
    assert np.array_equal(plain.col, other.col)
    assert_allclose(other.area, plain.area, rtol=1e-11)


def test_a_subset_has_the_columns_of_the_whole():
    grid = t63()
    kept = np.flatnonzero(np.random.default_rng(5).random(grid.size) < 0.3)
    part = host(grid.vertex_lon[kept], grid.vertex_lat[kept], grid.cell_id[kept])
    whole, some = coarse(LATLON, grid, COARSE), coarse(LATLON, part, COARSE)
    entries = np.isin(whole.col, kept)
    assert np.array_equal(whole.row[entries], some.row)
    assert np.array_equal(whole.col[entries], kept[some.col])
    assert np.array_equal(whole.area[entries], some.area)


def test_a_reduced_gaussian_grid_with_rows_of_their_own_length():
    edges, bounds = gaussian_edges(32), []
    for row, points in enumerate([20, 27, 36, 40, 45, 50, 60, 64, 72, 75, 80, 90, 90, 96, 100, 108]):
        for j in (row, 31 - row):
            step = 360 / points
            bounds += [((i - 0.5) * step, (i + 0.5) * step, edges[j], edges[j + 1]) for i in range(points)]
    overlap = coarse(engine_for(boxes(bounds)), boxes(bounds), COARSE)
    assert_allclose(overlap.row_sum(), np.repeat(COARSE.area_rows, COARSE.nlon), rtol=1e-11)
    area = [R2 * np.radians(e - w) * (np.sin(np.radians(n)) - np.sin(np.radians(s))) for w, e, s, n in bounds]
    assert_allclose(overlap.col_sum(), area, rtol=1e-12)


def test_cells_of_different_sizes():
    """One 10 degree cell, its neighbour cut in four: the small ones fill it without overlap or gap."""
    small = [(10 + i, 15 + i, j, 5 + j) for j in (0, 5) for i in (0, 5)]
    overlap = coarse(LATLON, boxes([(0, 10, 0, 10), *small]), RegularGrid(18, 36))
    assert overlap.row_sum()[9 * 36 + 18 : 9 * 36 + 20] == pytest.approx(
        2 * [R2 * np.pi / 18 * np.sin(np.radians(10))], rel=1e-12
    )


def test_single_precision_corners_share_their_edges_after_snapping():
    """Edges computed twice in real32, from the west and from the east, differ by rounding; the globe stays whole."""
    centre = ((np.arange(300) + 0.5) * 1.2).astype(np.float32)
    half = np.float32(0.6)
    west, east = (centre - half).astype(np.float64), (centre + half).astype(np.float64)
    assert np.abs(east[:-1] - west[1:]).max() > 1e-6
    lat = np.degrees(np.arcsin(np.linspace(-1, 1, 97))).astype(np.float32).astype(np.float64)
    bounds = [(w, e, s, n) for s, n in pairwise(lat) for w, e in zip(west, east, strict=True)]
    overlap = coarse(engine_for(boxes(bounds)), boxes(bounds), COARSE)
    assert_allclose(overlap.row_sum(), np.repeat(COARSE.area_rows, COARSE.nlon), rtol=2e-12)


def test_what_is_a_rectangle():
    lon, lat = [0.0, 2, 2, 0], [40.0, 40, 42, 42]
    cases = {
        "plain": (lon, lat, True),
        "rounded to real32": ([0, 2, 2 + 1e-5, 0], [40, 40 + 4e-6, 42, 42], True),
        "tilted": ([0, 2, 2.01, 0.01], lat, False),
        "slanted": (lon, [40, 40.01, 42.01, 42], False),
        "bow-tie": ([0, 2, 2, 0], [40, 42, 40, 42], False),
        "triangle": ([0, 2, 2, 2], [40, 40, 42, 42], False),
        "line": (lon, [40, 40, 40, 40], False),
        "the short way round": ([0, 200, 200, 0], lat, True),
        "half the globe": ([0, 180, 180, 0], lat, False),
        "pole": ([0, 2, 79, 11], [40, 40, 90, 90], True),
        "from pole to pole": ([5, 9, 79, 11], [-90, -90, 90, 90], False),
    }
    for name, (x, y, expected) in cases.items():
        assert is_rectangle(np.array([x], dtype=float), np.array([y], dtype=float))[0] == expected, name


def test_a_rotated_grid_is_not_lat_lon():
    grid = cubed_sphere(8)
    assert not is_rectangle(grid.vertex_lon, grid.vertex_lat).any()
    with pytest.raises(RegridError, match=r"host cell 1 is no latitude-longitude rectangle .*engine: auto"):
        LATLON.check(grid)


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ((0, 10, 0, 10), (9.9, 19, 0, 10)),  # beside each other in one row
        ((0, 10, 0, 10), (2, 8, 4, 14)),  # in different rows
        ((350, 361, 0, 10), (0, 9, 0, 10)),  # across Greenwich
        ((175, 185, 0, 10), (-176, -170, 0, 10)),  # across the date line
        ((0, 10, 0, 10), (0, 10, 0, 10)),  # the same cell twice
        ((0, 360, 80, 90), (7, 9, 70, 81)),  # under a polar cap
    ],
)
def test_overlapping_cells_are_named(first, last):
    with pytest.raises(GridError, match=r"host cells 101 and 103 overlap by .* km2"):
        coarse(LATLON, boxes([first, (40, 50, 0, 10), last], cell_id=[101, 102, 103]), QUADRANTS)


def test_cells_that_touch_or_overlap_by_rounding_are_accepted():
    """A ten thousandth of a cell is the limit: 0.0009 of 10 degrees passes, 0.0011 does not."""
    coarse(LATLON, boxes([(0, 10.0009, 0, 10), (10, 20, 0, 10)]), QUADRANTS)
    with pytest.raises(GridError, match="host cells 1 and 2 overlap"):
        coarse(LATLON, boxes([(0, 10.0011, 0, 10), (10, 20, 0, 10)]), QUADRANTS)


def test_an_empty_cell_is_named():
    with pytest.raises(GridError, match="host cell 2 has no area"):
        LATLON.check(boxes([(0, 10, 0, 10), (10, 10, 0, 10)]))


def test_no_host_cells_and_no_fine_cells():
    nothing = host(np.zeros((0, 4)), np.zeros((0, 4)))
    assert coarse(engine_for(nothing), nothing, QUADRANTS).row.size == 0
    assert fine(LATLON, t63(), FINE, np.zeros(0, dtype=np.int64)).n_row == 0
    assert LATLON.coarse(QUADRANTS, []) == []
    assert LATLON.between(nothing, t63()).area.size == LATLON.between(t63(), nothing).area.size == 0


def test_fine_cells_do_not_depend_on_their_company():
    cells = np.sort(np.random.default_rng(2).choice(FINE.size, 2000, replace=False))
    together = fine(LATLON, t63(), FINE, cells)
    half = [fine(LATLON, t63(), FINE, part) for part in (cells[:700], cells[700:])]
    assert np.array_equal(together.area, np.concatenate([half[0].area, half[1].area]))
    assert np.array_equal(together.col, np.concatenate([half[0].col, half[1].col]))


def test_a_patch_does_not_depend_on_the_others_nor_on_ids():
    grid = t63()
    patches = [
        Patch(np.arange(first, first + 40_000), grid.take(np.arange(at, at + 9000)))
        for first, at in ((0, 0), (100_000, 4000), (200_000, 9000))
    ]
    together = LATLON.coarse(COARSE, patches)
    for patch, overlap in zip(patches, together, strict=True):
        assert overlap.area.size > 1000
        assert same_entries(LATLON.coarse(COARSE, [patch])[0], overlap)
        h = patch.hosts
        renamed = host(h.vertex_lon, h.vertex_lat, cell_id=h.cell_id * 7 + 10**12)
        assert same_entries(LATLON.coarse(COARSE, [Patch(patch.cells, renamed)])[0], overlap)


def test_a_patch_in_another_order_is_refused():
    with pytest.raises(RegridError, match="cells of a patch must ascend without repetition, got 3 after 5"):
        Patch(np.array([1, 5, 3]), t63())
    with pytest.raises(RegridError, match="host cell ids of a patch must ascend without repetition, got 7 after 7"):
        Patch(np.array([1]), boxes([(0, 1, 0, 1), (1, 2, 0, 1)], cell_id=[7, 7]))


def test_areas_are_those_written_out():
    """A quarter of a hemisphere, R^2 pi/2; the cap south of 60 S; 20 degrees over the date line up to 30 N."""
    hosts = boxes([(0, 90, 0, 90), (0, 360, -90, -60), (170, 190, 0, 30)])
    expected = [R2 * np.pi / 2, R2 * 2 * np.pi * (1 - np.sqrt(0.75)), R2 * np.pi / 9 / 2]
    assert LATLON.area(hosts) == pytest.approx(expected, rel=1e-13)
    assert coarse(LATLON, boxes([(170, 190, 0, 30)]), COARSE).col_sum() == pytest.approx(expected[2:], rel=1e-12)


def test_between_rectangles_over_the_date_line():
    """170 E to 170 W, 0 to 30 N (sin 1/2), into a cell ending at 175 E, one over the line, one beyond it."""
    source = boxes([(170, 190, 0, 30)])
    target = boxes([(160, 175, 0, 90), (175, -175 + 360, -30, 30), (-175, -150, 0, 30)])
    overlap = LATLON.between(source, target)
    assert (overlap.n_row, overlap.n_col) == (3, 1)
    assert overlap.row.tolist() == [0, 1, 2]
    assert overlap.area == pytest.approx(R2 * np.radians([5, 10, 5]) / 2, rel=1e-12)
    back = LATLON.between(target, source)
    assert back.col.tolist() == [0, 1, 2]
    assert np.array_equal(back.area, overlap.area)


def test_between_a_box_and_a_gaussian_grid():
    """Rows of a Gaussian grid have the weights of the quadrature as their sin north - sin south: for four rows
    0.347854845137454 and 0.652145154862546 (Abramowitz and Stegun 25.4.30). Of columns of 60 degrees from
    Greenwich the box 40 W to 50 E takes 50 degrees of the first and 40 of the last."""
    target = lattice(gaussian_edges(4), np.arange(7) * 60.0)
    overlap = LATLON.between(boxes([(-40, 50, 0, 90)]), target)
    assert overlap.row.tolist() == [12, 17, 18, 23]
    dlon = np.radians([50, 40, 50, 40])
    weight = np.repeat([0.652145154862546, 0.347854845137454], 2)
    assert overlap.area == pytest.approx(R2 * dlon * weight, rel=1e-13)


def test_between_two_global_grids_every_cell_keeps_its_area():
    source, target = shuffled(t63(), 1), lattice(np.linspace(-90, 90, 46), np.arange(73) * 5.0 - 182.5)
    overlap = LATLON.between(source, target)
    assert_allclose(overlap.col_sum(), LATLON.area(source), rtol=1e-11)
    assert_allclose(overlap.row_sum(), LATLON.area(target), rtol=1e-11)
    regular = LATLON.between(t63(), lattice(COARSE.lat_edges[::10], COARSE.lon_edges[::10]))
    expected = coarse(LATLON, t63(), RegularGrid(36, 72))
    assert np.array_equal(regular.row, expected.row)
    assert_allclose(regular.area, expected.area, rtol=1e-11)


def test_between_refuses_overlaps_on_either_side():
    good, bad = boxes([(0, 10, 0, 10)]), boxes([(0, 10, 0, 10), (5, 15, 0, 10)], cell_id=[8, 9])
    for pair in ((good, bad), (bad, good)):
        with pytest.raises(GridError, match="host cells 8 and 9 overlap"):
            LATLON.between(*pair)


def test_it_is_fast():
    """0.3 s for the globe at 0.5 degrees and 0.05 s for a tile of 240 x 240 on one core; twice that if it is busy."""
    row, column = np.mgrid[2000:2240, 3500:3740]
    cells = (row * FINE.nlon + column).ravel()
    hosts = t63()

    def best(work):
        spent = []
        for _ in range(3):
            start = time.process_time()
            work()
            spent.append(time.process_time() - start)
        return min(spent)

    assert best(lambda: coarse(LATLON, hosts, COARSE)) < 0.6
    assert best(lambda: fine(LATLON, hosts, FINE, cells)) < 0.1
