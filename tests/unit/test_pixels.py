"""Coarse cells given as one list of their pixels: what blocks of them give, with the kernel and without."""

import numpy as np
import pytest
from test_constraint import batch

from ai4land_coupler import constraint
from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.kernel import BASE, ONE, RUN
from ai4land_coupler.pixels import Pixels, end_of, fields, pick
from ai4land_coupler.tiles import Tile, TileCells, all_tiles

FINE, COARSE = RegularGrid(160, 320), RegularGrid(16, 32)
BASE_MAP = np.random.default_rng(3).integers(1, 5, (160, 320)).astype(np.uint8)


@pytest.fixture
def given() -> tuple:
    """A tile's cells, what each coarse cell shows, logits of those that are run, and totals of all."""
    delivered = np.random.default_rng(6).random((40, 40)) < 0.4
    cells = TileCells.of(all_tiles(FINE, COARSE, 40)[5], delivered, FINE, 10)
    kind = np.resize(np.array([RUN, ONE, RUN, BASE, RUN, ONE], np.uint8), cells.coarse.size)
    run = np.flatnonzero(kind == RUN)
    planes, _, totals = batch(6, cells=cells.coarse.size, classes=4, pixels=2500)
    n = int(np.diff(cells.first)[run].sum())
    return cells, kind, np.ascontiguousarray(planes[0, :, :n]), totals


def test_pixels_stand_where_their_cells_do() -> None:
    """Of a tile that begins neither in the first row nor in the first column."""
    fine = RegularGrid(80, 160)
    cells = TileCells.of(Tile(6, 40, 80, 40), np.random.default_rng(6).random((40, 40)) < 0.4, fine, 10)
    for some in (np.arange(cells.coarse.size), np.array([1, 4, 9]), np.empty(0, np.int64)):
        picked = Pixels.of(cells, some, fine.area_rows)
        assert (cells.coarse_of_cell[picked.which] == some[picked.cell]).all()
        assert (picked.cell_id == cells.cells[picked.which] + 1).all()
        assert np.array_equal(picked.area, fine.area_rows[(picked.cell_id - 1) // fine.nlon])
        assert np.array_equal(picked.unblock(picked.block(picked.area)), picked.area)
        assert np.array_equal(picked.block(picked.area), cells.block(fine.area_rows[cells.rows])[some])


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("share", [0.1, 0.7, 1.0])
@pytest.mark.parametrize("side", [10, 40], ids=["one coarse cell", "sixteen"])
def test_logits_are_picked_where_their_pixels_are(share: float, side: int) -> None:
    """Rows that follow each other without a gap too: the last pixel of one is not beside the first of the next."""
    random, fine = np.random.default_rng(9), RegularGrid(80, 160)
    delivered = random.random((side, side)) < share
    delivered[0, 0] = True
    cells = TileCells.of(Tile(6, 40, 80, side), delivered, fine, 10)
    window = random.normal(0, 3, (3, side + 6, side + 10)).astype(np.float32)
    fours = np.ascontiguousarray(window.reshape(3, side // 2 + 3, 2, side // 2 + 5, 2).transpose(1, 3, 0, 2, 4))
    fours = fours.reshape(*fours.shape[:2], 12)
    some = np.arange(0, cells.coarse.size, 2)
    pixels = Pixels.of(cells, some, fine.area_rows)
    out = np.full((3, pixels.which.size), np.nan, np.float32)
    means = pick(cells, some, fine.area_rows, fours, (-2, -4), out, True)
    inside = window[:, 2 : 2 + side, 4 : 4 + side].reshape(3, -1)
    assert np.array_equal(out, inside[:, cells.inside[pixels.which]])
    softmax = np.exp(out.astype(float)) / np.exp(out.astype(float)).sum(0)
    weighted = pixels.block(softmax * pixels.area).sum(2) / pixels.block(pixels.area).sum(1)[:, None]
    np.testing.assert_allclose(means, weighted, rtol=1e-12)
    assert pick(cells, some, fine.area_rows, fours, (-2, -4), out, False) is None


@pytest.mark.usefixtures("either_way")
def test_fields_are_those_of_blocks(given: tuple) -> None:
    cells, kind, logits, totals = given
    fractions = np.full((4, cells.size), np.nan)
    classes, residual = fields(cells, kind, FINE.area_rows, BASE_MAP, logits, totals, fractions)
    run, of_cell = np.flatnonzero(kind == RUN), kind[cells.coarse_of_cell]
    picked = Pixels.of(cells, run, FINE.area_rows)
    area = picked.block(picked.area)
    expected, left = constraint.close(picked.block(logits), area, totals[run])
    assert np.array_equal(picked.block(fractions[:, picked.which]), expected)
    assert np.array_equal(residual[run], left)
    assert not residual[kind != RUN].any()
    drawn = constraint.quota(expected, area > 0, picked.block(picked.cell_id), totals[run])
    assert np.array_equal(picked.block(classes[picked.which]), drawn)
    assert np.array_equal(classes[of_cell == BASE], BASE_MAP.reshape(-1)[cells.cells[of_cell == BASE]])
    only = totals.argmax(axis=1)[cells.coarse_of_cell] + 1
    assert np.array_equal(classes[of_cell == ONE], only[of_cell == ONE])
    shown = of_cell != RUN
    assert np.array_equal(fractions[:, shown], classes[shown] == np.arange(1, 5)[:, None])


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("every", ["some", "all"])
def test_logits_may_wait_where_the_fractions_will_be(given: tuple, every: str) -> None:
    """Some of the cells are run, or all are: then the last of the fractions meet the last of the logits."""
    cells, kind, _, totals = given
    kind = np.full_like(kind, RUN) if every == "all" else kind
    n = int(np.diff(cells.first)[kind == RUN].sum())
    logits = np.random.default_rng(2).normal(0, 3, (4, n)).astype(np.float32)
    apart, within = np.empty((4, cells.size)), np.full((4, cells.size), np.nan)
    expected = fields(cells, kind, FINE.area_rows, BASE_MAP, logits, totals, apart)
    waiting = end_of(within, n)
    waiting[...] = logits
    found = fields(cells, kind, FINE.area_rows, BASE_MAP, waiting, totals, within)
    assert np.array_equal(within, apart)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.usefixtures("either_way")
def test_a_tile_without_a_cell_that_is_run(given: tuple) -> None:
    cells, kind, logits, totals = given
    fractions = np.empty((4, cells.size))
    kind = np.where(kind == RUN, ONE, kind).astype(np.uint8)
    classes, residual = fields(cells, kind, FINE.area_rows, BASE_MAP, logits[:, :0], totals, fractions)
    assert (fractions.sum(axis=0) == 1.0).all()
    assert np.array_equal(fractions.argmax(axis=0) + 1, classes)
    assert not residual.any()


@pytest.mark.usefixtures("either_way")
def test_errors_name_the_cell(given: tuple) -> None:
    cells, kind, logits, totals = given
    out, run = np.empty((4, cells.size)), np.flatnonzero(kind == RUN)
    broken = logits.copy()
    broken[2, Pixels.of(cells, run, FINE.area_rows).first[1] + 1] = np.nan
    with pytest.raises(
        constraint.CellError, match="class 3: the network gave a logit that is not finite: nan"
    ) as caught:
        fields(cells, kind, FINE.area_rows, BASE_MAP, broken, totals, out)
    assert caught.value.cell == 1
    with pytest.raises(constraint.CellError, match="totals that sum to 1 are expected"):
        fields(cells, kind, FINE.area_rows, BASE_MAP, logits, 0.9 * totals, out)
