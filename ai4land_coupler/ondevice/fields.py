"""Fractions that stay on the device where they were made, and come to the host's memory a class at a time."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ai4land_coupler.ondevice.pinned import Courier
from ai4land_coupler.tilework import Away

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DeviceYear:
    """Fractions (K, N) float64 of all cells of a rank, tile after tile, on a device."""

    fractions: Tensor
    courier: Courier

    @classmethod
    def of(cls, classes: int, cells: int, device: torch.device, courier: Courier) -> "DeviceYear":
        """Room for them."""
        return cls(torch.empty((classes, cells), dtype=torch.float64, device=device), courier)

    def tiles(self, sizes: list[int]) -> list["DeviceTile"]:
        """Those of tiles of so many cells."""
        ends = list(itertools.accumulate(sizes, initial=0))
        return [DeviceTile(self, slice(start, stop)) for start, stop in itertools.pairwise(ends)]


@dataclass(frozen=True, eq=False)
class DeviceTile(Away):
    """Those of one tile, the cells `at` of its year."""

    year: DeviceYear
    at: slice

    @property
    def here(self) -> Tensor:
        """(K, n), on the device."""
        return self.year.fractions[:, self.at]

    @property
    def shape(self) -> tuple[int, int]:
        """(K, n)."""
        return len(self.year.fractions), self.at.stop - self.at.start

    def __getitem__(self, k: int) -> Float:
        return self.year.courier.bring(self.here[k], np.empty(self.shape[1]))

    def of_year(self, k: int, out: Float) -> Float:
        """Class k of all tiles of the year."""
        return self.year.courier.bring(self.year.fractions[k], out)
