"""The network's first layer on any window: what it makes of the static fields is made once and kept, in blocks.

The stem is linear and its windows of 2 x 2 cells do not overlap, so its answer is the sum of a part that the static
fields make, the same every year, and one that the coarse fractions (and the prior map) make.
"""

import math
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ai4land_coupler import kernel
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.features import StaticFeatures, coarse_window

Half = NDArray[np.float16]

LEAST = 2.0**-14
"""The smallest float16 with all its digits; what is smaller is kept as 0."""
LARGEST = 65504.0


class Stem:
    """What the stem of an emulator's network makes on windows of the fine grid.

    Kept are blocks (side, side, width) float16 of half the fine resolution, as long as `forget` is not called.
    """

    def __init__(self, emulator: Emulator, network: Any) -> None:
        self._network = network
        self._static = StaticFeatures(emulator)
        self._ratio = emulator.coarse.ratio_to(emulator.fine)
        self._side = math.gcd(emulator.tile, emulator.halo) // 2
        self._around = emulator.fine.nlon // 2 // self._side
        self._kept: dict[tuple[int, int], Half] = {}

    def statics(self, row0: int, col0: int, nrow: int, ncol: int) -> NDArray[np.float32]:
        """The static channels (C, nrow, ncol) that a network is given on a window; see StaticFeatures."""
        return self._static.normalised(row0, col0, nrow, ncol)

    def forget(self) -> None:
        """Drop what is kept."""
        self._kept.clear()

    def window(
        self, start: tuple[int, int], size: tuple[int, int], totals: NDArray[np.float64], corner: tuple[int, int],
        prior: NDArray[np.uint8] | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """The stem's answer (1, width, ny / 2, nx / 2) float32 on size (ny, nx) fine cells from row and column `start`.

        All are even. totals (K, ..): coarse fractions around, in which the window begins at the fine cell `corner`;
        prior (K, ny, nx): the prior map, one class a cell, for networks that are given one. Columns wrap; past the
        poles is nothing.
        """
        rows, cols = (range(at // 2, (at + n) // 2) for at, n in zip(start, size, strict=True))
        blocks = self._blocks(rows, cols)
        inside = rows.start % self._side, cols.start % self._side
        if prior is None and self._ratio % 2 == 0:
            far = self._of_totals(totals)
            of = [(at + 2 * np.arange(n // 2)) // self._ratio for at, n in zip(corner, size, strict=True)]
        else:
            state = coarse_window(totals, *corner, *size, self._ratio)
            far = self._of_cells(state, prior)
            of = [np.arange(n // 2) for n in size]
        out = _joined(blocks, self._side, inside, far, of[0], of[1])
        return torch.from_numpy(out).permute(2, 0, 1).unsqueeze(0)

    def _of_totals(self, totals: NDArray[np.float64]) -> NDArray[np.float32]:
        """What coarse cells add (ny, nx, width): their 2 x 2 fine cells are alike. Class after class, in float32."""
        statics, classes = self._network.static_width, len(totals)
        weight = self._network.stem.weight[:, statics : statics + classes].float().sum(dim=(2, 3)).cpu().numpy()
        root = np.sqrt(totals.astype(np.float32))
        out = root[0][:, :, None] * weight[:, 0]
        for k in range(1, classes):
            out += root[k][:, :, None] * weight[:, k]
        return out

    def _of_cells(self, state: NDArray[np.float32], prior: NDArray[np.uint8] | None) -> NDArray[np.float32]:
        given = torch.from_numpy(state).unsqueeze(0)
        before = None if prior is None else torch.from_numpy(prior).float().unsqueeze(0)
        made = self._network.moving_stem(given, before)[0]
        return np.ascontiguousarray(made.permute(1, 2, 0).numpy())

    def _blocks(self, rows: range, cols: range) -> list[list[Half]]:
        """The blocks that cover a window, those that are lacking made."""
        down, across = (range(part.start // self._side, (part.stop - 1) // self._side + 1) for part in (rows, cols))
        for part in _rectangles([[(y, x % self._around) in self._kept for x in across] for y in down]):
            self._make(down[part[0]], across[part[2]], part[1] - part[0], part[3] - part[2])
        return [[self._kept[y, x % self._around] for x in across] for y in down]

    def _make(self, row: int, col: int, down: int, across: int) -> None:
        fine = 2 * self._side
        statics = torch.from_numpy(self._static.normalised(row * fine, col * fine, down * fine, across * fine))
        for y in range(down):
            for x in range(across):
                # one by one: the bits of a convolution depend on the size of what it is given
                block = statics[None, :, y * fine : (y + 1) * fine, x * fine : (x + 1) * fine]
                made = self._network.static_stem(block)[0].permute(1, 2, 0).clamp(-LARGEST, LARGEST)
                short = torch.where(made.abs() < LEAST, 0.0, made).half().contiguous()
                self._kept[row + y, (col + x) % self._around] = short.numpy()


def _rectangles(known: list[list[bool]]) -> Iterator[tuple[int, int, int, int]]:
    """Rectangles (row from, to, column from, to) that hold all that is not known; some that is may be in them."""
    reach = [(row.index(False), len(row) - row[::-1].index(False)) if False in row else None for row in known]
    at = 0
    for span, group in groupby(reach):
        n = len(list(group))
        if span is not None:
            yield at, at + n, *span
        at += n


def _joined(
    blocks: list[list[Half]], side: int, start: tuple[int, int], far: NDArray[np.float32], of_row: NDArray[np.int64],
    of_col: NDArray[np.int64],
) -> NDArray[np.float32]:  # fmt: skip
    """A window (rows, columns, width) from `start` in the blocks, plus what lies at of_row, of_col of `far`."""
    if kernel.ready():
        addresses = np.array([[block.ctypes.data for block in row] for row in blocks])
        return kernel.window(addresses, side, start, far, of_row, of_col)
    near = np.concatenate([np.concatenate(row, axis=1) for row in blocks], axis=0)
    cut = near[start[0] : start[0] + of_row.size, start[1] : start[1] + of_col.size]
    return cut.astype(np.float32) + far[of_row[:, None], of_col]
