"""What of a rank's tiles stays on a device from year to year."""

from collections.abc import Callable
from dataclasses import dataclass, is_dataclass, replace
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ai4land_coupler.emulator import Emulator
from ai4land_coupler.ondevice.closing import Places
from ai4land_coupler.ondevice.pinned import there
from ai4land_coupler.ondevice.sums import DeviceSums
from ai4land_coupler.stem import LARGEST
from ai4land_coupler.tilework import TileWork
from ai4land_coupler.unet import UNet
from ai4land_coupler.unetconfig import REACH

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the network is given of a tile every year.

    static (w0, side / 2, side / 2) float16: what the stem makes of the static fields, REACH around included; around
    (side,) int64: the coarse cell of the tile's surroundings that each row, and each column, with the REACH around lies
    in.
    """

    static: Tensor
    around: Tensor


@dataclass(frozen=True, eq=False)
class Ground:
    """What the fields of a tile with m coarse cells of n fine cells are made on.

    area (m, n) float64, m2, 0 where nothing is delivered; base (m, n) uint8: the base map; places: of its pixels; slot
    (cells,) int64: place of each delivered cell in (m, n); sums: how its fields are tallied.
    """

    area: Tensor
    base: Tensor
    places: Places
    slot: Tensor
    sums: DeviceSums | None


@dataclass(frozen=True, eq=False)
class Resident:
    """All of it."""

    inputs: Inputs
    ground: Ground


class Kept:
    """Of each tile that was run; on the device as far as there is room, on the host beyond that.

    network: on the device; statics: as `Stem.statics`; room: bytes.
    """

    def __init__(
        self, emulator: Emulator, network: UNet, statics: Callable[[int, int, int, int], NDArray[np.float32]],
        device: torch.device, room: float,
    ) -> None:  # fmt: skip
        self._emulator, self._network, self._statics, self._device = emulator, network, statics, device
        self._resident, self._booking = dict[int, Resident](), Lock()
        self.room = room

    def forget(self) -> None:
        """Drop all of it."""
        self._resident.clear()

    def inputs(self, work: TileWork) -> Inputs:
        """On the device."""
        return _moved(self._of(work).inputs, self._device)

    def ground(self, work: TileWork) -> Ground:
        """On the device."""
        return _moved(self._of(work).ground, self._device)

    def _of(self, work: TileWork) -> Resident:
        kept = self._resident.get(work.cells.tile.index)
        if kept is None:
            kept = self._prepared(work)
            size = _nbytes(kept)
            with self._booking:
                fits = size <= self.room
                self.room -= size if fits else 0
            if not fits:
                kept = _moved(kept, torch.device("cpu"))
            self._resident[work.cells.tile.index] = kept
        return kept

    def _prepared(self, work: TileWork) -> Resident:
        """From the emulator's files."""
        emulator, cells, tile, ratio = self._emulator, work.cells, work.cells.tile, work.cells.ratio
        side, rim = tile.size + 2 * REACH, -(-emulator.halo // ratio) * ratio
        statics = self._statics(tile.row0 - REACH, tile.col0 - REACH, side, side)
        made = self._network.static_stem(self._to(statics)[None])[0].clamp(-LARGEST, LARGEST)
        around = (np.arange(side) - REACH + rim) // ratio
        area = cells.block(emulator.fine.area_rows[cells.rows])
        base = cells.block(emulator.base_map().reshape(-1)[cells.cells])
        places = Places.of(area > 0, cells.block(cells.cells + 1), self._device)
        sums = None if work.sums is None else _moved(DeviceSums.of(work.sums), self._device)
        ground = Ground(self._to(area), self._to(base), places, self._to(cells.slot), sums)
        return Resident(Inputs(made.half(), self._to(around)), ground)

    def _to(self, values: NDArray) -> Tensor:
        return there(values, self._device)


def _moved(one: T, device: torch.device) -> T:
    """A frozen object with all tensors in it on a device."""

    def moved(part: Any) -> Any:
        return part.to(device) if isinstance(part, Tensor) else _moved(part, device) if is_dataclass(part) else part

    return replace(one, **{name: moved(part) for name, part in vars(one).items()})  # type: ignore[type-var]


def _nbytes(part: object) -> int:
    """Bytes of all tensors in a frozen object."""
    if isinstance(part, Tensor):
        return part.nbytes
    return sum(map(_nbytes, vars(part).values())) if is_dataclass(part) else 0
