"""From coarse totals to fine fractions, tile by tile: features, U-Net, closing, class map."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ai4land_coupler.ahead import side_by_side
from ai4land_coupler.change import close_change, quota_change
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import ConstraintError, DeviceError
from ai4land_coupler.features import StaticFeatures
from ai4land_coupler.pixels import Answer, Logits, Pixels, close, fill, means, quota
from ai4land_coupler.stem import Stem
from ai4land_coupler.tiles import Tile, TileCells, TileDraft, TileFields, TileWork
from ai4land_coupler.timing import Stopwatch
from ai4land_coupler.unetconfig import REACH, STRIDE

S = TypeVar("S")
T = TypeVar("T")
Index = NDArray[np.int64]

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
        self._legend = np.arange(1, len(emulator.legend) + 1, dtype=np.uint8)
        self._in_order = np.arange(emulator.tile**2)

    def forget(self) -> None:
        """Drop the static features kept of the tiles run so far."""
        self._stem.forget()

    @property
    def threads(self) -> int:
        """Threads that work on the tiles."""
        return self._threads

    def run(self, tiles: Iterable[TileWork], watch: Stopwatch, done: Callable[[], None]) -> list[TileFields]:
        """Fields of each tile; `done` is called after each. ConstraintError names the coarse cell it cannot close."""
        return self._after_network(self._closed, tiles, watch, done)

    def draft(self, tiles: Iterable[TileWork], watch: Stopwatch, done: Callable[[], None]) -> list[TileDraft]:
        """The first half of `run`: the network alone, given totals that are not final."""
        return self._after_network(self._drafted, tiles, watch, done)

    def close(self, tiles: Iterable[TileWork], drafts: list[TileDraft], watch: Stopwatch) -> list[TileFields]:
        """The second half: fields of each tile from its draft and the final totals. ConstraintError as in `run`.

        The drafts are taken out of their list, and each is dropped once its tile is closed.
        """
        ran: list[tuple[TileWork, Index, Answer]] = [
            (work, draft.run, draft.answer) for work, draft in zip(tiles, drafts, strict=True)
        ]
        drafts.clear()

        def closed(one: tuple[TileWork, Index, Answer], own: Stopwatch) -> TileFields:
            with own.stage("constraint"):
                return self._closed(*one)

        return self._each(closed, ran, watch)

    def _after_network(
        self, then: Callable[[TileWork, Index, Answer], T], tiles: Iterable[TileWork], watch: Stopwatch,
        done: Callable[[], None],
    ) -> list[T]:  # fmt: skip
        """What comes after the network's answer, of each tile."""
        asked = [(work, self._unsettled(work)) for work in tiles]
        with self._torch():
            with watch.stage("features"):
                self._prepare([one for one in asked if one[1].size])

            def made(one: tuple[TileWork, Index], own: Stopwatch) -> T:
                work, run = one
                answer = self._logits(work, run, own) if run.size else self._silent
                with own.stage("constraint"):
                    return then(work, run, answer)

            return self._each(made, asked, watch, done)

    def _each(
        self, work: Callable[[S, Stopwatch], T], items: list[S], watch: Stopwatch,
        done: Callable[[], None] | None = None,
    ) -> list[T]:  # fmt: skip
        """work(item, watch) of each item. As many at a time as there are threads, each on its share of them."""
        at_a_time = max(1, min(self._threads, len(items)))
        watches, threads = list[Stopwatch](), self._threads // at_a_time

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
            raise _named(error) from error
        finally:
            torch.set_num_threads(threads)

    def _prepare(self, asked: list[tuple[TileWork, Index]]) -> None:
        """What the network is given of tiles and does not change from year to year, on all threads."""
        self._stem.prepare(
            (_window(work.cells.tile, *_reach(work.cells, run)) for work, run in asked), self._threads
        )

    def _silent(self, _: Pixels) -> Logits:
        return Logits(np.empty((self._legend.size, 0), np.float32), np.empty(0, np.int64))

    def _pixels(self, work: TileWork, some: Index) -> Pixels:
        return work.cells.pixels(some, self._emulator.fine.area_rows)

    def _unsettled(self, work: TileWork) -> Index:
        """The coarse cells of a tile (r,) that hold several classes and do not show the base map."""
        settled = work.from_base | ((work.wanted.max(axis=1) == 1.0) & (self._mode == "level"))
        if work.before is not None:
            settled |= (work.wanted == work.before).all(axis=1)
        return np.flatnonzero(~settled)

    def _drafted(self, work: TileWork, run: Index, answer: Answer) -> TileDraft:
        averages = np.full((self._legend.size, work.cells.coarse.size), np.nan)
        pixels = self._pixels(work, run)
        logits = Logits(answer(pixels).of_pixels(), self._in_order[: pixels.which.size])
        averages[:, run] = means(pixels, logits).T
        return TileDraft(run, logits, averages)

    def _closed(self, work: TileWork, run: Index, answer: Answer) -> TileFields:
        """Coarse cells of one class are filled with it, those without a state show the base map; the rest was run."""
        if work.before is not None:
            return self._changed(work, work.before, run, answer)
        cells, wanted = work.cells, work.wanted
        fractions, classes = np.empty((self._legend.size, cells.size)), np.empty(cells.size, np.uint8)
        residual = np.zeros_like(wanted)
        self._settle(work, run, fractions, classes)
        if run.size:
            pixels = self._pixels(work, run)
            residual[run] = self._close(cells.coarse[run], pixels, answer(pixels), wanted[run], fractions)
            counted = wanted[run] + (residual[run] if self._mode == "none" else 0.0)
            classes[pixels.which] = quota(pixels, fractions, counted)
        return TileFields(fractions, classes, np.ascontiguousarray(residual.T))

    def _settle(self, work: TileWork, run: Index, fractions: NDArray[np.float64], classes: NDArray[np.uint8]) -> None:
        """Fill in fractions (K, n) and classes (n,) of the coarse cells that were not run."""
        cells = work.cells
        others = np.ones(cells.coarse.size, bool)
        others[run] = False
        rest = np.flatnonzero(others)
        if not rest.size:
            return
        pixels = self._pixels(work, rest)
        each, from_base = np.diff(pixels.first), work.from_base[rest]
        label = np.repeat((work.wanted[rest].argmax(axis=1) + 1).astype(np.uint8), each)
        if from_base.any():
            shown = np.repeat(from_base, each)
            label[shown] = self._emulator.base_map().reshape(-1)[pixels.cell_id[shown] - 1]
        fill(pixels, label, fractions, classes)

    def _changed(self, work: TileWork, before: NDArray[np.float64], run: Index, answer: Answer) -> TileFields:
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
                changed, residual[run] = close_change(pixels.block(answer(pixels).of_pixels()), area, *some)
                ids = pixels.block(pixels.cell_id)
                drawn = quota_change(changed, base, area > 0, ids, wanted[run], before[run])
                fractions[:, pixels.which], classes[pixels.which] = pixels.unblock(changed), pixels.unblock(drawn)
        return TileFields(fractions, classes, np.ascontiguousarray(residual.T))

    def _logits(self, work: TileWork, run: Index, watch: Stopwatch) -> Answer:
        """The network's answer for the coarse cells `run` of a tile, run on the rectangle that holds them."""
        cells = work.cells
        rows, cols = _reach(cells, run)
        with watch.stage("features"), torch.inference_mode():
            given = self._given(work, rows, cols)
        with watch.stage("unet"), torch.inference_mode():
            made = self._network.after_stem(*given, rim=REACH)[0].float().contiguous().numpy()
        start, width = (-rows.start, -cols.start), made.shape[2]
        planes = made.reshape(len(made), -1)
        return lambda pixels: Logits(planes, cells.places(pixels.which, start, width))

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

    def _close(
        self,
        coarse: Index,
        pixels: Pixels,
        logits: Logits,
        wanted: NDArray[np.float64],
        out: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Put the fractions of the pixels into out (K, n); the residual (r, K) of their coarse cells (r,)."""
        if self._mode == "none":
            free = torch.softmax(torch.from_numpy(logits.of_pixels()).double(), dim=0).numpy()
            out[:, pixels.which] = free
            area = pixels.block(pixels.area)
            return (pixels.block(free) * area[:, None]).sum(2) / area.sum(1)[:, None] - wanted
        with self._naming(coarse):
            return close(pixels, logits, wanted, out)

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


def _window(tile: Tile, rows: slice, cols: slice) -> tuple[tuple[int, int], tuple[int, int]]:
    """Start and size on the fine grid of rows and columns of a tile with the REACH around them."""
    start = tile.row0 + rows.start - REACH, tile.col0 + cols.start - REACH
    return start, (rows.stop - rows.start + 2 * REACH, cols.stop - cols.start + 2 * REACH)


def _named(error: RuntimeError) -> Exception:
    """What torch raises, as an error of the plugin: a device that failed, or memory that ran out."""
    of_device = tuple(filter(None, (getattr(torch, name, None) for name in ("OutOfMemoryError", "AcceleratorError"))))
    if isinstance(error, of_device) or "CUDA" in str(error):
        return DeviceError(f"the device failed: {error}; look at its memory and at what else runs on it")
    return MemoryError(str(error)) if "can't allocate memory" in str(error) else error


def _reach(cells: TileCells, run: Index) -> tuple[slice, slice]:
    """Rows and columns of a tile that hold the coarse cells `run`, widened to whole steps of the network."""
    ratio = cells.ratio
    row, column = np.divmod(cells.blocks[run], cells.tile.size // ratio)
    return _steps(row * ratio, ratio), _steps(column * ratio, ratio)


def _steps(first: Index, width: int) -> slice:
    start, stop = int(first.min()), int(first.max()) + width
    return slice(start // STRIDE * STRIDE, -(-stop // STRIDE) * STRIDE)
