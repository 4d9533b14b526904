"""From coarse totals to fine fractions, tile by tile: features, U-Net, closing, class map."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ai4land_coupler.constraint import close, quota
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import ConstraintError
from ai4land_coupler.features import StaticFeatures, coarse_window
from ai4land_coupler.placement import BASE
from ai4land_coupler.provenance import processor_flags
from ai4land_coupler.tiles import TileCells, to_blocks
from ai4land_coupler.timing import Stopwatch


@dataclass(frozen=True, eq=False)
class TileFields:
    """What a tile returns for its n delivered cells in m coarse cells.

    fractions (K, n) float64 of land; classes (n,) uint8, 1-based; residual (K, m) float64: fine minus coarse total as
    a share of the coarse cell's land, 0 where the base map stands in.
    """

    fractions: NDArray[np.float64]
    classes: NDArray[np.uint8]
    residual: NDArray[np.float64]


class TileRunner:
    """Runs the emulator on the tiles of one rank; static features are kept from year to year."""

    def __init__(self, emulator: Emulator, mode: str, precision: str, threads: int) -> None:
        self._emulator = emulator
        self._mode = mode
        self._threads = threads
        self._network = emulator.network("cpu", precision)
        self._static = StaticFeatures(emulator)
        self._kept: dict[int, NDArray[np.float16]] = {}
        self._legend = np.arange(1, len(emulator.legend) + 1, dtype=np.uint8)

    def run(
        self,
        tiles: Sequence[TileCells],
        totals: NDArray[np.float64],
        filled: NDArray[np.uint8],
        watch: Stopwatch,
        done: Callable[[], None],
    ) -> list[TileFields]:
        """Fields of each tile from totals (K, n_coarse) and `filled` (n_coarse,); `done` is called after each tile.

        Raises ConstraintError naming the coarse cell that cannot be closed.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            fields = []
            for cells in tiles:
                fields.append(self._tile(cells, totals, filled[cells.coarse] == BASE, watch))
                done()
            return fields
        finally:
            torch.set_num_threads(threads)

    def _tile(
        self, cells: TileCells, totals: NDArray[np.float64], from_base: NDArray[np.bool_], watch: Stopwatch
    ) -> TileFields:
        wanted = np.ascontiguousarray(totals[:, cells.coarse].T)
        area = cells.block(self._emulator.fine.area_rows[cells.cells // self._emulator.fine.nlon])
        base = cells.block(self._emulator.base_map().reshape(-1)[cells.cells])
        fractions = (base[:, None, :] == self._legend[:, None]).astype(np.float64)
        counted, residual = fractions.sum(2) / (area > 0).sum(1)[:, None], np.zeros_like(wanted)
        own = np.flatnonzero(~from_base)
        if own.size:
            settled = self._mode == "level" and bool((wanted[own].max(axis=1) == 1.0).all())
            logits = fractions[own] if settled else self._logits(cells, totals, watch)[own]
            with watch.stage("constraint"):
                fractions[own], residual[own] = self._close(cells.coarse[own], logits, area[own], wanted[own])
                counted[own] = wanted[own] + (residual[own] if self._mode == "none" else 0.0)
        with watch.stage("constraint"):
            classes = quota(fractions, area > 0, cells.block(cells.cells + 1), counted)
        return TileFields(cells.unblock(fractions), cells.unblock(classes), np.ascontiguousarray(residual.T))

    def _logits(self, cells: TileCells, totals: NDArray[np.float64], watch: Stopwatch) -> NDArray[np.float32]:
        """The network's answer for the coarse cells of a tile, (m, K, ratio^2)."""
        tile, halo, emulator = cells.tile, self._emulator.halo, self._emulator
        window = (tile.row0 - halo, tile.col0 - halo, tile.size + 2 * halo, tile.size + 2 * halo)
        with watch.stage("features"):
            if tile.index not in self._kept:
                self._kept[tile.index] = self._static.window(*window).astype(np.float16)
            coarse = coarse_window(
                totals.reshape(-1, emulator.coarse.nlat, emulator.coarse.nlon), *window, ratio=cells.ratio
            )
            static = torch.from_numpy(self._kept[tile.index]).float()
            features = torch.cat([static, torch.from_numpy(coarse)]).unsqueeze(0)
            features = features.contiguous(memory_format=torch.channels_last)
        with watch.stage("unet"), torch.inference_mode():
            inner = self._network(features)[0, :, halo:-halo, halo:-halo].float().numpy()
        return np.stack([to_blocks(layer, cells.ratio)[cells.blocks] for layer in inner], axis=1)

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
        try:
            return close(logits, area, wanted)
        except ConstraintError as error:
            cell = int(coarse[getattr(error, "cell", 0)])
            grid = self._emulator.coarse
            where = f"{grid.lat[cell // grid.nlon]:.2f} N {grid.lon[cell % grid.nlon]:.2f} E"
            raise ConstraintError(f"coarse cell {cell + 1} at {where}: {error}") from error


def choose_precision(asked: str) -> str:
    """The precision of the network: `auto` is bfloat16 on processors with AMX tiles for it, float32 elsewhere."""
    if asked != "auto":
        return asked
    return "bfloat16" if "amx_bf16" in processor_flags() else "float32"
