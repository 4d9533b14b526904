"""Areas of a tile's fields by host cell and class: by hand, nested or cut, with the kernel and without."""

import numpy as np
import pytest

from ai4land_coupler.grids import HostGrid, RegularGrid
from ai4land_coupler.regrid import Overlap, Patch
from ai4land_coupler.regrid.latlon import LatLonEngine
from ai4land_coupler.tiles import Tile, TileCells
from ai4land_coupler.tilesums import TileSums

FINE = RegularGrid(80, 160)
DELIVERED = np.random.default_rng(6).random((40, 40)) < 0.4


@pytest.fixture
def cells() -> TileCells:
    """Of a tile that begins neither in the first row nor in the first column."""
    return TileCells.of(Tile(6, 40, 80, 40), DELIVERED, FINE, 10)


def overlap_with(cells: TileCells, nlat: int, nlon: int) -> tuple[Overlap, HostGrid]:
    grid = RegularGrid(nlat, nlon)
    hosts = HostGrid(np.arange(grid.size) + 1, *grid.corners(np.arange(grid.size)), np.ones(grid.size))
    return LatLonEngine().fine(FINE, Patch(cells.cells[cells.ascending], hosts)), hosts


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("classes", [1, 3, 8, 11])
@pytest.mark.parametrize(("nlat", "nested"), [(4, True), (8, True), (16, True), (80, True), (12, False), (7, False)])
def test_areas_are_those_of_the_overlaps(cells: TileCells, nlat: int, nested: bool, classes: int) -> None:
    """Hosts of 2 x 2, 1 x 1 and fewer than one coarse cell, of a fine cell each, and such as cut fine cells."""
    overlap, _ = overlap_with(cells, nlat, 2 * nlat)
    ids = np.arange(2 * nlat**2) + 100
    sums = TileSums.of(overlap, cells, FINE.area_rows, ids)
    assert (sums.cell is None) == nested
    x = np.random.default_rng(4).random((classes, cells.size))
    some = np.random.default_rng(5).random(cells.coarse.size) < 0.5
    by_host, whole, part = sums(x, some)
    expected = np.zeros((ids.size, classes))
    np.add.at(expected, overlap.col, (x[:, cells.ascending[overlap.row]] * overlap.area).T)
    np.testing.assert_allclose(by_host, expected[sums.hosts - 100], rtol=1e-13)
    assert not np.delete(expected, sums.hosts - 100, axis=0).any()
    area = x * FINE.area_rows[cells.rows]
    np.testing.assert_allclose(whole, area.sum(axis=1), rtol=1e-13)
    np.testing.assert_allclose(part, area[:, some[cells.coarse_of_cell]].sum(axis=1), rtol=1e-13)
    nothing = sums(x, np.zeros(cells.coarse.size, bool))
    assert not nothing[2].any()
    assert np.array_equal(nothing[0], by_host)


@pytest.mark.usefixtures("either_way")
def test_a_cell_in_two_hosts_and_a_host_met_twice(cells: TileCells) -> None:
    cell, host = np.array([0, 0, 1, 36, 5], np.int32), np.array([0, 1, 1, 1, 0], np.int32)
    sums = TileSums(cells, FINE.area_rows, np.array([7, 9]), host, cell, np.array([1.0, 2.0, 4.0, 8.0, 16.0]))
    x = np.random.default_rng(4).random((3, cells.size))
    expected = [x[:, 0] + 16 * x[:, 5], 2 * x[:, 0] + 4 * x[:, 1] + 8 * x[:, 36]]
    np.testing.assert_allclose(sums(x, np.zeros(cells.coarse.size, bool))[0], expected, rtol=1e-15)


@pytest.mark.usefixtures("either_way")
def test_a_tile_that_host_cells_cover_in_part(cells: TileCells) -> None:
    """Cells without a host count for the tile alone."""
    overlap, hosts = overlap_with(cells, 8, 16)
    kept = np.flatnonzero(overlap.col % 2 == 0)
    half = Overlap(overlap.row[kept], overlap.col[kept], overlap.area[kept], cells.size, hosts.size)
    sums = TileSums.of(half, cells, FINE.area_rows, hosts.cell_id)
    assert sums.cell is not None
    by_host, whole, _ = sums(np.ones((1, cells.size)), np.zeros(cells.coarse.size, bool))
    np.testing.assert_allclose(by_host.sum(), half.area.sum(), rtol=1e-13)
    assert by_host.sum() < 0.9 * whole[0]
