"""Areas of a tile's fields by host cell and class, and what tells their bits, with the kernel and without."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ai4land_coupler import kernel, tally
from ai4land_coupler.grids import HostGrid, RegularGrid
from ai4land_coupler.regrid import Overlap, Patch
from ai4land_coupler.regrid.latlon import LatLonEngine
from ai4land_coupler.tally import TileSums, mark
from ai4land_coupler.tiles import Tile, TileCells

FINE = RegularGrid(80, 160)
DELIVERED = np.random.default_rng(6).random((40, 40)) < 0.4


def tile_cells() -> TileCells:
    """Of a tile that begins neither in the first row nor in the first column."""
    return TileCells.of(Tile(6, 40, 80, 40), DELIVERED, FINE, 10)


@pytest.fixture
def cells() -> TileCells:
    return tile_cells()


def drawn(cells: TileCells) -> NDArray[np.uint8]:
    return (np.arange(cells.size) % 3 + 1).astype(np.uint8)


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
    some = np.random.default_rng(5).random(cells.coarse.size) < 0.5
    sums = TileSums.of(overlap, cells, FINE.area_rows, ids, some)
    assert (sums.cell is None) == nested
    x = np.random.default_rng(4).random((classes, cells.size))
    found = sums(x, drawn(cells))
    expected = np.zeros((ids.size, classes))
    np.add.at(expected, overlap.col, (x[:, cells.ascending[overlap.row]] * overlap.area).T)
    np.testing.assert_allclose(found.by_host, expected[sums.hosts - 100], rtol=1e-13)
    assert not np.delete(expected, sums.hosts - 100, axis=0).any()
    area = x * FINE.area_rows[cells.rows]
    np.testing.assert_allclose(found.delivered, area.sum(axis=1), rtol=1e-13)
    np.testing.assert_allclose(found.filled, area[:, some[cells.coarse_of_cell]].sum(axis=1), rtol=1e-13)
    nothing = replace(sums, borrowed=np.zeros_like(some))(x, drawn(cells))
    assert not nothing.filled.any()
    assert np.array_equal(nothing.by_host, found.by_host)
    assert nothing.bits == found.bits


@pytest.mark.usefixtures("either_way")
def test_more_hosts_than_two_bytes_tell_apart(cells: TileCells, monkeypatch: pytest.MonkeyPatch) -> None:
    overlap, hosts = overlap_with(cells, 80, 160)
    none, x = np.zeros(cells.coarse.size, bool), np.random.default_rng(4).random((3, cells.size))
    few = TileSums.of(overlap, cells, FINE.area_rows, hosts.cell_id, none)
    monkeypatch.setattr(tally, "MOST", cells.size - 1)
    many = TileSums.of(overlap, cells, FINE.area_rows, hosts.cell_id, none)
    assert few.cell is None
    assert few.host.dtype == np.uint16
    assert many.cell is not None
    np.testing.assert_allclose(few(x, drawn(cells)).by_host, many(x, drawn(cells)).by_host, rtol=1e-13)


@pytest.mark.usefixtures("either_way")
def test_a_cell_in_two_hosts_and_a_host_met_twice(cells: TileCells) -> None:
    cell, host = np.array([0, 0, 1, 36, 5], np.int32), np.array([0, 1, 1, 1, 0], np.int32)
    none, area = np.zeros(cells.coarse.size, bool), np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    sums = TileSums(cells, FINE.area_rows, np.array([7, 9]), none, host, cell, area)
    x = np.random.default_rng(4).random((3, cells.size))
    expected = [x[:, 0] + 16 * x[:, 5], 2 * x[:, 0] + 4 * x[:, 1] + 8 * x[:, 36]]
    np.testing.assert_allclose(sums(x, drawn(cells)).by_host, expected, rtol=1e-15)


@pytest.mark.usefixtures("either_way")
def test_a_tile_that_host_cells_cover_in_part(cells: TileCells) -> None:
    """Cells without a host count for the tile alone."""
    overlap, hosts = overlap_with(cells, 8, 16)
    kept = np.flatnonzero(overlap.col % 2 == 0)
    half = Overlap(overlap.row[kept], overlap.col[kept], overlap.area[kept], cells.size, hosts.size)
    sums = TileSums.of(half, cells, FINE.area_rows, hosts.cell_id, np.zeros(cells.coarse.size, bool))
    assert sums.cell is not None
    found = sums(np.ones((1, cells.size)), drawn(cells))
    np.testing.assert_allclose(found.by_host.sum(), half.area.sum(), rtol=1e-13)
    assert found.by_host.sum() < 0.9 * found.delivered[0]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), classes=st.integers(1, 9))
def test_bits_are_the_same_either_way_and_show_any_that_differs(seed: int, classes: int) -> None:
    cells, random = tile_cells(), np.random.default_rng(seed)
    overlap, hosts = overlap_with(cells, 8, 16)
    sums = TileSums.of(overlap, cells, FINE.area_rows, hosts.cell_id, np.zeros(cells.coarse.size, bool))
    words = random.integers(0, 2**62, (classes, cells.size), np.uint64)
    other, at = words.copy(), (seed % classes, seed % cells.size)
    other[at] ^= np.uint64(1) << np.uint64(seed % 62)
    turned = np.ascontiguousarray(words[:, ::-1])
    map_of, changed = drawn(cells), drawn(cells)
    changed[seed % cells.size] += 1

    def bits() -> list[bytes]:
        fields = (words, map_of), (other, map_of), (turned, map_of), (words, changed)
        return [sums(x.view(np.float64), y).bits for x, y in fields]

    compiled = bits()
    assert len(set(compiled)) == 4
    with pytest.MonkeyPatch.context() as without:
        without.setattr(kernel, "_module", None)
        assert bits() == compiled


def test_a_mark_is_the_sum_of_mixed_words_by_hand() -> None:
    """Whole numbers of Python in the place of words that overflow."""
    whole = 2**64

    def mixed(word: int, place: int) -> int:
        x = (word + place * 0x9E3779B97F4A7C15) % whole
        x = ((x ^ x >> 32) * 0xBF58476D1CE4E5B9) % whole
        return x ^ x >> 29

    words = [0, 1, 2**63, 2**64 - 1]
    assert mark(np.array(words, np.uint64)) == sum(mixed(word, i + 1) for i, word in enumerate(words)) % whole
    assert mark(np.empty(0, np.uint64)) == 0


def test_tiles_with_the_same_fields_have_other_bits(cells: TileCells) -> None:
    overlap, hosts = overlap_with(cells, 8, 16)
    sums = TileSums.of(overlap, cells, FINE.area_rows, hosts.cell_id, np.zeros(cells.coarse.size, bool))
    other = replace(sums, cells=replace(cells, tile=replace(cells.tile, index=7)))
    x = np.ones((1, cells.size))
    assert sums(x, drawn(cells)).bits != other(x, drawn(cells)).bits
