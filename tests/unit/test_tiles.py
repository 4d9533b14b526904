"""Tiles cover the globe once, and their cells round-trip through coarse blocks."""

import numpy as np
import pytest

from ai4land_coupler.errors import GridError
from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.tiles import TileCells, all_tiles, deal

FINE, COARSE = RegularGrid(80, 160), RegularGrid(8, 16)


def test_tiles_paint_every_cell_once() -> None:
    canvas = np.zeros((FINE.nlat, FINE.nlon), dtype=int)
    for tile in all_tiles(FINE, COARSE, 40):
        canvas[tile.rows, tile.cols] += 1
    assert (canvas == 1).all()


def test_tiles_that_cut_coarse_cells_are_refused() -> None:
    with pytest.raises(GridError, match="whole coarse cells"):
        all_tiles(FINE, COARSE, 16)


@pytest.mark.parametrize(("count", "ranks"), [(7, 3), (2, 4), (0, 3), (9, 3)])
def test_deal_is_even_and_parts_neighbours(count: int, ranks: int) -> None:
    owner = deal(count, ranks)
    assert owner.size == count
    assert (np.diff(owner) != 0).all()
    shares = np.bincount(owner, minlength=ranks)
    assert shares.max() - shares.min() <= 1


def test_cells_know_their_coarse_cell_and_go_round_the_blocks() -> None:
    rng = np.random.default_rng(0)
    tile = all_tiles(FINE, COARSE, 40)[6]
    delivered = rng.random((40, 40)) < 0.3
    delivered[:10, :10] = False
    cells = TileCells.of(tile, delivered, FINE, 10)
    row, col = cells.cells // FINE.nlon, cells.cells % FINE.nlon
    assert cells.size == delivered.sum()
    assert delivered[row - tile.row0, col - tile.col0].all()
    assert (cells.coarse[cells.coarse_of_cell] == row // 10 * COARSE.nlon + col // 10).all()
    assert (np.diff(cells.cells[cells.ascending]) > 0).all()
    assert cells.ascending.size == cells.size
    assert tile.row0 // 10 * COARSE.nlon + tile.col0 // 10 not in cells.coarse
    values = rng.random((3, cells.size))
    blocks = cells.block(values)
    assert blocks.shape == (cells.coarse.size, 3, 100)
    assert (cells.unblock(blocks) == values).all()
    assert np.isclose(blocks.sum(), values.sum())
    assert (cells.grid(values[0], -1.0)[delivered] >= 0).all()
    assert (cells.grid(values[0], -1.0)[~delivered] == -1).all()
