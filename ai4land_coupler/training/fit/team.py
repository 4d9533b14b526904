"""The processes that share a run: torch.distributed as `torchrun` starts it, and batch norms over all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ai4land_coupler.errors import ConfigError
from ai4land_coupler.training.fit.samples import Team
from ai4land_coupler.unet import ConvNorm, UNet

WAIT = timedelta(minutes=30)  #: for the slowest process


@contextmanager
def joined(device: str) -> Iterator[tuple[Team, torch.device]]:
    """Join the processes that `torchrun` started, or be the only one; yield the place among them and the device.

    device: "auto", "cpu" or "cuda"; each process of a node takes the GPU of its local rank.
    """
    place = torch.device(_kind(device))
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Team(), place
        return
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=WAIT)
    try:
        yield Team(dist.get_rank(), dist.get_world_size()), place
    finally:
        dist.destroy_process_group()


def _kind(asked: str) -> str:
    if asked not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device {asked!r}: expected auto, cpu or cuda")
    if asked == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: torch sees no GPU here; use auto, or a torch built for the GPU")
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


class Control:
    """What all processes must decide alike, told on the host without waiting for a GPU."""

    def __init__(self, team: Team) -> None:
        self._group: Any = dist.new_group(backend="gloo", timeout=WAIT) if team.size > 1 else None

    def any(self, here: bool) -> bool:
        """Return whether it is so on any process. Collective."""
        if self._group is None:
            return here
        flag = torch.tensor(int(here))
        dist.all_reduce(flag, dist.ReduceOp.MAX, self._group)
        return bool(flag)

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sums over all processes. Collective."""
        if self._group is None:
            return values
        total = torch.from_numpy(values.copy())
        dist.all_reduce(total, group=self._group)
        return total.numpy()

    def first(self, value: Any) -> Any:
        """Return what the first process gives. Collective."""
        if self._group is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0, self._group)
        return box[0]


class _Normalised(torch.autograd.Function):
    """Batch norm by the mean and variance of all processes' batches, which are of one size.

    With y = (x - m) / s of N values in all: dL/dx = w / s (g - mean g - y mean(g y)), means over all processes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        variance, mean = torch.var_mean(x.to(weight.dtype), (0, 2, 3), correction=0)
        parts = mean.new_zeros(dist.get_world_size(), 2, x.shape[1])
        parts[dist.get_rank()] = torch.stack([mean, variance])
        dist.all_reduce(parts)
        shared = parts[:, 0].mean(0)
        variance = parts[:, 1].mean(0) + (parts[:, 0] - shared).square().mean(0)
        ctx.save_for_backward(x, weight, shared, torch.rsqrt(variance + eps))
        ctx.mark_non_differentiable(shared, variance)
        return F.batch_norm(x, shared, variance, weight, bias, False, 0.0, eps), shared, variance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        x, weight, mean, inverse = ctx.saved_tensors
        g = grads[0].to(weight.dtype)
        y = (x.to(weight.dtype) - mean[:, None, None]) * inverse[:, None, None]
        sums = torch.stack([g.sum((0, 2, 3)), (g * y).sum((0, 2, 3))])
        own = sums.clone()
        dist.all_reduce(sums)
        sums /= dist.get_world_size() * x.numel() / x.shape[1]
        spread = g - sums[0][:, None, None] - y * sums[1][:, None, None]
        return (spread * (weight * inverse)[:, None, None]).to(x.dtype), own[1], own[0], None


class SharedBatchNorm(nn.BatchNorm2d):
    """A batch norm whose statistics are those of all processes: torch's own is for GPUs alone."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        out, mean, variance = _Normalised.apply(x, self.weight, self.bias, self.eps)
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            raise TypeError("a batch norm that tracks its statistics is expected")
        number = dist.get_world_size() * x.numel() / x.shape[1]
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum or 0.1)
            self.running_var.lerp_(variance * (number / (number - 1)), self.momentum or 0.1)
        return out


def share_norms(net: UNet) -> UNet:
    """Replace the batch norms of a network by shared ones, in place."""
    for module in net.modules():
        if isinstance(module, ConvNorm) and len(module) == 2 and isinstance(module[1], nn.BatchNorm2d):
            shared = SharedBatchNorm(module[1].num_features)
            shared.load_state_dict(module[1].state_dict())
            module[1] = shared
    return net
