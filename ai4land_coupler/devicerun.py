"""Tiles on a GPU: what does not change stays there, inputs are made there, and totals are closed and maps drawn there.

The same steps as in `inference.py`, in the same order. All tiles of a step are handed to the device, and the host waits
once, for their fields in pinned memory and for the cells that the device left open.
Has not yet run on a GPU: tests run every line on torch's CPU device.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pixel_shuffle

from ai4land_coupler import constraint, constraint_torch
from ai4land_coupler.device import Device, exact
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.features import StaticFeatures
from ai4land_coupler.inference import Then, TileRunner, _as_they_are
from ai4land_coupler.pixels import Logits
from ai4land_coupler.stem import LARGEST
from ai4land_coupler.tiles import TileCells, TileFields, TileWork
from ai4land_coupler.timing import Stopwatch
from ai4land_coupler.unetconfig import REACH

SHARE = 0.6
"""Of the device's memory that is free at the start, what static inputs may take of the device, all its ranks together;
tiles beyond that are handed over anew each year."""


ROUND = 512
"""Tiles handed over before they are waited for: their logits and fields lie on the device, and in pinned memory."""


@dataclass(frozen=True, eq=False)
class Resident:
    """What of a tile with m coarse cells of n fine cells does not change from year to year, on a device.

    static (w0, side / 2, side / 2) float16: what the stem makes of the static fields, REACH around included; area
    (m, n) float64, m2, 0 where nothing is delivered; base (m, n) uint8: the base map; places: of its pixels; slot
    (cells,) int64: place of each delivered cell in (m, n); around (side,) int64: the coarse cell of the tile's
    surroundings that each row, and each column, with the REACH around lies in.
    """

    static: Tensor
    area: Tensor
    base: Tensor
    places: constraint_torch.Places
    slot: Tensor
    around: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        parts = self.static, self.area, self.base, self.slot, self.around, *vars(self.places).values()
        return sum(part.nbytes for part in parts)

    def to(self, device: torch.device) -> "Resident":
        """The same on another device."""
        order, back, pixels = (part.to(device) for part in vars(self.places).values())
        return Resident(
            self.static.to(device), self.area.to(device), self.base.to(device),
            constraint_torch.Places(order, back, pixels), self.slot.to(device), self.around.to(device),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Flying:
    """A tile whose fields are on their way: fractions (K, cells), classes (cells,), residual (K, m) and open (m,).

    logits (m, K, n) stay on the device, for cells that are still open.
    """

    work: TileWork
    logits: Tensor
    fractions: Tensor
    classes: Tensor
    residual: Tensor
    open: Tensor


class DeviceRunner(TileRunner):
    """Runs the emulator on the tiles of one rank on a torch device.

    In `level` mode whole tiles are run there, from inputs to fields. Where totals follow only from all tiles (hosts
    coarser than the emulator's coarse grid), and in the modes `change` and `none`, the device runs the network and the
    processor what comes after it.
    """

    def __init__(
        self, emulator: Emulator, mode: str, precision: str, threads: int, device: torch.device, sharing: int = 1,
        statics: StaticFeatures | None = None,
    ) -> None:  # fmt: skip
        """sharing: how many ranks use the device, and share its memory; statics: as of TileRunner."""
        super().__init__(emulator, mode, precision, threads, statics)
        self._on_device = emulator.network(str(device), precision)
        self._device, self._resident, self._booking = device, dict[int, Resident](), Lock()
        self._room = SHARE * torch.cuda.mem_get_info(device)[0] / sharing if device.type == "cuda" else float("inf")

    def forget(self) -> None:
        """Drop what the device keeps of the tiles run so far."""
        super().forget()
        self._resident.clear()

    def run(
        self, tiles: Iterable[TileWork], watch: Stopwatch, done: Callable[[], None], then: Then = _as_they_are
    ) -> list[Any]:
        """As `TileRunner.run`."""
        if self._mode != "level":
            return super().run(tiles, watch, done, then)

        def landed(one: tuple[int, Flying, NDArray[np.float64]], own: Stopwatch) -> Any:
            i, flying, room = one
            fields = self._landed(flying, room, own)
            with own.stage("exchange"):
                return then(i, fields)

        results, rest = list[Any](), iter(tiles)
        while works := list(itertools.islice(rest, ROUND)):
            with self._torch():
                flying = [self._launch(work, watch) for work in works]
                with watch.stage("unet"):
                    self._wait()
            numbered = itertools.count(len(results))
            results += self._each(landed, list(zip(numbered, flying, self._rooms(works), strict=False)), watch, done)
        return results

    @contextmanager
    def _torch(self) -> Iterator[None]:
        with super()._torch(), exact(self._device), torch.inference_mode():
            yield

    def _wait(self) -> None:
        """Return once all that was handed to the device is done and here."""
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()

    def _launch(self, work: TileWork, watch: Stopwatch) -> Flying:
        """Hand a tile to the device; nothing is waited for."""
        with watch.stage("features"):
            kept = self._kept_of(work.cells)
        run = np.zeros(work.cells.coarse.size, bool)
        run[self._unsettled(work)] = True
        logits = self._whole(work, kept, watch) if run.any() else None
        with watch.stage("constraint"):
            return self._fields(work, kept, logits, run)

    def _fields(self, work: TileWork, kept: Resident, logits: Tensor | None, run: NDArray[np.bool_]) -> Flying:
        """Close and draw all coarse cells of a tile; those not run show the base map or their one class."""
        wanted, land = self._to(work.wanted), kept.area > 0
        if logits is None:
            logits = torch.zeros((*wanted.shape, land.shape[1]), device=self._device)
        closed = constraint_torch.solve(logits, kept.area, wanted)
        ran, from_base = self._to(run), self._to(work.from_base)
        kinds = torch.arange(1, wanted.shape[1] + 1, device=self._device)[:, None]
        plain = torch.where(
            from_base[:, None, None], (kept.base[:, None] == kinds).double(), wanted[:, :, None] * land[:, None]
        )
        fractions = torch.where(ran[:, None, None], closed.fractions, plain)
        pixels = np.bincount(work.cells.coarse_of_cell, minlength=run.size)
        with self._naming(work.cells.coarse):
            counts = constraint._counts(work.wanted, pixels * run)
        drawn, unsettled = constraint_torch.draw(fractions, kept.places, self._to(counts))
        only = (wanted.argmax(1, keepdim=True) + 1).to(torch.uint8) * land
        classes = torch.where(ran[:, None], drawn, torch.where(from_base[:, None], kept.base * land, only))
        residual = torch.where(ran[:, None], closed.residual, 0.0)
        flat = fractions.swapaxes(0, 1).flatten(1)
        parts = (
            flat.index_select(1, kept.slot), classes.flatten().index_select(0, kept.slot),
            residual.T.contiguous(), (closed.open | unsettled) & ran,
        )  # fmt: skip
        flat_fractions, flat_classes, back, still = (self._back(part) for part in parts)
        return Flying(work, logits, flat_fractions, flat_classes, back, still)

    def _landed(self, flying: Flying, fractions: NDArray[np.float64], watch: Stopwatch) -> TileFields:
        """The fields of a tile that are here; cells the device left open are closed and drawn on the processor.

        fractions (K, cells) is where they are put.
        """
        fractions[...] = flying.fractions.numpy()
        classes, residual = flying.classes.numpy().copy(), flying.residual.numpy().copy()
        left = np.flatnonzero(flying.open.numpy())
        if left.size:
            with watch.stage("constraint"):
                self._mend(flying, left, fractions, classes, residual)
        return TileFields(fractions, classes, residual)

    def _mend(
        self,
        flying: Flying,
        left: NDArray[np.intp],
        fractions: NDArray[np.float64],
        classes: NDArray[np.uint8],
        residual: NDArray[np.float64],
    ) -> None:
        """Close and draw the coarse cells `left` of a tile by `constraint`, in the fields of its delivered cells."""
        cells = flying.work.cells
        logits = flying.logits.index_select(0, self._to(left)).float().cpu().numpy()
        area, wanted = cells.block(self._emulator.fine.area_rows[cells.rows])[left], flying.work.wanted[left]
        with self._naming(cells.coarse[left]):
            closed, off = constraint.close(logits, area, wanted)
        residual[:, left] = off.T
        drawn = constraint.quota(closed, area > 0, cells.block(cells.cells + 1)[left], wanted)
        at = np.flatnonzero(np.isin(cells.coarse_of_cell, left))
        cell, pixel = np.searchsorted(left, cells.coarse_of_cell[at]), cells.slot[at] % cells.ratio**2
        fractions[:, at], classes[at] = closed[cell, :, pixel].T, drawn[cell, pixel]

    def _ask(
        self, work: TileWork, run: NDArray[np.int64], logits: Logits, watch: Stopwatch, averaged: bool
    ) -> NDArray[np.float64] | None:
        """As `TileRunner._ask`, by the device; threads hand it their tiles in any order."""
        if not run.size:
            return None
        kept = self._kept_of(work.cells)
        with torch.inference_mode():
            blocks = self._whole(work, kept, watch).index_select(0, self._to(run)).cpu().numpy()
        with watch.stage("constraint"):
            pixels = self._pixels(work, run)
            logits[...] = pixels.unblock(blocks)
            return constraint.means(blocks, pixels.block(pixels.area)) if averaged else None

    def _whole(self, work: TileWork, kept: Resident, watch: Stopwatch) -> Tensor:
        """The network's answer (m, K, n) float32 for the coarse cells of a tile, run on all of it."""
        ratio, size = work.cells.ratio, work.cells.tile.size
        with watch.stage("features"):
            stem, prior = self._inputs(work, kept)
        with watch.stage("unet"):
            logits = pixel_shuffle(self._on_device.after_stem(stem, prior, REACH), 2)[0].float()
            side = size // ratio
            blocks = logits.reshape(-1, side, ratio, side, ratio).permute(1, 3, 0, 2, 4).reshape(side**2, -1, ratio**2)
            return blocks.index_select(0, self._to(work.cells.blocks))

    def _inputs(self, work: TileWork, kept: Resident) -> tuple[Tensor, Tensor | None]:
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

    def _kept_of(self, cells: TileCells) -> Resident:
        """What a tile needs every year, on the device; where that is full it waits on the host from year to year."""
        kept = self._resident.get(cells.tile.index)
        if kept is None:
            kept = self._prepared(cells)
            with self._booking:
                fits = kept.nbytes <= self._room
                self._room -= kept.nbytes if fits else 0
            if not fits:
                kept = kept.to(torch.device("cpu"))
            self._resident[cells.tile.index] = kept
        return kept.to(self._device)

    def _prepared(self, cells: TileCells) -> Resident:
        """From the emulator's files."""
        emulator, tile, ratio = self._emulator, cells.tile, cells.ratio
        side, rim = tile.size + 2 * REACH, -(-emulator.halo // ratio) * ratio
        statics = self._stem.statics(tile.row0 - REACH, tile.col0 - REACH, side, side)
        made = self._on_device.static_stem(self._to(statics)[None])[0].clamp(-LARGEST, LARGEST)
        area = cells.block(emulator.fine.area_rows[cells.rows])
        base = cells.block(emulator.base_map().reshape(-1)[cells.cells])
        around = (np.arange(side) - REACH + rim) // ratio
        places = constraint_torch.Places.of(area > 0, cells.block(cells.cells + 1), self._device)
        return Resident(made.half(), self._to(area), self._to(base), places, self._to(cells.slot), self._to(around))

    def _to(self, values: NDArray) -> Tensor:
        """A copy of an array on its way to the device; from pinned memory, so that nobody waits for it."""
        here = torch.tensor(values)
        return here.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else here

    def _back(self, values: Tensor) -> Tensor:
        """Values on their way to the host, in pinned memory where there is a way to go."""
        if values.device.type == "cpu":
            return values
        room = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        return room.copy_(values, non_blocking=True)


def runner_on(
    device: Device, emulator: Emulator, mode: str, precision: str, threads: int, sharing: int = 1,
    statics: StaticFeatures | None = None,
) -> TileRunner:  # fmt: skip
    """The runner of a rank; on a GPU with room for `sharing` ranks. statics: as of TileRunner."""
    if device.kind == "cpu":
        return TileRunner(emulator, mode, precision, threads, statics)
    return DeviceRunner(emulator, mode, precision, threads, device.torch_device, sharing, statics)
