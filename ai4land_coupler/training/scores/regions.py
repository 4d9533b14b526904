"""Regions that are scored: named boxes, and a box's window on the grids of an emulator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import ConfigError
from ai4land_coupler.tiles import to_blocks
from ai4land_coupler.training.data.dataset import REGIONS, Box

CONTINENTS = {
    "africa": Box(-20.0, 52.0, -36.0, 36.0),
    "australia": Box(110.0, 180.0, -50.0, -11.0),
    "europe": Box(-12.0, 40.0, 36.0, 72.0),
    "north-america": Box(-170.0, -52.0, 14.0, 75.0),
    "north-asia": Box(40.0, 180.0, 45.0, 78.0),
    "south-asia": Box(52.0, 150.0, -11.0, 45.0),
}
"""Boxes that share no land and hold the land an emulator is trained on, the blocks it withholds included."""

NAMED = REGIONS | CONTINENTS


def parse(wanted: Sequence[str], emulator: Emulator) -> dict[str, Box]:
    """Return the boxes of the regions wanted, by name, in order.

    Each is a name of NAMED, four numbers lon0,lon1,lat0,lat1, `continents` (all of CONTINENTS), or `withheld` (the
    blocks which the emulator's record says were kept from its training). Raises ConfigError.
    """
    boxes: dict[str, Box] = {}
    for text in wanted:
        if text == "continents":
            boxes |= CONTINENTS
        elif text == "withheld":
            boxes |= {_name(box): box for box in withheld(emulator)}
        elif text in NAMED:
            boxes[text] = NAMED[text]
        elif "," in text:
            boxes[text] = Box.parse(text)
        else:
            names = ", ".join((*NAMED, "continents", "withheld"))
            raise ConfigError(f"region {text!r}: expected one of {names}, or lon0,lon1,lat0,lat1")
    return boxes


def withheld(emulator: Emulator) -> list[Box]:
    """Return the blocks that the training record says were never trained on, less South America."""
    record = json.loads((emulator.path / "training_record.json").read_text())
    blocks = record.get("withheld_from_training", {}).get("blocks", [])
    if not blocks:
        raise ConfigError(f"the record of emulator {emulator.name} names no blocks withheld from training")
    return [Box(**block) for block in blocks]


def _name(box: Box) -> str:
    return ",".join(f"{edge:g}" for edge in (box.lon0, box.lon1, box.lat0, box.lat1))


@dataclass(frozen=True)
class Region:
    """Whole host cells of `blocks` x `blocks` coarse cells that cover a box, and their fine cells inside it."""

    emulator: Emulator
    box: Box
    blocks: int = 1

    def __post_init__(self) -> None:
        coarse = self.emulator.coarse
        if self.blocks < 1 or coarse.nlat % self.blocks or coarse.nlon % self.blocks:
            raise ConfigError(
                f"{self.blocks} x {self.blocks} coarse cells do not divide the globe of {coarse.nlat} x {coarse.nlon}"
            )

    @property
    def ratio(self) -> int:
        """Fine cells to the edge of a coarse cell."""
        return self.emulator.coarse.ratio_to(self.emulator.fine)

    @property
    def side(self) -> int:
        """Fine cells to the edge of a host cell."""
        return self.ratio * self.blocks

    @property
    def degrees(self) -> float:
        """Edge of a host cell in degrees."""
        return 180 / self.emulator.coarse.nlat * self.blocks

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the fine grid, the box expanded outward to whole host cells."""
        rows, cols = self.box.rows(self.emulator.fine), self.box.cols(self.emulator.fine)
        return _outward(rows, self.side), _outward(cols, self.side)

    @property
    def shape(self) -> tuple[int, int]:
        """Fine cells of the window, (ny, nx)."""
        rows, cols = self.window
        return rows.stop - rows.start, cols.stop - cols.start

    @property
    def observed(self) -> NDArray[np.uint8]:
        """The base map in the window, (ny, nx), 0 water."""
        return self.emulator.base_map()[self.window]

    @property
    def area(self) -> NDArray[np.float64]:
        """Area of the window's fine cells, (ny, nx) m2."""
        return np.repeat(self.emulator.fine.area_rows[self.window[0], None], self.shape[1], axis=1)

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Whether a fine cell of the window has its centre in the box, (ny, nx)."""
        fine, (rows, cols) = self.emulator.fine, self.window
        lat, lon = fine.lat[rows], fine.lon[cols]
        in_lat = (lat > self.box.lat0) & (lat < self.box.lat1)
        return in_lat[:, None] & ((lon > self.box.lon0) & (lon < self.box.lon1))

    @property
    def cell_id(self) -> NDArray[np.int64]:
        """Ids of the window's cells in the global fine grid, from 1, (ny, nx)."""
        rows, cols = self.window
        return (
            np.arange(rows.start, rows.stop)[:, None] * self.emulator.fine.nlon + np.arange(cols.start, cols.stop) + 1
        )

    @property
    def host_of_coarse(self) -> NDArray[np.int64]:
        """Number in the window of the host cell that each coarse cell of the window lies in, (C,)."""
        ny, nx = (size // self.side for size in self.shape)
        return np.arange(ny * nx).reshape(ny, nx).repeat(self.blocks, 0).repeat(self.blocks, 1).reshape(-1)

    def to_coarse(self, values: NDArray) -> NDArray:
        """A map of the window (ny, nx) as (coarse cells, ratio^2)."""
        return to_blocks(values, self.ratio)

    def to_hosts(self, values: NDArray) -> NDArray:
        """A map of the window (ny, nx) as (host cells, side^2)."""
        return to_blocks(values, self.side)

    def from_blocks(self, blocks: NDArray, side: int) -> NDArray:
        """The reverse of `to_coarse` and `to_hosts`, of blocks of `side` fine cells."""
        ny, nx = self.shape
        return blocks.reshape(ny // side, nx // side, side, side).swapaxes(1, 2).reshape(ny, nx)


def _outward(part: slice, side: int) -> slice:
    return slice(part.start // side * side, -(-part.stop // side) * side)
