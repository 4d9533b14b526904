"""What the network runs on: the processor of each rank, or the CUDA devices of its node. Has not yet run on a GPU."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.comm import Communicator
from ai4land_coupler.errors import DeviceError
from ai4land_coupler.provenance import processor_flags

if TYPE_CHECKING:
    import torch

FAST_BFLOAT16 = frozenset({"amx_bf16", "avx512_bf16"})
"""Instruction sets with which a network in bfloat16 takes six tenths of the time of float32, or less."""

KIND = "cuda"
"""The type of torch's device behind `device: cuda`; tests put `cpu` here to take the same way without one."""


@dataclass(frozen=True)
class Device:
    """Where the networks of a job run.

    kind: `cpu` or `cuda`, the same on every rank; model: of this rank's device, as its maker calls it; index: of this
    rank's device among those torch shows it; workers: the ranks that run tiles, ascending, None for all of them.
    """

    kind: str = "cpu"
    model: str = ""
    index: int = 0
    workers: tuple[int, ...] | None = None

    @classmethod
    def agreed(cls, comm: Communicator, asked: str, per_device: int) -> Device:
        """The device asked for: `cpu`, `cuda`, or `auto`, which is CUDA where every rank sees a device. Collective.

        Ranks of a node take its devices in turn. Of those that come to the same device the first `per_device` are
        workers; the others get no tiles. Raises DeviceError on every rank where one that is asked for CUDA sees none.
        """
        if asked == "cpu":
            return cls()
        seen = comm.together(visible)
        without = int(comm.sum(np.array([int(not seen)]))[0])
        if without and asked == "auto":
            return cls()
        if without:
            import torch

            raise DeviceError(
                f"device: cuda was asked for, and {without} of {comm.size} ranks see no CUDA device (torch "
                f"{torch.__version__}); ask the batch system for GPUs, look at CUDA_VISIBLE_DEVICES and at whether "
                "torch was built for CUDA, or leave `device` out to run on processors"
            )
        index = comm.node_rank() % len(seen)
        identity, model = seen[index]
        chosen = comm.gather(_number(identity))
        workers = comm.bcast(_first_of_each(chosen[:, 0], per_device) if comm.rank == 0 else None)
        return cls("cuda", model, index, workers)

    @property
    def name(self) -> str:
        """Kind and, of GPUs, model, as outputs state them."""
        return f"{self.kind}: {self.model}" if self.model else self.kind

    @property
    def torch_device(self) -> torch.device:
        """The device in torch's terms."""
        import torch

        return torch.device("cpu") if "cpu" in (self.kind, KIND) else torch.device(KIND, self.index)

    def precision(self, asked: str) -> str:
        """The precision of the network: `auto` is bfloat16 on GPUs and as `choose_precision` says on processors."""
        return "bfloat16" if asked == "auto" and self.kind == "cuda" else choose_precision(asked)


def visible() -> list[tuple[str, str]]:
    """Identity, unique over nodes, and model of each CUDA device torch shows; CUDA_VISIBLE_DEVICES is honoured."""
    import torch

    try:
        found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    except RuntimeError as error:
        raise DeviceError(f"CUDA devices cannot be looked at: {error}") from error
    return [(str(one.uuid), str(one.name)) for one in found]


def choose_precision(asked: str) -> str:
    """The precision of the network: `auto` is bfloat16 on processors with instructions for it, float32 elsewhere."""
    if asked != "auto":
        return asked
    return "bfloat16" if FAST_BFLOAT16 & processor_flags() else "float32"


def agreed_precision(comm: Communicator, device: Device, asked: str) -> str:
    """The same on every rank: of nodes with unlike processors what the poorest has. Collective."""
    mine = device.precision(asked)
    return mine if comm.min(int(mine == "bfloat16")) else "float32"


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Let torch take only deterministic ways, in full float32, on this device, and leave it as it was found."""
    import torch

    before = torch.get_deterministic_debug_mode()
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms would import torch's compiler
        try:
            if device.type == "cuda":
                with torch.cuda.device(device):
                    yield
            else:
                yield
        finally:
            torch.set_deterministic_debug_mode(before)


def failure(error: RuntimeError) -> Exception:
    """What torch raises, as an error of the plugin: a device that failed, or memory that ran out."""
    import torch

    of_device = tuple(filter(None, (getattr(torch, name, None) for name in ("OutOfMemoryError", "AcceleratorError"))))
    if isinstance(error, of_device) or "CUDA" in str(error):
        return DeviceError(f"the device failed: {error}; look at its memory and at what else runs on it")
    return MemoryError(str(error)) if "can't allocate memory" in str(error) else error


def _number(identity: str) -> NDArray[np.int64]:
    """An identity as a row (1, 1) that ranks can exchange."""
    return np.frombuffer(hashlib.sha256(identity.encode()).digest()[:8], np.int64).reshape(1, 1)


def _first_of_each(devices: NDArray[np.int64], each: int) -> tuple[int, ...]:
    """Of the devices (size,) that ranks have come to: the first `each` ranks on any one."""
    return tuple(rank for rank, one in enumerate(devices) if np.count_nonzero(devices[:rank] == one) < each)
