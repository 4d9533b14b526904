"""The network's first layer on any window: what it makes of the static fields is made once and kept, in blocks.

The stem is linear and its windows of 2 x 2 cells do not overlap, so its answer is the sum of a part that the static
fields make, the same every year, and one that the coarse fractions (and the prior map) make.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ai4land_coupler import kernel
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.features import StaticFeatures, coarse_window

Half = NDArray[np.float16]
Index = NDArray[np.int64]
Pair = tuple[int, int]
"""Row and column, or rows and columns."""

LEAST = 2.0**-14
"""The smallest float16 with all its digits; what is smaller is kept as 0."""
LARGEST = 65504.0
RECHECK = 1.0
"""Seconds after which a thread that waits for others looks again, told or not: they may have run out of memory."""


class Stem:
    """What the stem of an emulator's network makes on windows of the fine grid.

    Kept are blocks (side, side, width) float16 of half the fine resolution, as long as `forget` is not called.
    """

    def __init__(self, emulator: Emulator, network: Any, statics: StaticFeatures | None = None) -> None:
        self._network = network
        self._static = statics or StaticFeatures(emulator)
        self._ratio = emulator.coarse.ratio_to(emulator.fine)
        self._side = math.gcd(emulator.tile, emulator.halo) // 2
        self._past = emulator.halo // 2 // self._side
        down, across = (n // 2 // self._side for n in (emulator.fine.nlat, emulator.fine.nlon))
        self._kept = np.full((down + 2 * self._past, across), None)
        self._address = np.zeros(self._kept.shape, np.int64)
        self._claimed, self._changed = np.zeros(self._kept.shape, bool), threading.Condition()
        self._makers = 0
        self._moving = self._of_classes(len(emulator.legend))
        self._climates = network.climates()

    def _of_classes(self, classes: int) -> NDArray[np.float32]:
        """What a fraction of each class adds in 2 x 2 cells that are alike, (K, width)."""
        first = self._network.static_width
        weight = self._network.stem.weight[:, first : first + classes].detach().float().sum(dim=(2, 3))
        return np.ascontiguousarray(weight.cpu().numpy().T)

    def statics(self, row0: int, col0: int, nrow: int, ncol: int) -> NDArray[np.float32]:
        """The static channels (C, nrow, ncol) that a network is given on a window; see StaticFeatures."""
        return self._static.normalised(row0, col0, nrow, ncol)

    def forget(self) -> None:
        """Drop what is kept."""
        self._kept[...], self._address[...] = None, 0
        self._claimed[...] = False

    def prepare(self, start: Pair, size: Pair) -> None:
        """Make what is lacking of the blocks that cover a window; see `window`.

        Threads may do so at the same time: a block is made by the first that comes for it, and the others wait.
        """
        down, across = self._blocks(start, size)
        where = self._places(down, across)
        while (self._address[where] == 0).any():
            with self._changed:
                if not self._makers:
                    self._claimed[...] = False  # whatever became of those who claimed
                lacking = (self._address[where] == 0) & ~self._claimed[where]
                if not lacking.any():
                    self._changed.wait(RECHECK)
                    continue
                self._claimed[where] |= lacking
                self._makers += 1
            try:
                with _one_thread():
                    for top, bottom, left, right in _rectangles((~lacking).tolist()):
                        part = slice(top, bottom), slice(left, right)
                        self._make(down[part[0]], across[part[1]], lacking[part])
            finally:
                with self._changed:
                    self._makers -= 1
                    self._changed.notify_all()
                    self._claimed[where] &= ~lacking

    def window(
        self, start: Pair, size: Pair, totals: NDArray[np.float64], corner: Pair,
        prior: NDArray[np.uint8] | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """The stem's answer (1, width, ny / 2, nx / 2) float32 on size (ny, nx) fine cells from row and column `start`.

        All are even. totals (K, ..): coarse fractions around, in which the window begins at the fine cell `corner`;
        prior (K, ny, nx): the prior map, one class a cell, for networks that are given one. Columns wrap; past the
        poles is nothing.
        """
        self.prepare(start, size)
        inside = start[0] // 2 % self._side, start[1] // 2 % self._side
        if prior is None and self._ratio % 2 == 0:
            far = self._of_totals(totals)
            of = [(at + 2 * np.arange(n // 2)) // self._ratio for at, n in zip(corner, size, strict=True)]
        else:
            state = coarse_window(totals, *corner, *size, self._ratio)
            far = self._of_cells(state, prior)
            of = [np.arange(n // 2) for n in size]
        out = self._joined(self._places(*self._blocks(start, size)), inside, far, *of)
        return torch.from_numpy(out).permute(2, 0, 1).unsqueeze(0)

    def _of_totals(self, totals: NDArray[np.float64]) -> NDArray[np.float32]:
        """What coarse cells add (ny, nx, width): their 2 x 2 fine cells are alike. Class after class, in float32."""
        root = np.sqrt(totals.astype(np.float32)).reshape(len(totals), -1)
        out = np.einsum("nk,kw->nw", np.ascontiguousarray(root.T), self._moving)
        return out.reshape(*totals.shape[1:], -1)

    def _of_cells(self, state: NDArray[np.float32], prior: NDArray[np.uint8] | None) -> NDArray[np.float32]:
        given = torch.from_numpy(state).unsqueeze(0)
        before = None if prior is None else torch.from_numpy(prior).float().unsqueeze(0)
        made = self._network.moving_stem(given, before)[0]
        return np.ascontiguousarray(made.permute(1, 2, 0).numpy())

    def _blocks(self, start: Pair, size: Pair) -> tuple[range, range]:
        """Rows and columns of the blocks that cover a window, counted from the corner of the grid."""
        fine = 2 * self._side
        down, across = (range(at // fine, (at + n - 1) // fine + 1) for at, n in zip(start, size, strict=True))
        return down, across

    def _places(self, down: range, across: range) -> tuple[Index, Index]:
        """Where blocks stand among those kept."""
        row, column = np.ix_(np.array(down) + self._past, np.array(across) % self._kept.shape[1])
        return row, column

    def _joined(
        self, where: tuple[Index, Index], start: Pair, far: NDArray[np.float32], of_row: Index, of_col: Index
    ) -> NDArray[np.float32]:
        """A window (rows, columns, width) from `start` in the blocks, plus what lies at of_row, of_col of `far`."""
        if kernel.ready():
            return kernel.window(self._address[where], self._side, start, far, of_row, of_col)
        near = np.concatenate([np.concatenate(row.tolist(), axis=1) for row in self._kept[where]], axis=0)
        cut = near[start[0] : start[0] + of_row.size, start[1] : start[1] + of_col.size]
        return cut.astype(np.float32) + far[of_row[:, None], of_col]

    @torch.inference_mode()
    def _make(self, down: range, across: range, lacking: NDArray[np.bool_]) -> None:
        """Those of some blocks that are lacking (down, across)."""
        fine, network = 2 * self._side, self._network
        window = down.start * fine, across.start * fine, len(down) * fine, len(across) * fine
        statics = self._static.normalised(*window)
        width = self._moving.shape[1]
        room = np.empty((np.count_nonzero(lacking), self._side, self._side, width), np.float16)
        for kept, (y, x) in zip(room, np.argwhere(lacking).tolist(), strict=True):
            # one by one: the bits of a convolution depend on the size of what it is given
            block = self._seen(statics, (y * fine, x * fine), fine)
            made = network.stem_of_seen(block)[0].permute(1, 2, 0).clamp(-LARGEST, LARGEST)
            torch.from_numpy(kept).copy_(torch.where(made.abs() < LEAST, 0.0, made))
            place = down[y] + self._past, across[x] % self._kept.shape[1]
            self._kept[place], self._address[place] = kept, kept.ctypes.data

    def _seen(self, statics: NDArray[np.float32], start: Pair, side: int) -> torch.Tensor:
        """What the stem is given of a square of the static channels (C, ny, nx), channels last in memory."""
        if not kernel.ready():
            rows, columns = (slice(at, at + side) for at in start)
            return self._network.seen_statics(torch.from_numpy(statics[:, rows, columns])[None])
        return torch.from_numpy(kernel.interleave(statics, start, side, self._climates)).permute(2, 0, 1)[None]


@contextmanager
def _one_thread() -> Iterator[None]:
    """What torch does here is done by the thread that asks for it alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of this thread: one that has just begun would call others
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _rectangles(known: list[list[bool]]) -> Iterator[tuple[int, int, int, int]]:
    """Rectangles (row from, to, column from, to) that hold all that is not known; some that is may be in them."""
    reach = [(row.index(False), len(row) - row[::-1].index(False)) if False in row else None for row in known]
    at = 0
    for span, group in groupby(reach):
        n = len(list(group))
        if span is not None:
            yield at, at + n, *span
        at += n
