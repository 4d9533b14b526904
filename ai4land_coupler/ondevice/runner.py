"""Tiles from inputs to fields on a device.

All tiles of a step are handed to it, and the host waits once, for what it needs of them in pinned memory: class maps,
tallies, and which cells the device left open; once before that where coarse hosts share their states out by what the
network says. Fractions stay there until they are asked for, where there is room for those of two years.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pixel_shuffle

from ai4land_coupler import constraint
from ai4land_coupler.device import Device, exact
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.features import StaticFeatures
from ai4land_coupler.inference import TileRunner
from ai4land_coupler.ondevice.batches import Cells, Drawn, closed_and_drawn, means
from ai4land_coupler.ondevice.fields import DeviceTile, DeviceYear
from ai4land_coupler.ondevice.kept import Ground, Inputs, Kept
from ai4land_coupler.ondevice.pinned import Courier, back, there
from ai4land_coupler.ondevice.sums import DeviceSums
from ai4land_coupler.pixels import Logits
from ai4land_coupler.tally import Tally
from ai4land_coupler.tilework import TileDraft, TileFields, TileWork
from ai4land_coupler.timing import Stopwatch
from ai4land_coupler.unetconfig import REACH

Float = NDArray[np.float64]
Index = NDArray[np.int64]
Room = DeviceTile | Float
"""For the fractions (K, cells) of a tile, on the device or in the host's memory."""

SHARE, YEARS_SHARE, DRAFTS_SHARE = 0.5, 0.25, 0.15
"""Of the device's memory that is free at the start, what may be taken of it, all its ranks together: by static inputs;
by fractions, those of the year that is served and of the one in the making; and by logits that wait for their totals.
Tiles whose static inputs are more are handed over anew each year; fractions and logits come to the host if they are."""

ROUND = 2**24
"""Fine cells whose tiles are handed over before they are waited for: what they need on the way lies on the device."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What the network says of a tile: logits (r, K, n) float32, on the device, of its coarse cells `run` (r,)."""

    run: Index
    logits: Tensor


@dataclass(frozen=True, eq=False)
class DeviceDraft(TileDraft):
    """A draft whose logits stay on the device; `logits` holds none."""

    answer: Answer | None = None


@dataclass(frozen=True, eq=False)
class Coming:
    """What of a tile is on its way to the host, there once the device was waited for.

    classes (cells,), residual (K, m), open (m,), the numbers of a tally where they are asked for, and fractions (K,
    cells) where these do not stay.
    """

    classes: Tensor
    residual: Tensor
    open: Tensor
    tally: list[Tensor] | None
    fractions: Tensor | None


@dataclass(frozen=True, eq=False)
class Flying:
    """A tile on the device: fractions (K, cells), classes (cells,), residual (K, m) and open (m,).

    room: where the fractions are to be.
    """

    work: TileWork
    room: Room
    sums: DeviceSums | None
    answer: Answer
    fractions: Tensor
    classes: Tensor
    residual: Tensor
    open: Tensor


