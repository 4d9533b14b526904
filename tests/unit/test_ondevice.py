"""The way a GPU takes, run on torch's CPU device, gives the fields of the processor's way."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_emulator
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

from ai4land_coupler import device
from ai4land_coupler.device import Device, _first_of_each, exact, visible
from ai4land_coupler.domain import base_state
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import ConstraintError
from ai4land_coupler.grids import HostGrid, RegularGrid
from ai4land_coupler.inference import TileRunner
from ai4land_coupler.ondevice import batches, closing, pinned, sums
from ai4land_coupler.ondevice import runner as runner_module
from ai4land_coupler.ondevice.fields import DeviceTile
from ai4land_coupler.ondevice.pinned import Courier
from ai4land_coupler.ondevice.runner import DeviceDraft, DeviceRunner, runner_on
from ai4land_coupler.placement import BASE, OWN
from ai4land_coupler.regrid import Patch
from ai4land_coupler.regrid.latlon import LatLonEngine
from ai4land_coupler.tally import TileSums, mark
from ai4land_coupler.tiles import TileCells, all_tiles, coarse_around
from ai4land_coupler.tilework import TileFields, TileWork
from ai4land_coupler.timing import Stopwatch

CPU = torch.device("cpu")
LEGEND = small_emulator.LEGEND
NCOARSE = small_emulator.COARSE[0] * small_emulator.COARSE[1]
CELLS, VALUES = 64, len(LEGEND) * small_emulator.RATIO**2
NESTED, CUT = 8, 7  # rows of host cells of whole fine cells, and of such as cut them
TALLY = ("by_host", "delivered", "filled", "bits")
FRACTIONS_TO = 1e-4  # the network rounds otherwise on a whole tile than on the part of it that is run


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor would take long for batches as they suit a device."""
    monkeypatch.setattr(batches, "VALUES", CELLS * VALUES)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    return Emulator.load(small_emulator.build(tmp_path_factory.mktemp("emulator")))


def works(
    emulator: Emulator, every: int = 5, before: bool = False, prior: bool = False, hosts: int = NESTED
) -> list[TileWork]:
    """Some tiles of the globe, with cells of one class, of the base map and of any mixture."""
    rng = np.random.default_rng(2)
    totals = rng.random((len(LEGEND), NCOARSE)) + 0.05
    totals[:, ::5] = np.eye(len(LEGEND))[:, [2]]
    totals[1, ::7] = 0.0
    totals /= totals.sum(axis=0)
    filled = np.where(np.arange(NCOARSE) % 11 == 0, BASE, OWN)
    land, ratio, tile = emulator.base_map() > 0, small_emulator.RATIO, emulator.tile
    made = []
    for t in all_tiles(emulator.fine, emulator.coarse, tile)[::every]:
        cells = TileCells.of(t, land[t.rows, t.cols], emulator.fine, ratio)
        side = tile + 2 * emulator.halo
        made.append(
            TileWork(
                cells,
                totals,
                coarse_around(t, emulator.coarse, ratio, emulator.halo),
                filled[cells.coarse] == BASE,
                base_state(emulator, cells.coarse)[0].T.copy() if before else None,
                rng.integers(0, 5, (side, side)).astype(np.uint8) if prior else None,
                tile_sums(emulator, cells, filled[cells.coarse] != OWN, hosts),
            )
        )
    return [work for work in made if work.cells.size]


def tile_sums(emulator: Emulator, cells: TileCells, borrowed: NDArray[np.bool_], nlat: int) -> TileSums:
    """Under host cells of a grid of nlat x 2 nlat."""
    grid = RegularGrid(nlat, 2 * nlat)
    hosts = HostGrid(np.arange(grid.size) + 1, *grid.corners(np.arange(grid.size)), np.ones(grid.size))
    overlap = LatLonEngine().fine(emulator.fine, Patch(cells.cells[cells.ascending], hosts))
    return TileSums.of(overlap, cells, emulator.fine.area_rows, hosts.cell_id, borrowed)


def ran(runner: TileRunner, tiles: list[TileWork]) -> list[TileFields]:
    told = []
    fields = runner.run(tiles, Stopwatch(), lambda: told.append(1))
    assert len(told) == len(fields) == len(tiles)
    return fields


