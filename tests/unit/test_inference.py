"""Tiles and the rectangles that are run in them leave no trace in the fields."""

import threading
from pathlib import Path

import numpy as np
import pytest
import small_emulator

from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import ConstraintError
from ai4land_coupler.inference import TileRunner, teams
from ai4land_coupler.placement import BASE, OWN
from ai4land_coupler.tiles import TileCells, all_tiles, coarse_around
from ai4land_coupler.tilework import TileWork
from ai4land_coupler.timing import Stopwatch

LEGEND = small_emulator.LEGEND
NCOARSE = small_emulator.COARSE[0] * small_emulator.COARSE[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_emulator.build(tmp_path_factory.mktemp("emulator"))


def work_of(emulator: Emulator, totals: np.ndarray, filled: np.ndarray) -> list[TileWork]:
    """Every tile of the globe."""
    land = emulator.base_map() > 0
    tiles = [
        TileCells.of(t, land[t.rows, t.cols], emulator.fine, small_emulator.RATIO)
        for t in all_tiles(emulator.fine, emulator.coarse, emulator.tile)
    ]
    return [
        TileWork(
            cells,
            totals,
            coarse_around(cells.tile, emulator.coarse, small_emulator.RATIO, emulator.halo),
            filled[cells.coarse] == BASE,
        )
        for cells in tiles
    ]


def run(folder: Path, tile: int, totals: np.ndarray, filled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fractions (K, nlat, nlon) and classes of the globe, with tiles of another size."""
    description = (folder / "emulator.yaml").read_text()
    (folder / "emulator.yaml").write_text(description.replace(f"tile: {small_emulator.TILE}", f"tile: {tile}"))
    emulator = Emulator.load(folder)
    (folder / "emulator.yaml").write_text(description)
    assert emulator.tile == tile
    works = work_of(emulator, totals, filled)
    fields = TileRunner(emulator, "level", "float32", 1).run(works, Stopwatch(), lambda: None)
    size = emulator.fine.size
    fractions, classes = np.zeros((len(LEGEND), size)), np.zeros(size, np.uint8)
    for work, of_tile in zip(works, fields, strict=True):
        fractions[:, work.cells.cells], classes[work.cells.cells] = of_tile.fractions, of_tile.classes
    return fractions, classes


def totals() -> np.ndarray:
    x = np.random.default_rng(2).random((len(LEGEND), NCOARSE)) + 0.05
    return x / x.sum(axis=0)


def test_tiled_and_untiled_runs_are_the_same_bits(folder: Path) -> None:
    filled = np.full(NCOARSE, OWN, np.uint8)
    small, large = run(folder, 40, totals(), filled), run(folder, 160, totals(), filled)
    assert small[0].tobytes() == large[0].tobytes()
    assert small[1].tobytes() == large[1].tobytes()


def test_settled_cells_change_nothing_around_them_but_what_they_are(folder: Path) -> None:
    """A settled cell shrinks the rectangle that is run; beyond the network's reach nothing else may change."""
    filled = np.full(NCOARSE, OWN, np.uint8)
    before = totals()
    after = before.copy()
    after[:, :32] = np.eye(len(LEGEND))[:, [2]]
    a, b = run(folder, 40, before, filled)[0], run(folder, 40, after, filled)[0]
    shape = (len(LEGEND), 160, 320)
    a, b = a.reshape(shape), b.reshape(shape)
    land = a.sum(axis=0) > 0
    assert (b[2, :10][land[:10]] == 1).all()
    # the network reaches to row 57; closing carries that to the end of the coarse cells there, row 59
    assert a[:, 60:].tobytes() == b[:, 60:].tobytes()
    assert (a[:, 10:50] != b[:, 10:50]).any()


def test_cells_of_the_base_map_show_it(folder: Path) -> None:
    filled = np.full(NCOARSE, OWN, np.uint8)
    filled[64:96] = BASE
    fractions, classes = run(folder, 40, totals(), filled)
    base = Emulator.load(folder).base_map()[20:30]
    assert (classes.reshape(160, 320)[20:30] == base).all()
    rows = fractions.reshape(len(LEGEND), 160, 320)[:, 20:30]
    assert (rows == (base == np.arange(1, len(LEGEND) + 1)[:, None, None])).all()


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_that_share_the_tiles_change_no_bit(folder: Path, threads: int) -> None:
    """Also where totals come after the network; the drafts are then used up, and tiles keep their order."""
    emulator, calls = Emulator.load(folder), []
    works = work_of(emulator, totals(), np.full(NCOARSE, OWN, np.uint8))
    alone = TileRunner(emulator, "level", "float32", 1).run(works, Stopwatch(), lambda: None)
    runner = TileRunner(emulator, "level", "float32", threads)
    before = threading.active_count()
    shared = runner.run(works, Stopwatch(), lambda: calls.append(1))
    drafts = runner.draft(works, Stopwatch(), lambda: None)
    late = runner.close(works, drafts, Stopwatch())
    assert (len(calls), drafts, threading.active_count()) == (len(works), [], before)
    within = runner.close(works, runner.draft(works, Stopwatch(), lambda: None, once=True), Stopwatch())
    for one, *others in zip(alone, shared, late, within, strict=True):
        for other in others:
            assert one.fractions.tobytes() == other.fractions.tobytes()
            assert one.classes.tobytes() == other.classes.tobytes()
            assert one.residual.tobytes() == other.residual.tobytes()


def test_drafts_can_be_closed_again_but_where_they_wait_in_the_memory_of_the_fields(folder: Path) -> None:
    emulator = Emulator.load(folder)
    works = work_of(emulator, totals(), np.full(NCOARSE, OWN, np.uint8))
    runner = TileRunner(emulator, "level", "float32", 1)
    drafts = runner.draft(works, Stopwatch(), lambda: None)
    first, second = (runner.close(works, list(drafts), Stopwatch()) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert one.fractions.tobytes() == other.fractions.tobytes()
        assert not np.shares_memory(one.fractions, other.fractions)
    drafts = runner.draft(works, Stopwatch(), lambda: None, once=True)
    waiting = [(draft.logits, draft.room) for draft in drafts]
    for (logits, room), of_tile in zip(waiting, runner.close(works, drafts, Stopwatch()), strict=True):
        assert of_tile.fractions is room
        assert not logits.size or np.shares_memory(logits, room)


@pytest.mark.parametrize("tile", [0, 1])
def test_what_fails_in_a_thread_is_raised_once_all_have_ended(folder: Path, tile: int) -> None:
    emulator = Emulator.load(folder)
    works = work_of(emulator, totals(), np.full(NCOARSE, OWN, np.uint8))
    runner, before = TileRunner(emulator, "level", "float32", 2), threading.active_count()
    drafts = runner.draft(works, Stopwatch(), lambda: None)
    drafts[tile].logits[1] = np.nan
    with pytest.raises(ConstraintError, match=r"coarse cell \d+ at .*class 2: the network gave a logit"):
        runner.close(works, drafts, Stopwatch())
    assert threading.active_count() == before


def test_threads_that_have_no_tile_of_their_own_help_with_those_of_others() -> None:
    assert [teams(1, 323), teams(2, 323), teams(16, 323)] == [(1, 1), (2, 1), (16, 1)]
    assert [teams(24, 323), teams(40, 323)] == [(12, 2), (13, 3)]
    assert [teams(8, 3), teams(8, 1), teams(64, 323), teams(3, 0)] == [(3, 2), (1, 8), (16, 4), (1, 3)]
