"""Ways between the host's memory and a device's, through pinned memory, on which nobody waits."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ai4land_coupler.device import failure

Float = NDArray[np.float64]

PIECE = 2**20
"""Values brought at a time, 8 MiB."""


def there(values: NDArray, device: torch.device) -> Tensor:
    """A copy of an array on its way to the device."""
    here = torch.tensor(values)
    return here.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else here


def back(values: Tensor) -> Tensor:
    """Values on their way to the host, there once the device was waited for; the same where there is no way to go."""
    if values.device.type == "cpu":
        return values
    room = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return room.copy_(values, non_blocking=True)


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