def assert_alike(tiles: list[TileWork], ours: list[TileFields], theirs: list[TileFields], emulator: Emulator) -> None:
    """Fields that differ by the network's rounding alone, and close on the same totals."""
    same = total = 0
    for work, a, b in zip(tiles, ours, theirs, strict=True):
        np.testing.assert_allclose(a.fractions, b.fractions, rtol=0, atol=FRACTIONS_TO)
        assert np.asarray(a.fractions).dtype == a.residual.dtype == np.float64
        assert a.classes.dtype == np.uint8
        assert np.abs(a.residual).max() <= 1e-12
        area = emulator.fine.area_rows[work.cells.cells // emulator.fine.nlon]
        for k in range(len(LEGEND)):
            of = work.cells.coarse_of_cell
            met = np.bincount(of, a.fractions[k] * area) / np.bincount(of, area)
            own = ~work.from_base
            np.testing.assert_allclose(met[own], work.wanted[own, k], rtol=0, atol=1e-12)
        same, total = same + (a.classes == b.classes).sum(), total + a.classes.size
    assert same >= 0.995 * total


def test_level_mode_gives_the_processors_fields(emulator: Emulator) -> None:
    tiles = works(emulator)
    device = DeviceRunner(emulator, "level", "float32", 1, CPU)
    fields = ran(device, tiles)
    assert_alike(tiles, fields, ran(TileRunner(emulator, "level", "float32", 1), tiles), emulator)
    again = ran(device, tiles)
    assert all(np.array_equal(a.fractions, b.fractions) for a, b in zip(fields, again, strict=True))
    assert all(a.classes.tobytes() == b.classes.tobytes() for a, b in zip(fields, again, strict=True))


def test_a_tile_does_not_depend_on_what_runs_beside_it_nor_on_what_stays(emulator: Emulator) -> None:
    tiles = works(emulator)[:3]
    together = ran(DeviceRunner(emulator, "level", "float32", 1, CPU), tiles)
    full = DeviceRunner(emulator, "level", "float32", 1, CPU)
    full._kept.room = full._room_for_years = 0
    alone = [ran(full, [work])[0] for work in tiles[::-1]][::-1]
    for a, b in zip(together, alone, strict=True):
        assert isinstance(a.fractions, DeviceTile)
        assert isinstance(b.fractions, np.ndarray)
        assert np.array_equal(a.fractions, b.fractions)
        assert a.classes.tobytes() == b.classes.tobytes()
        assert all(np.array_equal(getattr(a.tally, name), getattr(b.tally, name)) for name in TALLY)


@pytest.mark.parametrize("hosts", [NESTED, CUT])
def test_fields_are_tallied_on_the_device_as_on_the_processor(emulator: Emulator, hosts: int) -> None:
    tiles = works(emulator, hosts=hosts)
    assert all(work.sums is not None and (work.sums.cell is None) == (hosts == NESTED) for work in tiles)
    for work, fields in zip(tiles, ran(DeviceRunner(emulator, "level", "float32", 1, CPU), tiles), strict=True):
        assert_tallied(work, fields)


def assert_tallied(work: TileWork, fields: TileFields) -> None:
    """As the processor would, areas but for the order of their sums, bits for bits."""
    assert work.sums is not None
    assert fields.tally is not None
    expected = work.sums(np.asarray(fields.fractions), fields.classes)
    for name in ("by_host", "delivered", "filled"):
        found, area = getattr(fields.tally, name), getattr(expected, name)
        np.testing.assert_allclose(found, area, rtol=1e-12, atol=1e-12 * expected.delivered.sum())
    assert fields.tally.bits == expected.bits


@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_a_mark_made_on_the_device_is_that_of_the_processor(n: int) -> None:
    words = np.random.default_rng(n).integers(0, 2**64, n, np.uint64)
    made = sums.mark(torch.from_numpy(words.view(np.int64)))
    assert int(made.numpy().view(np.uint64)) == mark(words)


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 16, 29])
def test_a_class_comes_piece_by_piece(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through two pieces of memory, one of which is filled while the other is emptied."""
    monkeypatch.setattr(pinned, "PIECE", 8)
    happened, begun = [], Courier._begun

    class Arrival:
        def __init__(self, piece: int) -> None:
            self.piece = piece

        def synchronize(self) -> None:
            happened.append(("there", self.piece))

    def noted(self: Courier, part: torch.Tensor, piece: torch.Tensor) -> tuple:
        happened.append(("begun", piece.data_ptr()))
        return begun(self, part, piece)[0], Arrival(piece.data_ptr())

    monkeypatch.setattr(Courier, "_begun", noted)
    values = torch.rand(n, dtype=torch.float64)
    out = Courier(CPU).bring(values, np.full(n, np.nan))
    assert np.array_equal(out, values.numpy())
    pieces = max(1, -(-n // 8))
    first = [at for what, at in happened if what == "begun"]
    assert len(first) == pieces
    assert all(a != b for a, b in itertools.pairwise(first))
    if pieces > 2:
        assert [what for what, _ in happened[:4]] == ["begun", "begun", "there", "begun"]


def test_fractions_stay_on_the_device_until_a_class_is_asked_for(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought, bring = [], Courier.bring

    def noted(self: Courier, values: torch.Tensor, out: NDArray[np.float64]) -> NDArray[np.float64]:
        brought.append(values.numel())
        return bring(self, values, out)

    monkeypatch.setattr(Courier, "bring", noted)
    tiles = works(emulator)
    fields = ran(DeviceRunner(emulator, "level", "float32", 1, CPU), tiles)
    cells = sum(work.cells.size for work in tiles)
    assert not brought
    away = fields[0].fractions
    assert isinstance(away, DeviceTile)
    whole = away.of_year(2, np.empty(cells))
    assert brought == [cells]
    assert np.array_equal(whole, np.concatenate([tile.fractions[2] for tile in fields]))
    assert len(away) == len(LEGEND) == len(list(away))
    assert away.shape == np.asarray(away).shape == (len(LEGEND), tiles[0].cells.size)


def test_cells_the_device_leaves_open_are_closed_on_the_processor(emulator: Emulator, monkeypatch) -> None:
    tiles = works(emulator)[:4]
    whole = ran(DeviceRunner(emulator, "level", "float32", 1, CPU), tiles)
    monkeypatch.setattr(closing, "PASSES", 3)
    monkeypatch.setattr(closing, "SWEEPS", 1)
    mended = ran(DeviceRunner(emulator, "level", "float32", 1, CPU), tiles)
    for a, b in zip(mended, whole, strict=True):
        np.testing.assert_allclose(a.fractions, b.fractions, rtol=0, atol=1e-10)
        assert (a.classes == b.classes).all()
        assert np.abs(a.residual).max() <= 1e-12
    for work, fields in zip(tiles, mended, strict=True):
        assert_tallied(work, fields)


def test_a_logit_that_is_not_finite_names_the_coarse_cell(emulator: Emulator) -> None:
    runner = DeviceRunner(emulator, "level", "float32", 1, CPU)
    asked = runner._asked
    runner._asked = lambda *args: asked(*args) * torch.nan  # type: ignore[method-assign]
    with pytest.raises(ConstraintError, match=r"coarse cell \d+ at .*not finite"):
        ran(runner, works(emulator)[:1])


@pytest.mark.parametrize("mode", ["none", "change"])
def test_other_modes_take_only_the_logits_from_the_device(emulator: Emulator, mode: str) -> None:
    tiles = works(emulator, every=9, before=mode == "change")
    ours = ran(DeviceRunner(emulator, mode, "float32", 1, CPU), tiles)
    theirs = ran(TileRunner(emulator, mode, "float32", 1), tiles)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.fractions, b.fractions, rtol=0, atol=FRACTIONS_TO)


def test_a_step_waits_for_the_device_once(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tiles are handed over before, and none is looked at; where they are more than ROUND, once for so many."""
    happened: list[str] = []

    def noted(name: str) -> Callable[..., object]:
        of = getattr(DeviceRunner, name)

        def call(self: DeviceRunner, *given: object) -> object:
            happened.append(name)
            return of(self, *given)

        return call

    for name in ("_answer", "_fields", "_wait", "_landed"):
        monkeypatch.setattr(DeviceRunner, name, noted(name))
    tiles = works(emulator, every=9)
    runner, n = DeviceRunner(emulator, "level", "float32", 2, CPU), len(tiles)
    once = ran(runner, tiles)
    assert happened == ["_answer"] * n + ["_fields"] * n + ["_wait"] + ["_landed"] * n
    happened.clear()
    monkeypatch.setattr(runner_module, "ROUND", sum(work.cells.size for work in tiles[:-1]))
    again = ran(runner, tiles)
    assert happened[-4:] == ["_answer", "_fields", "_wait", "_landed"]
    n -= 1
    assert happened[:-4] == ["_answer"] * n + ["_fields"] * n + ["_wait"] + ["_landed"] * n
    for one, other in zip(once, again, strict=True):
        assert np.array_equal(one.fractions, other.fractions)
        assert one.classes.tobytes() == other.classes.tobytes()


@pytest.mark.parametrize("stay", [True, False])
def test_drafts_are_those_of_the_processor(emulator: Emulator, stay: bool) -> None:
    """And are closed as its own, with totals that were not known when they were made, twice if need be."""
    tiles, told = works(emulator, every=9), list[int]()
    runner, processor = DeviceRunner(emulator, "level", "float32", 1, CPU), TileRunner(emulator, "level", "float32", 1)
    if not stay:
        runner._room_for_drafts = 0
    ours = runner.draft(tiles, Stopwatch(), lambda: told.append(1))
    theirs = processor.draft(tiles, Stopwatch(), lambda: None)
    assert len(told) == len(tiles)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.run == b.run).all()
        np.testing.assert_allclose(a.means, b.means, rtol=0, atol=1e-5)
        assert isinstance(a, DeviceDraft) == stay
        assert (a.logits.size > 0) == (b.logits.size > 0 and not stay)
    final = [other_totals(work) for work in tiles]
    made, again = (runner.close(final, list(ours), Stopwatch()) for _ in range(2))
    assert_alike(final, made, processor.close(final, theirs, Stopwatch()), emulator)
    for work, one, other in zip(final, made, again, strict=True):
        assert np.array_equal(one.fractions, other.fractions)
        assert_tallied(work, one)


