"""From coarse totals to fine fractions, tile by tile: features, U-Net, closing, class map."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ai4land_coupler import kernel
from ai4land_coupler.ahead import side_by_side
from ai4land_coupler.change import close_change, quota_change
from ai4land_coupler.constraint import quota
from ai4land_coupler.device import failure
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import ConstraintError
from ai4land_coupler.features import StaticFeatures
from ai4land_coupler.pixels import Logits, Pixels, end_of, fields, pick, settled
from ai4land_coupler.shelf import Shelf
from ai4land_coupler.stem import Stem
from ai4land_coupler.tiles import Tile, TileCells
from ai4land_coupler.tilework import TileDraft, TileFields, TileWork
from ai4land_coupler.timing import Stopwatch
from ai4land_coupler.unetconfig import REACH, STRIDE

S = TypeVar("S")
T = TypeVar("T")
Index = NDArray[np.int64]
Float = NDArray[np.float64]
AT_A_TIME = 16
"""Tiles at most that threads work on side by side: what they do in Python they do one after another, 1 part in 25."""


class TileRunner:
    """Runs the emulator on the tiles of one rank; static features are kept from year to year."""

    def __init__(
        self, emulator: Emulator, mode: str, precision: str, threads: int, statics: StaticFeatures | None = None
    ) -> None:
        """statics: of the emulator, where they have been read."""
        self._emulator = emulator
        self._mode = mode
        self._threads = threads
        self._network = emulator.network("cpu", precision)
        self._stem = Stem(emulator, self._network, statics)
        self._shelf = Shelf()
        self._legend = np.arange(1, len(emulator.legend) + 1, dtype=np.uint8)

    def forget(self) -> None:
        """Drop the static features kept of the tiles run so far."""
        self._stem.forget()

    @property
    def threads(self) -> int:
        """Threads that work on the tiles."""
        return self._threads

    def run(self, tiles: Iterable[TileWork], watch: Stopwatch, done: Callable[[], None]) -> list[TileFields]:
        """Fields of each tile; `done` is called after each. ConstraintError names the coarse cell it cannot close."""

        def refined(one: tuple[TileWork, Float], own: Stopwatch) -> TileFields:
            work, room = one
            run = self._unsettled(work)
            logits = np.empty((self._legend.size, _pixels(work, run)), np.float32)
            self._ask(work, run, logits, own, averaged=False)
            return self._closed(work, run, logits, room, own)

        works = list(tiles)
        return self._each(refined, list(zip(works, self._rooms(works), strict=True)), watch, done)

    def draft(
        self, tiles: Iterable[TileWork], watch: Stopwatch, done: Callable[[], None], once: bool = False
    ) -> list[TileDraft]:
        """The first half of `run`: the network alone, given totals that are not final.

        once: the drafts are closed once at most; they then wait in the memory that is to take the fields.
        """

        def drafted(one: tuple[TileWork, Float | None], own: Stopwatch) -> TileDraft:
            work, room = one
            run = self._unsettled(work)
            pixels, means = _pixels(work, run), np.full(work.wanted.T.shape, np.nan)
            logits = np.empty((self._legend.size, pixels), np.float32) if room is None else end_of(room, pixels)
            averages = self._ask(work, run, logits, own, averaged=True)
            if averages is not None:
                means[:, run] = averages.T
            return TileDraft(run, logits, means, room)

        works = list(tiles)
        rooms: Iterable[Float | None] = self._rooms(works) if once else itertools.repeat(None)
        return self._each(drafted, list(zip(works, rooms, strict=False)), watch, done)

    def close(self, tiles: Iterable[TileWork], drafts: list[TileDraft], watch: Stopwatch) -> list[TileFields]:
        """The second half: what `run` gives, from the draft of each tile and the final totals.

        The drafts are taken out of their list, and each is dropped once its tile is closed.
        """
        works = list(tiles)
        waiting = [draft.room for draft in drafts if draft.room is not None]  # of drafts made `once`, all have
        rooms = waiting if len(waiting) == len(works) else self._rooms(works)
        ran = list(zip(works, drafts, rooms, strict=True))
        drafts.clear()
        del works, waiting, rooms

        def closed(one: tuple[TileWork, TileDraft, Float], own: Stopwatch) -> TileFields:
            work, draft, room = one
            return self._closed(work, draft.run, draft.logits, room, own)

        return self._each(closed, ran, watch)

    def _rooms(self, works: Sequence[TileWork]) -> list[Float]:
        return self._shelf.lend([(self._legend.size, work.cells.size) for work in works])

    def _each(
        self, work: Callable[[S, Stopwatch], T], items: list[S], watch: Stopwatch,
        done: Callable[[], None] | None = None,
    ) -> list[T]:  # fmt: skip
        """work(item, watch) of each item, by all threads."""
        at_a_time, threads = teams(self._threads, len(items))
        watches = list[Stopwatch]()

        def one(item: S) -> T:
            watches.append(own := Stopwatch())
            if torch.get_num_threads() != threads:  # of this thread
                torch.set_num_threads(threads)
            return work(item, own)

        with self._torch():
            try:
                return side_by_side(one, items, at_a_time, done)
            finally:
                watch.add(watches, at_a_time)

    @contextmanager
    def _torch(self) -> Iterator[None]:
        threads = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            yield
        except RuntimeError as error:
            raise failure(error) from error
        finally:
            torch.set_num_threads(threads)

    def _unsettled(self, work: TileWork) -> Index:
        """The coarse cells of a tile (r,) that hold several classes and do not show the base map."""
        settled = work.from_base | ((work.wanted.max(axis=1) == 1.0) & (self._mode == "level"))
        if work.before is not None:
            settled |= (work.wanted == work.before).all(axis=1)
        return np.flatnonzero(~settled)

    def _closed(
        self, work: TileWork, run: Index, logits: Logits, fractions: Float, watch: Stopwatch
    ) -> TileFields:  # fmt: skip
        """The fields of a tile, and their tally; fractions (K, n) is where they may be put."""
        with watch.stage("constraint"):
            fields = self._fields_of(work, run, logits, fractions)
        with watch.stage("exchange"):
            tally = work.sums(np.asarray(fields.fractions), fields.classes) if work.sums else None
        return replace(fields, tally=tally)

    def _fields_of(self, work: TileWork, run: Index, logits: Logits, fractions: Float) -> TileFields:
        """Coarse cells of one class are filled with it, those without a state show the base map; the rest was run."""
        if work.before is not None:
            return self._changed(work, work.before, run, logits)
        kind = np.where(work.from_base, kernel.BASE, kernel.ONE).astype(np.uint8)
        kind[run] = kernel.RUN
        area, base = self._emulator.fine.area_rows, self._emulator.base_map()
        if self._mode == "none":
            classes = settled(work.cells, kind, base, work.wanted, fractions)
            residual = self._open(work, run, logits, fractions, classes)
        else:
            with self._naming(work.cells.coarse[run]):
                classes, residual = fields(work.cells, kind, area, base, logits, work.wanted, fractions)
        return TileFields(fractions, classes, np.ascontiguousarray(residual.T))

    def _open(
        self, work: TileWork, run: Index, logits: Logits, fractions: Float, classes: NDArray[np.uint8]
    ) -> Float:
        """Put the network's fractions as they are where it was run; what their means differ from the totals, (m, K)."""
        residual = np.zeros_like(work.wanted)
        if run.size:
            pixels = self._pixels(work, run)
            free = torch.softmax(torch.from_numpy(logits).double(), dim=0).numpy()
            area, blocks = pixels.block(pixels.area), pixels.block(free)
            means = (blocks * area[:, None]).sum(2) / area.sum(1)[:, None]
            residual[run] = means - work.wanted[run]
            drawn = quota(blocks, area > 0, pixels.block(pixels.cell_id), work.wanted[run] + residual[run])
            fractions[:, pixels.which], classes[pixels.which] = free, pixels.unblock(drawn)
        return residual

    def _changed(self, work: TileWork, before: NDArray[np.float64], run: Index, logits: Logits) -> TileFields:
        """The base map, changed in the coarse cells that were run."""
        cells, wanted = work.cells, work.wanted
        classes = self._emulator.base_map().reshape(-1)[cells.cells]
        fractions = (classes == self._legend[:, None]).astype(np.float64)
        residual = np.zeros_like(wanted)
        if run.size:
            with self._naming(cells.coarse[run]):
                pixels = self._pixels(work, run)
                area, base = pixels.block(pixels.area), pixels.block(classes[pixels.which])
                some = base, wanted[run], before[run]
                changed, residual[run] = close_change(pixels.block(logits), area, *some)
                ids = pixels.block(pixels.cell_id)
                drawn = quota_change(changed, base, area > 0, ids, wanted[run], before[run])
                fractions[:, pixels.which], classes[pixels.which] = pixels.unblock(changed), pixels.unblock(drawn)
        return TileFields(fractions, classes, np.ascontiguousarray(residual.T))

    def _pixels(self, work: TileWork, some: Index) -> Pixels:
        return Pixels.of(work.cells, some, self._emulator.fine.area_rows)

    def _ask(self, work: TileWork, run: Index, logits: Logits, watch: Stopwatch, averaged: bool) -> Float | None:
        """Put the network's logits for the coarse cells `run` (r,) of a tile into (K, pixels of them).

        Their means (r, K) over each of these are returned, where asked for. The network is run on the rectangle that
        holds them.
        """
        if not run.size:
            return None
        rows, cols = _reach(work.cells, run)
        with watch.stage("features"), torch.inference_mode():
            given = self._given(work, rows, cols)
        with watch.stage("unet"), torch.inference_mode():
            made = self._network.after_stem(*given, rim=REACH).permute(0, 2, 3, 1).contiguous()[0].numpy()
        with watch.stage("constraint"):
            area, corner = self._emulator.fine.area_rows, (rows.start, cols.start)
            return pick(work.cells, run, area, made, corner, logits, averaged)

    def _given(self, work: TileWork, rows: slice, cols: slice) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the network goes on from for rows and columns of a tile and the REACH around them.

        The stem's answer (1, width, ny / 2, nx / 2), and for a network that is given a prior map that map (1, K, ny,
        nx), one class a cell, all 0 where there is none. Both lie in memory channel by channel within a cell.
        """
        start, size = _window(work.cells.tile, rows, cols)
        inner = work.rim * work.cells.ratio - REACH
        corner = inner + rows.start, inner + cols.start
        before = None
        if self._emulator.unet.prior:
            before = np.zeros((self._legend.size, *size), np.uint8)
            if work.prior is not None:
                top, left = (self._emulator.halo - REACH + part.start for part in (rows, cols))
                here = work.prior[top : top + size[0], left : left + size[1]]
                before[...] = here == self._legend[:, None, None]
        stem = self._stem.window(start, size, work.totals, corner, before)
        return stem, None if before is None else torch.from_numpy(before).float().unsqueeze(0)

    @contextmanager
    def _naming(self, coarse: Index) -> Iterator[None]:
        """Say of which of the coarse cells (m,) an error of the constraint speaks."""
        try:
            yield
        except ConstraintError as error:
            cell = int(coarse[getattr(error, "cell", 0)])
            grid = self._emulator.coarse
            where = f"{grid.lat[cell // grid.nlon]:.2f} N {grid.lon[cell % grid.nlon]:.2f} E"
            raise ConstraintError(f"coarse cell {cell + 1} at {where}: {error}") from error


def teams(threads: int, tiles: int) -> tuple[int, int]:
    """How many tiles are worked on at a time, and by how many threads each."""
    at_a_time = max(1, min(threads // -(-threads // AT_A_TIME), tiles))
    return at_a_time, threads // at_a_time


def _pixels(work: TileWork, run: Index) -> int:
    """Land cells in the coarse cells `run` of a tile."""
    first = work.cells.first
    return int((first[run + 1] - first[run]).sum())


def _window(tile: Tile, rows: slice, cols: slice) -> tuple[tuple[int, int], tuple[int, int]]:
    """Start and size on the fine grid of rows and columns of a tile with the REACH around them."""
    start = tile.row0 + rows.start - REACH, tile.col0 + cols.start - REACH
    return start, (rows.stop - rows.start + 2 * REACH, cols.stop - cols.start + 2 * REACH)


def _reach(cells: TileCells, run: Index) -> tuple[slice, slice]:
    """Rows and columns of a tile that hold the coarse cells `run`, widened to whole steps of the network."""
    ratio = cells.ratio
    row, column = np.divmod(cells.blocks[run], cells.tile.size // ratio)
    return _steps(row * ratio, ratio), _steps(column * ratio, ratio)


def _steps(first: Index, width: int) -> slice:
    start, stop = int(first.min()), int(first.max()) + width
    return slice(start // STRIDE * STRIDE, -(-stop // STRIDE) * STRIDE)
