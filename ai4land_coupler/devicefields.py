"""Fractions that stay on the device where they were made, and come to the host's memory a class at a time."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ai4land_coupler.device import failure
from ai4land_coupler.tiles import Away

Float = NDArray[np.float64]

PIECE = 2**20
"""Values brought at a time, 8 MiB."""


class Courier:
    """Brings values from a device through two pieces of pinned memory: one is emptied while the other is filled.

    What is brought must have been waited for. It comes in a stream of its own, not behind a year in the making.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._cuda else None
        self._pieces: tuple[Tensor, ...] = ()

    def bring(self, values: Tensor, out: Float) -> Float:
        """Put values (n,) float64 of the device into out (n,)."""
        with self._aside():
            pieces = self._pieces or tuple(
                torch.empty(PIECE, dtype=torch.float64, pin_memory=self._cuda) for _ in range(2)
            )
            self._pieces = pieces
            coming = (self._begun(part, piece) for part, piece in zip(values.split(PIECE), itertools.cycle(pieces)))
            at = 0
            for one, _ in itertools.pairwise(itertools.chain(coming, [None])):
                assert one is not None
                piece, event = one
                if event is not None:
                    event.synchronize()
                out[at : at + piece.numel()] = piece.numpy()
                at += piece.numel()
        return out

    def _begun(self, part: Tensor, piece: Tensor) -> tuple[Tensor, "torch.cuda.Event | None"]:
        room = piece[: part.numel()].copy_(part, non_blocking=True)
        return room, torch.cuda.current_stream().record_event() if self._cuda else None

    @contextmanager
    def _aside(self) -> Iterator[None]:
        try:
            with torch.cuda.stream(self._stream) if self._cuda else nullcontext():
                yield
        except RuntimeError as error:
            raise failure(error) from error


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