def other_totals(work: TileWork) -> TileWork:
    """The same tile with other totals in cells of several classes."""
    known = work.known.copy()
    mixed = known.max(axis=0) < 1.0
    known[0, mixed] += 0.5
    return replace(work, known=known / known.sum(axis=0))


def test_a_draft_waits_for_the_device_once(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    monkeypatch.setattr(DeviceRunner, "_wait", lambda self: waits.append(1))
    runner, tiles = DeviceRunner(emulator, "level", "float32", 1, CPU), works(emulator, every=9)
    drafts = runner.draft(tiles, Stopwatch(), lambda: None)
    assert len(waits) == 1
    runner.close(tiles, drafts, Stopwatch())
    assert len(waits) == 2
    assert drafts == []


def test_a_year_is_closed_in_batches_of_one_shape(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell has the same bits in any batch; what a tile is for the device are tens of operations, not thousands."""
    tiles, solve, shapes = works(emulator), closing.solve, []
    mixed = sum(int((work.wanted.max(axis=1) < 1.0).sum()) for work in tiles)

    def noted(logits: torch.Tensor, *rest: torch.Tensor) -> closing.Closed:
        shapes.append(tuple(logits.shape))
        return solve(logits, *rest)

    monkeypatch.setattr(closing, "solve", noted)
    some, several = ran(DeviceRunner(emulator, "level", "float32", 1, CPU), tiles), shapes.copy()
    shapes.clear()
    monkeypatch.setattr(batches, "VALUES", 8 * VALUES - 1)
    few = ran(DeviceRunner(emulator, "level", "float32", 1, CPU), tiles)
    for a, b in zip(some, few, strict=True):
        assert np.array_equal(a.fractions, b.fractions)
        assert a.classes.tobytes() == b.classes.tobytes()
    width = len(LEGEND), small_emulator.RATIO**2
    assert set(several) == {(CELLS, *width)}
    assert set(shapes) == {(7, *width)}
    assert (len(several) - 1) * CELLS < mixed
    assert len(shapes) * 7 < mixed + 7


class Operations(TorchDispatchMode):
    """Counts what is handed to a device, views left out."""

    VIEWS = ("alias", "as_strided", "detach", "expand", "permute", "select", "slice", "split", "squeeze", "t",
             "transpose", "unsqueeze", "view")  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.__name__.partition(".")[0] not in self.VIEWS
        return function(*args, **(kwargs or {}))


def test_a_tile_more_is_few_operations_more(emulator: Emulator) -> None:
    """Each takes the host some microseconds, whatever it is done to: closing and quota alone are thousands."""
    tiles = [work for work in works(emulator) if (work.wanted.max(axis=1) < 1.0).any()][:4]
    assert sum(work.wanted.shape[0] for work in tiles) <= CELLS, "one batch"
    counts = []
    for some in (tiles[:1], tiles):
        runner = DeviceRunner(emulator, "level", "float32", 1, CPU)
        ran(runner, some)
        with Operations() as operations:
            ran(runner, some)
        counts.append(operations.count)
    assert (counts[1] - counts[0]) / (len(tiles) - 1) < 200 < counts[0]


def test_tiles_that_the_network_is_not_run_for(emulator: Emulator) -> None:
    tiles = [replace(work, from_base=np.ones_like(work.from_base)) for work in works(emulator, every=9)]
    for work, fields in zip(tiles, ran(DeviceRunner(emulator, "level", "float32", 1, CPU), tiles), strict=True):
        assert (fields.classes == emulator.base_map().reshape(-1)[work.cells.cells]).all()
        assert not fields.residual.any()
    assert ran(DeviceRunner(emulator, "level", "float32", 1, CPU), []) == []


def test_a_network_with_a_prior_map_is_given_it(tmp_path: Path) -> None:
    emulator = Emulator.load(small_emulator.build(tmp_path, prior=True))
    tiles = works(emulator, every=11, prior=True)
    ours = ran(DeviceRunner(emulator, "level", "float32", 1, CPU), tiles)
    assert_alike(tiles, ours, ran(TileRunner(emulator, "level", "float32", 1), tiles), emulator)


def test_bfloat16_costs_what_it_costs_on_the_processor(emulator: Emulator) -> None:
    tiles = works(emulator, every=11)
    exactly, short, ours = (
        np.concatenate([np.asarray(tile.fractions).ravel() for tile in ran(runner, tiles)])
        for runner in (
            TileRunner(emulator, "level", "float32", 1),
            TileRunner(emulator, "level", "bfloat16", 1),
            DeviceRunner(emulator, "level", "bfloat16", 1, CPU),
        )
    )
    cost, ours_costs = np.sqrt(np.mean((short - exactly) ** 2)), np.sqrt(np.mean((ours - exactly) ** 2))
    assert 0 < ours_costs <= 1.2 * cost


def test_the_host_finds_torch_as_it_left_it() -> None:
    def settings() -> tuple:
        cudnn = torch.backends.cudnn
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, torch.get_num_threads()),
        )

    mode = torch.get_deterministic_debug_mode()
    try:
        torch.set_deterministic_debug_mode("warn")
        lenient = settings()
        with exact(CPU):
            assert torch.are_deterministic_algorithms_enabled()
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert settings() == lenient
        with pytest.raises(ZeroDivisionError), exact(CPU):
            _ = 1 / 0
        assert settings() == lenient
    finally:
        torch.set_deterministic_debug_mode(mode)


def test_the_processor_keeps_its_own_runner(emulator: Emulator) -> None:
    assert type(runner_on(Device(), emulator, "level", "float32", 1)) is TileRunner
    assert Device().name == "cpu"
    assert Device("cuda", "A model", 0, (0,)).name == "cuda: A model"
    assert Device("cuda", "A model", 0, (0,)).precision("auto") == "bfloat16"
    assert Device("cuda", "A model", 0, (0,)).precision("float32") == "float32"
    assert Device("cuda", "A model", 3, (0,)).torch_device == torch.device("cuda", 3)


@pytest.mark.parametrize(
    ("flags", "auto"),
    [({"avx2", "amx_bf16"}, "bfloat16"), ({"avx512f", "avx512_bf16"}, "bfloat16"), ({"avx2", "avx512f"}, "float32")],
)
def test_auto_follows_the_instructions_of_the_processor(
    flags: set[str], auto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "processor_flags", lambda: frozenset(flags))
    asked = ("auto", "float32", "bfloat16")
    assert [Device().precision(precision) for precision in asked] == [auto, "float32", "bfloat16"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_no_device_is_none() -> None:
    assert visible() == []


def test_of_the_ranks_that_share_a_device_the_first_are_workers() -> None:
    chosen = np.array([7, 8, 7, 8, 7, 9])
    assert _first_of_each(chosen, 1) == (0, 1, 5)
    assert _first_of_each(chosen, 2) == (0, 1, 2, 3, 5)
    assert _first_of_each(chosen, 3) == (0, 1, 2, 3, 4, 5)
