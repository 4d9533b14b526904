"""Coarse cells given as one list of their pixels: what blocks of them give, with the kernel and without."""

import numpy as np
import pytest
from test_constraint import batch

from ai4land_coupler import constraint, kernel, pixels
from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.tiles import TileCells, all_tiles

FINE, COARSE = RegularGrid(160, 320), RegularGrid(16, 32)


@pytest.fixture
def given() -> tuple:
    """A tile's cells, three of its coarse cells, the network's planes (K, 50, 50) around the tile, and totals."""
    delivered = np.random.default_rng(6).random((40, 40)) < 0.4
    cells = TileCells.of(all_tiles(FINE, COARSE, 40)[5], delivered, FINE, 10)
    some = np.array([0, 2, cells.coarse.size - 1])
    planes, _, totals = batch(6, cells=10, classes=4, pixels=2500)
    picked = cells.pixels(some, FINE.area_rows)
    row, column = np.divmod(cells.inside[picked.which], 40)
    logits = pixels.Logits(np.ascontiguousarray(planes.swapaxes(0, 1)[:, 7]), ((row + 5) * 50 + column + 5).astype(int))
    return cells, some, picked, logits, totals[7:10]


@pytest.fixture(params=["compiled", "numpy"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernel and without it."""
    if request.param == "numpy":
        monkeypatch.setattr(kernel, "_module", None)
    elif not kernel.ready():
        pytest.skip("the kernel is not built")


def test_pixels_stand_where_their_cells_do(given: tuple) -> None:
    cells, some, picked, *_ = given
    assert (cells.coarse_of_cell[picked.which] == some[picked.cell]).all()
    assert (picked.cell_id == cells.cells[picked.which] + 1).all()
    assert np.array_equal(picked.area, FINE.area_rows[picked.cell_id // FINE.nlon])
    assert np.array_equal(picked.unblock(picked.block(picked.area)), picked.area)
    assert np.array_equal(picked.block(picked.area), cells.block(FINE.area_rows[cells.rows])[some])


@pytest.mark.usefixtures("either_way")
def test_fields_are_those_of_blocks(given: tuple) -> None:
    cells, _, picked, logits, totals = given
    out = np.full((4, cells.size), np.nan)
    residual = pixels.close(picked, logits, totals, out)
    area = picked.block(picked.area)
    expected, left = constraint.close(picked.block(logits.of_pixels()), area, totals)
    assert np.array_equal(picked.block(out[:, picked.which]), expected)
    assert np.array_equal(residual, left)
    assert np.isnan(np.delete(out, picked.which, axis=1)).all()
    drawn = constraint.quota(expected, area > 0, picked.block(picked.cell_id), totals)
    assert np.array_equal(picked.block(pixels.quota(picked, out, totals)), drawn)


@pytest.mark.usefixtures("either_way")
def test_errors_name_the_cell(given: tuple) -> None:
    cells, _, picked, logits, totals = given
    out = np.empty((4, cells.size))
    broken = logits.values.copy()
    broken[2, logits.at[picked.first[1] + 1]] = np.nan
    with pytest.raises(
        constraint.CellError, match="class 3: the network gave a logit that is not finite: nan"
    ) as caught:
        pixels.close(picked, pixels.Logits(broken, logits.at), totals, out)
    assert caught.value.cell == 1
    with pytest.raises(constraint.CellError, match="totals that sum to 1 are expected"):
        pixels.close(picked, logits, 0.9 * totals, out)
