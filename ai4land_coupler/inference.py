"""From coarse totals to fine fractions, tile by tile: features, U-Net, closing, class map."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ai4land_coupler.change import close_change, quota_change
from ai4land_coupler.constraint import close, means, quota
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import ConstraintError, DeviceError
from ai4land_coupler.provenance import processor_flags
from ai4land_coupler.stem import Stem
from ai4land_coupler.tiles import TileWork
from ai4land_coupler.timing import Stopwatch
from ai4land_coupler.unet import STRIDE

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class TileFields:
    """What a tile returns for its n delivered cells in m coarse cells.

    fractions (K, n) float64 of land; classes (n,) uint8, 1-based; residual (K, m) float64: fine minus coarse total as
    a share of the coarse cell's land, 0 where the base map stands in.
    """

    fractions: NDArray[np.float64]
    classes: NDArray[np.uint8]
    residual: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TileDraft:
    """What the network says of a tile before its totals are known.

    run (r,): which of its m coarse cells were run; logits (r, K, ratio^2) float32; means (K, m) float64: area-weighted
    means of the network's fractions in each coarse cell, NaN where it was not run.
    """

    run: NDArray[np.int64]
    logits: NDArray[np.float32]
    means: NDArray[np.float64]


class TileRunner:
    """Runs the emulator on the tiles of one rank; static features are kept from year to year."""

    def __init__(self, emulator: Emulator, mode: str, precision: str, threads: int) -> None:
        self._emulator = emulator
        self._mode = mode
        self._threads = threads
        self._network = emulator.network("cpu", precision)
        self._stem = Stem(emulator, self._network)
        self._legend = np.arange(1, len(emulator.legend) + 1, dtype=np.uint8)

    def forget(self) -> None:
        """Drop the static features kept of the tiles run so far."""
        self._stem.forget()

    def run(
        self,
        tiles: Iterable[TileWork],
        watch: Stopwatch,
        done: Callable[[], None],
    ) -> list[TileFields]:
        """Fields of each tile; `done` is called after each. ConstraintError names the coarse cell it cannot close."""
        with self._torch():
            return _each(tiles, done, lambda work: self._closed(work, *self._run(work, watch), watch))

    def draft(self, tiles: Iterable[TileWork], watch: Stopwatch, done: Callable[[], None]) -> list[TileDraft]:
        """The first half of `run`: the network alone, given totals that are not final."""
        with self._torch():
            return _each(tiles, done, lambda work: self._drafted(work, watch))

    def close(self, tiles: Iterable[TileWork], drafts: Iterable[TileDraft], watch: Stopwatch) -> list[TileFields]:
        """The second half: fields of each tile from its draft and the final totals. ConstraintError as in `run`."""
        pairs = zip(tiles, drafts, strict=True)
        return [self._closed(work, draft.run, draft.logits, watch) for work, draft in pairs]

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

    def _run(self, work: TileWork, watch: Stopwatch) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Which coarse cells of a tile the network is run for, (r,), and its logits (r, K, ratio^2) there."""
        run = self._unsettled(work)
        if not run.size:
            return run, np.empty((0, self._legend.size, work.cells.ratio**2), np.float32)
        return run, self._logits(work, work.cells.blocks[run], watch)

    def _unsettled(self, work: TileWork) -> NDArray[np.int64]:
        """The coarse cells of a tile (r,) that hold several classes and do not show the base map."""
        settled = work.from_base | ((work.wanted.max(axis=1) == 1.0) & (self._mode == "level"))
        if work.before is not None:
            settled |= (work.wanted == work.before).all(axis=1)
        return np.flatnonzero(~settled)

    def _drafted(self, work: TileWork, watch: Stopwatch) -> TileDraft:
        run, logits = self._run(work, watch)
        averages = np.full((self._legend.size, work.cells.coarse.size), np.nan)
        with watch.stage("constraint"):
            averages[:, run] = means(logits, self._area(work)[run]).T
        return TileDraft(run, logits, averages)

    def _area(self, work: TileWork) -> NDArray[np.float64]:
        """Areas (m, ratio^2) of the delivered cells of a tile by coarse cell, m2, 0 for others."""
        return work.cells.block(self._emulator.fine.area_rows[work.cells.cells // self._emulator.fine.nlon])

    def _closed(
        self, work: TileWork, run: NDArray[np.int64], logits: NDArray[np.float32], watch: Stopwatch
    ) -> TileFields:
        """Coarse cells of one class are filled with it, those without a state show the base map; the rest was run."""
        if work.before is not None:
            return self._changed(work, work.before, run, logits, watch)
        cells, wanted, area = work.cells, work.wanted, self._area(work)
        base = cells.block(self._emulator.base_map().reshape(-1)[cells.cells])
        observed = (base[:, None, :] == self._legend[:, None]).astype(np.float64)
        fractions = np.where(work.from_base[:, None, None], observed, wanted[:, :, None] * (area > 0)[:, None, :])
        counted, residual = fractions.sum(2) / (area > 0).sum(1)[:, None], np.zeros_like(wanted)
        if run.size:
            with watch.stage("constraint"):
                fractions[run], residual[run] = self._close(cells.coarse[run], logits, area[run], wanted[run])
                counted[run] = wanted[run] + (residual[run] if self._mode == "none" else 0.0)
        with watch.stage("constraint"):
            classes = quota(fractions, area > 0, cells.block(cells.cells + 1), counted)
        return TileFields(cells.unblock(fractions), cells.unblock(classes), np.ascontiguousarray(residual.T))

    def _changed(
        self,
        work: TileWork,
        before: NDArray[np.float64],
        run: NDArray[np.int64],
        logits: NDArray[np.float32],
        watch: Stopwatch,
    ) -> TileFields:
        """The base map, changed in the coarse cells that were run."""
        cells, wanted, area = work.cells, work.wanted, self._area(work)
        classes = cells.block(self._emulator.base_map().reshape(-1)[cells.cells])
        fractions = (classes[:, None, :] == self._legend[:, None]).astype(np.float64)
        residual = np.zeros_like(wanted)
        if run.size:
            with watch.stage("constraint"), self._naming(cells.coarse[run]):
                some = classes[run], wanted[run], before[run]
                fractions[run], residual[run] = close_change(logits, area[run], *some)
                ids, land = cells.block(cells.cells + 1)[run], area[run] > 0
                classes[run] = quota_change(fractions[run], classes[run], land, ids, wanted[run], before[run])
        return TileFields(cells.unblock(fractions), cells.unblock(classes), np.ascontiguousarray(residual.T))

    def _logits(self, work: TileWork, blocks: NDArray[np.int64], watch: Stopwatch) -> NDArray[np.float32]:
        """The network's answer (m, K, ratio^2) for m coarse cells of a tile, run on the rectangle that holds them."""
        halo, ratio, cells = self._emulator.halo, work.cells.ratio, work.cells
        row, col = np.divmod(blocks, cells.tile.size // ratio)
        rows, cols = _reach(row * ratio, ratio), _reach(col * ratio, ratio)
        with watch.stage("features"), torch.inference_mode():
            given = self._given(work, rows, cols)
        with watch.stage("unet"), torch.inference_mode():
            inner = self._network.after_stem(*given)[0, :, halo:-halo, halo:-halo].float().numpy()
        y = (row * ratio - rows.start)[:, None] + np.repeat(np.arange(ratio), ratio)
        x = (col * ratio - cols.start)[:, None] + np.tile(np.arange(ratio), ratio)
        return np.ascontiguousarray(inner[:, y, x].swapaxes(0, 1))

    def _given(self, work: TileWork, rows: slice, cols: slice) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the network goes on from for rows and columns of a tile and the halo around them.

        The stem's answer (1, width, ny / 2, nx / 2), and for a network that is given a prior map that map (1, K, ny,
        nx), one class a cell, all 0 where there is none. Both lie in memory channel by channel within a cell.
        """
        halo, tile, ratio = self._emulator.halo, work.cells.tile, work.cells.ratio
        size = rows.stop - rows.start + 2 * halo, cols.stop - cols.start + 2 * halo
        start = tile.row0 + rows.start - halo, tile.col0 + cols.start - halo
        corner = work.rim * ratio - halo + rows.start, work.rim * ratio - halo + cols.start
        before = None
        if self._emulator.unet.prior:
            before = np.zeros((self._legend.size, *size), np.uint8)
            if work.prior is not None:
                here = work.prior[rows.start : rows.start + size[0], cols.start : cols.start + size[1]]
                before[...] = here == self._legend[:, None, None]
        stem = self._stem.window(start, size, work.totals, corner, before)
        return stem, None if before is None else torch.from_numpy(before).float().unsqueeze(0)

    def _close(
        self,
        coarse: NDArray[np.int64],
        logits: NDArray[np.float32],
        area: NDArray[np.float64],
        wanted: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self._mode == "none":
            free = torch.softmax(torch.from_numpy(logits).double(), dim=1).numpy() * (area > 0)[:, None, :]
            return free, (free * area[:, None, :]).sum(2) / area.sum(1)[:, None] - wanted
        with self._naming(coarse):
            return close(logits, area, wanted)

    @contextmanager
    def _naming(self, coarse: NDArray[np.int64]) -> Iterator[None]:
        """Say of which of the coarse cells (m,) an error of the constraint speaks."""
        try:
            yield
        except ConstraintError as error:
            cell = int(coarse[getattr(error, "cell", 0)])
            grid = self._emulator.coarse
            where = f"{grid.lat[cell // grid.nlon]:.2f} N {grid.lon[cell % grid.nlon]:.2f} E"
            raise ConstraintError(f"coarse cell {cell + 1} at {where}: {error}") from error


def _each(tiles: Iterable[TileWork], done: Callable[[], None], function: Callable[[TileWork], T]) -> list[T]:
    results = []
    for work in tiles:
        results.append(function(work))
        done()
    return results


def _named(error: RuntimeError) -> Exception:
    """What torch raises, as an error of the plugin: a device that failed, or memory that ran out."""
    of_device = tuple(filter(None, (getattr(torch, name, None) for name in ("OutOfMemoryError", "AcceleratorError"))))
    if isinstance(error, of_device) or "CUDA" in str(error):
        return DeviceError(f"the device failed: {error}; look at its memory and at what else runs on it")
    return MemoryError(str(error)) if "can't allocate memory" in str(error) else error


def _reach(first: NDArray[np.int64], width: int) -> slice:
    """The fine cells from the first to the last of intervals of `width`, widened to whole steps of the network."""
    start, stop = int(first.min()), int(first.max()) + width
    return slice(start // STRIDE * STRIDE, -(-stop // STRIDE) * STRIDE)


def choose_precision(asked: str) -> str:
    """The precision of the network: `auto` is bfloat16 on processors with AMX tiles for it, float32 elsewhere."""
    if asked != "auto":
        return asked
    return "bfloat16" if "amx_bf16" in processor_flags() else "float32"