class DeviceRunner(TileRunner):
    """Runs the emulator on the tiles of one rank on a torch device.

    In `level` mode all of it is done there, from inputs to fields and their sums; where totals follow only from all
    tiles (hosts coarser than the emulator's coarse grid), logits wait there for them. In the modes `change` and `none`
    the device runs the network and the processor what comes after it.
    """

    def __init__(
        self, emulator: Emulator, mode: str, precision: str, threads: int, device: torch.device, sharing: int = 1,
        statics: StaticFeatures | None = None,
    ) -> None:  # fmt: skip
        """sharing: how many ranks use the device, and share its memory; statics: as of TileRunner."""
        super().__init__(emulator, mode, precision, threads, statics)
        self._on_device = emulator.network(str(device), precision)
        self._device = device
        free = torch.cuda.mem_get_info(device)[0] / sharing if device.type == "cuda" else float("inf")
        self._kept = Kept(emulator, self._on_device, self._stem.statics, device, SHARE * free)
        self._room_for_years, self._room_for_drafts = YEARS_SHARE * free, DRAFTS_SHARE * free
        self._courier = Courier(device)

    def forget(self) -> None:
        """Drop what the device keeps of the tiles run so far."""
        super().forget()
        self._kept.forget()

    def run(self, tiles: Iterable[TileWork], watch: Stopwatch, done: Callable[[], None]) -> list[TileFields]:
        """As `TileRunner.run`."""
        if self._mode != "level":
            return super().run(tiles, watch, done)
        works, results = list(tiles), list[TileFields]()
        rooms = self._places(works)
        for some in _rounds(works):
            with self._torch():
                answers = [self._answer(work, watch) for work in works[some]]
            results += self._made(works[some], answers, rooms[some], watch, done)
        return results

    def draft(
        self, tiles: Iterable[TileWork], watch: Stopwatch, done: Callable[[], None], once: bool = False
    ) -> list[TileDraft]:
        """As `TileRunner.draft`; the logits stay on the device where there is room for them."""
        works = list(tiles)
        pixels = sum(work.cells.coarse.size for work in works) * self._ratio**2
        if self._mode != "level" or 4 * self._legend.size * pixels > self._room_for_drafts:
            return super().draft(works, watch, done, once)
        with self._torch():
            answers = [self._answer(work, watch) for work in works]
            with watch.stage("constraint"):
                coming = [self._averaged(*one) for one in zip(works, answers, strict=True)]
            with watch.stage("unet"):
                self._wait()
        drafts = list[TileDraft]()
        for work, answer, coming_back in zip(works, answers, coming, strict=True):
            average = np.full(work.wanted.T.shape, np.nan)
            average[:, answer.run] = coming_back.numpy().T
            drafts.append(DeviceDraft(answer.run, np.empty((self._legend.size, 0), np.float32), average, answer=answer))
            done()
        return drafts

    def close(self, tiles: Iterable[TileWork], drafts: list[TileDraft], watch: Stopwatch) -> list[TileFields]:
        """As `TileRunner.close`."""
        answers = [draft.answer for draft in drafts if isinstance(draft, DeviceDraft) and draft.answer is not None]
        if len(answers) < len(drafts):
            return super().close(tiles, drafts, watch)
        works, results = list(tiles), list[TileFields]()
        drafts.clear()
        rooms = self._places(works)
        for some in _rounds(works):
            results += self._made(works[some], answers[some], rooms[some], watch)
        return results

    def _made(
        self, works: Sequence[TileWork], answers: Sequence[Answer], rooms: Sequence[Room], watch: Stopwatch,
        done: Callable[[], None] | None = None,
    ) -> list[TileFields]:  # fmt: skip
        """The fields of some tiles, from what the network said of them."""
        with self._torch():
            with watch.stage("constraint"):
                grounds = [self._kept.ground(work) for work in works]
                cells = [self._cells(*one) for one in zip(works, grounds, answers, strict=True)]
                drawn = closed_and_drawn(cells)
                flying = [self._fields(*one) for one in zip(works, rooms, grounds, answers, drawn, strict=True)]
            with watch.stage("exchange"):
                sent = [(one, self._sent(one)) for one in flying]
            coming = self._waited(sent, watch)
        return self._each(self._landed, list(zip(works, rooms, coming, strict=True)), watch, done)

    @property
    def _ratio(self) -> int:
        return self._emulator.coarse.ratio_to(self._emulator.fine)

    def _places(self, works: Sequence[TileWork]) -> Sequence[Room]:
        """Where the fractions of a year are to be: on the device, if two years would find room there."""
        sizes = [work.cells.size for work in works]
        if 2 * 8 * self._legend.size * sum(sizes) > self._room_for_years:
            return self._rooms(works)
        with self._torch():
            return DeviceYear.of(self._legend.size, sum(sizes), self._device, self._courier).tiles(sizes)

    @contextmanager
    def _torch(self) -> Iterator[None]:
        with super()._torch(), exact(self._device), torch.inference_mode():
            yield

    def _wait(self) -> None:
        """Return once all that was handed to the device is done and here."""
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()

    def _waited(self, flying: list[tuple[Flying, Coming]], watch: Stopwatch) -> list[Coming]:
        """What has come of tiles, once the device was waited for.

        Cells it left open are closed and drawn on the processor; what follows from them is waited for once more.
        """
        with watch.stage("unet"):
            self._wait()
        left = {i: open for i, (_, coming) in enumerate(flying) if (open := np.flatnonzero(coming.open.numpy())).size}
        if not left:
            return [coming for _, coming in flying]
        with watch.stage("constraint"):
            mended = {i: self._mended(flying[i][0], open) for i, open in left.items()}
            self._wait()
        return [mended.get(i, coming) for i, (_, coming) in enumerate(flying)]

    def _answer(self, work: TileWork, watch: Stopwatch) -> Answer:
        """What the network says of a tile's coarse cells that hold several classes; nothing is waited for."""
        run = self._unsettled(work)
        if not run.size:
            return Answer(run, torch.empty((0, self._legend.size, self._ratio**2), device=self._device))
        return Answer(run, self._asked(work, run, watch))

    def _averaged(self, work: TileWork, answer: Answer) -> Tensor:
        """Means (r, K) of what the network says, on their way to the host."""
        area = self._kept.ground(work).area.index_select(0, self._to(answer.run))
        return back(means(answer.logits, area))

    def _cells(self, work: TileWork, ground: Ground, answer: Answer) -> Cells:
        """What is to be closed and drawn of a tile."""
        cells, run = work.cells, answer.run
        wanted, pixels = work.wanted[run], np.diff(cells.first)[run]
        with self._naming(cells.coarse[run]):
            counts = constraint._counts(wanted, pixels)
        of_ground = ground.area, ground.places.order, ground.places.back, ground.places.pixels
        area, *places = (part.index_select(0, self._to(run)) for part in of_ground)
        return Cells(answer.logits, area, self._to(wanted), self._to(counts), *places)

    def _sent(self, flying: Flying) -> Coming:
        """Leave the fractions where they are to stay, and send what the host needs."""
        fractions, stay = flying.fractions, isinstance(flying.room, DeviceTile)
        if isinstance(flying.room, DeviceTile):
            flying.room.here.copy_(fractions)
        tally = None if flying.sums is None else flying.sums(fractions)
        return Coming(
            back(flying.classes), back(flying.residual), back(flying.open),
            None if tally is None else [back(part) for part in tally],
            None if stay else back(fractions),
        )  # fmt: skip

    def _fields(self, work: TileWork, room: Room, ground: Ground, answer: Answer, drawn: Drawn) -> Flying:
        """All coarse cells of a tile: what was drawn of those run; the others show the base map or their one class."""
        wanted, land, base = self._to(work.wanted), ground.area > 0, self._to(work.from_base)[:, None]
        kinds = torch.arange(1, wanted.shape[1] + 1, device=self._device)[:, None]
        only = (wanted.argmax(1, keepdim=True) + 1).to(torch.uint8) * land
        classes = torch.where(base, ground.base * land, only)
        fractions = (classes[:, None] == kinds).double()
        run = self._to(answer.run)
        fractions, classes = fractions.index_copy(0, run, drawn.fractions), classes.index_copy(0, run, drawn.classes)
        return Flying(
            work, room, ground.sums, answer,
            fractions.swapaxes(0, 1).flatten(1).index_select(1, ground.slot),
            classes.flatten().index_select(0, ground.slot),
            torch.zeros_like(wanted).index_copy(0, run, drawn.residual).T.contiguous(),
            torch.zeros_like(base[:, 0]).index_copy(0, run, drawn.open),
        )  # fmt: skip

    def _landed(self, one: tuple[TileWork, Room, Coming], watch: Stopwatch) -> TileFields:
        """The fields of a tile, of which all that comes is here."""
        work, fractions, coming = one
        if coming.fractions is not None and isinstance(fractions, np.ndarray):
            with watch.stage("constraint"):
                fractions[...] = coming.fractions.numpy()
        classes, residual, tally = coming.classes.numpy().copy(), coming.residual.numpy().copy(), None
        if coming.tally is not None and work.sums is not None:
            with watch.stage("exchange"):
                by_host, delivered, filled, mark = (part.numpy().copy() for part in coming.tally)
                bits = work.sums.bits(int(mark.view(np.uint64)), classes)
                tally = Tally(by_host, delivered, filled, bits)
        return TileFields(fractions, classes, residual, tally)

    def _mended(self, flying: Flying, left: NDArray[np.intp]) -> Coming:
        """Close and draw the coarse cells `left` of a tile by `constraint`, and send the tile again."""
        cells = flying.work.cells
        of_run = self._to(np.searchsorted(flying.answer.run, left))
        logits = flying.answer.logits.index_select(0, of_run).cpu().numpy()
        area, wanted = cells.block(self._emulator.fine.area_rows[cells.rows])[left], flying.work.wanted[left]
        with self._naming(cells.coarse[left]):
            closed, off = constraint.close(logits, area, wanted)
        drawn = constraint.quota(closed, area > 0, cells.block(cells.cells + 1)[left], wanted)
        at = np.flatnonzero(np.isin(cells.coarse_of_cell, left))
        cell, pixel = np.searchsorted(left, cells.coarse_of_cell[at]), cells.slot[at] % cells.ratio**2
        of_cells, of_left = self._to(at), self._to(left)
        return self._sent(
            replace(
                flying,
                fractions=flying.fractions.index_copy(1, of_cells, self._to(closed[cell, :, pixel].T)),
                classes=flying.classes.index_copy(0, of_cells, self._to(drawn[cell, pixel])),
                residual=flying.residual.index_copy(1, of_left, self._to(off.T)),
            )
        )

    def _ask(
        self, work: TileWork, run: NDArray[np.int64], logits: Logits, watch: Stopwatch, averaged: bool
    ) -> NDArray[np.float64] | None:
        """As `TileRunner._ask`, by the device; threads hand it their tiles in any order."""
        if not run.size:
            return None
        with torch.inference_mode():
            blocks = self._asked(work, run, watch).cpu().numpy()
        with watch.stage("constraint"):
            pixels = self._pixels(work, run)
            logits[...] = pixels.unblock(blocks)
            return constraint.means(blocks, pixels.block(pixels.area)) if averaged else None

    def _asked(self, work: TileWork, run: Index, watch: Stopwatch) -> Tensor:
        """The network's answer (r, K, n) float32 for the coarse cells `run` of a tile, run on all of it."""
        ratio, size = work.cells.ratio, work.cells.tile.size
        with watch.stage("features"):
            stem, prior = self._inputs(work, self._kept.inputs(work))
        with watch.stage("unet"):
            logits = pixel_shuffle(self._on_device.after_stem(stem, prior, REACH), 2)[0].float()
            side = size // ratio
            blocks = logits.reshape(-1, side, ratio, side, ratio).permute(1, 3, 0, 2, 4).reshape(side**2, -1, ratio**2)
            return blocks.index_select(0, self._to(work.cells.blocks[run]))

    def _inputs(self, work: TileWork, kept: Inputs) -> tuple[Tensor, Tensor | None]:
        """The stem's answer (1, w0, side / 2, side / 2) float32 and, for networks given one, the prior map."""
        around = kept.around
        fractions = self._to(work.totals.astype(np.float32)).index_select(1, around).index_select(2, around)[None]
        prior = None
        if self._emulator.unet.prior:
            side, edge = around.shape[0], self._emulator.halo - REACH
            none = np.zeros((side, side), np.uint8)
            given = self._to(none if work.prior is None else work.prior[edge : edge + side, edge : edge + side])
            kinds = torch.arange(1, len(self._legend) + 1, device=self._device)[:, None, None]
            prior = (given == kinds).float()[None]
        moving = self._on_device.moving_stem(fractions, prior)
        return (kept.static.float()[None] + moving).contiguous(memory_format=torch.channels_last), prior

    def _to(self, values: NDArray) -> Tensor:
        return there(values, self._device)


def _rounds(works: Sequence[TileWork]) -> Iterator[slice]:
    """Tiles one after another, of ROUND fine cells together, or one that has more."""
    start = cells = 0
    for i, work in enumerate(works):
        if i > start and cells + work.cells.size > ROUND:
            yield slice(start, i)
            start, cells = i, 0
        cells += work.cells.size
    yield slice(start, len(works))


def runner_on(
    device: Device, emulator: Emulator, mode: str, precision: str, threads: int, sharing: int = 1,
    statics: StaticFeatures | None = None,
) -> TileRunner:  # fmt: skip
    """The runner of a rank; on a GPU with room for `sharing` ranks. statics: as of TileRunner."""
    if device.kind == "cpu":
        return TileRunner(emulator, mode, precision, threads, statics)
    return DeviceRunner(emulator, mode, precision, threads, device.torch_device, sharing, statics)
