"""What crosses ranks, on one rank and simulated: exact sums, hashes of sets, boxes on blocks."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regrid_hosts import boxes, cubed_sphere, host, voronoi

from ai4land_coupler.comm import MPI, Communicator
from ai4land_coupler.exchange import HostExchange, hash_all, sum_areas
from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.regrid.bounds import Bounds, bulge
from ai4land_coupler.regrid.latlon import LatLonEngine
from ai4land_coupler.regrid.polygons import Polygons

COMM = Communicator(MPI.COMM_SELF)
SPHERE = 5.1e14


@given(st.lists(st.floats(-SPHERE / 20, SPHERE / 20), max_size=20), st.randoms())
@settings(max_examples=60, deadline=None)
def test_sums_are_exact_whatever_the_order(values, random):
    """Against rational arithmetic: each term is off by at most half of 2^-42 m2, the sum by what float64 can hold."""
    shuffled = random.sample(values, len(values))
    one, other = (sum_areas(COMM, np.array([v], dtype=np.float64))[0][0] for v in (values, shuffled))
    assert one == other
    exact = sum(map(Fraction, values), Fraction(0))
    assert abs(Fraction(one) - exact) <= len(values) * Fraction(1, 2**43) + Fraction(abs(one)) / 2**53


def test_sums_of_the_whole_sphere_do_not_overflow():
    areas = np.full((2, 1000), 2 * SPHERE / 1000)
    areas[1] *= -1
    (sums,) = sum_areas(COMM, areas)
    assert sums == pytest.approx([2 * SPHERE, -2 * SPHERE], rel=1e-15)


def test_plain_sums_depend_on_the_order():
    """Why sum_areas is there."""
    values = np.random.default_rng(0).random(1000) * 1e9
    assert len({sum(values), sum(values[::-1]), math.fsum(values)}) > 1


def test_the_hash_of_a_set_knows_its_members_and_not_their_order():
    digests = np.random.default_rng(1).integers(0, 256, (50, 32)).astype(np.uint8)
    whole = hash_all(COMM, digests)
    assert hash_all(COMM, digests[::-1]) == whole
    assert hash_all(COMM, digests[1:]) != whole
    changed = digests.copy()
    changed[7, 3] ^= 1
    assert hash_all(COMM, changed) != whole


def test_the_fingerprint_of_cells_does_not_depend_on_their_order():
    def fingerprint(grid):
        cells = np.arange(grid.size)
        return HostExchange.build(COMM, grid, cells, np.zeros_like(cells)).fingerprint

    grid = cubed_sphere(3)
    assert fingerprint(grid) == fingerprint(grid.take(np.arange(grid.size)[::-1]))
    other = replace(grid, land_fraction=np.full(grid.size, 0.6))
    assert fingerprint(grid) != fingerprint(other)


@pytest.mark.parametrize("grid", [cubed_sphere(6), voronoi(60, 3)], ids=["cubed sphere", "voronoi"])
def test_no_part_of_a_polygon_lies_outside_the_blocks_it_touches(grid):
    """Points inside each cell, made as means of its corners, fall into blocks that are listed for it."""
    blocks = RegularGrid(6, 12)
    touched = set(zip(*(x.tolist() for x in Bounds.of_polygons(Polygons.of(grid.vertex_lon, grid.vertex_lat), blocks).touched(blocks)), strict=True))  # fmt: skip # noqa: E501
    rng = np.random.default_rng(2)
    lon, lat = np.radians(grid.vertex_lon), np.radians(grid.vertex_lat)
    corners = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)
    for cell in range(grid.size):
        weight = rng.dirichlet(np.ones(grid.nvertex) * 0.3, 40)
        point = weight @ corners[cell]
        row = np.floor((np.degrees(np.arctan2(point[:, 2], np.hypot(point[:, 0], point[:, 1]))) + 90) / 30)
        column = np.floor((np.degrees(np.arctan2(point[:, 1], point[:, 0])) + 180) / 30) % 12
        found = {(int(r * 12 + c), cell) for r, c in zip(np.minimum(row, 5), column, strict=True)}
        assert found <= touched


def test_boxes_touch_what_they_should():
    """30 degree blocks: a cell within one, one over the date line at 30 N, one of 360 degrees."""
    grid = boxes([(5, 10, 5, 10), (170, 190, 25, 35), (0, 360, 80, 90)])
    blocks = RegularGrid(6, 12)
    block, cell = LatLonEngine().bounds(grid, blocks).touched(blocks)
    assert block[cell == 0].tolist() == [3 * 12 + 6]
    assert sorted(block[cell == 1].tolist()) == [36, 47, 48, 59]
    assert sorted(block[cell == 2].tolist()) == list(range(60, 72))
    cap = host([[0.0, 90, 180, 270]], [[80.0, 80, 80, 80]])
    block, _ = Bounds.of_polygons(Polygons.of(cap.vertex_lon, cap.vertex_lat), blocks).touched(blocks)
    assert sorted(block.tolist()) == list(range(60, 72))


def test_great_circle_cells_reach_beyond_their_parallels():
    """Between 0 and 90 E at 45 N the great circle rises to arctan(1 / cos 45) = 54.7 N, 9.7 degrees on."""
    assert bulge(RegularGrid(4, 4)) == pytest.approx(np.degrees(np.arctan(np.sqrt(2))) - 45, rel=1e-12)
    assert bulge(RegularGrid(360, 720)) == pytest.approx(np.degrees(np.radians(0.5) ** 2 / 16), rel=1e-4)
    north = boxes([(40, 50, 46, 50)])
    touched = Bounds.of_polygons(Polygons.of(north.vertex_lon, north.vertex_lat), RegularGrid(4, 4))
    assert 2 * 4 + 2 in touched.touched(RegularGrid(4, 4))[0]
