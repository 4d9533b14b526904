"""The U-Net: coarse fractions and static fields of a tile in, one logit a class and fine cell out.

fine    static + coarse ----------------------------------------------> logits (pixel shuffle)
1/2       stem 2x2/2 -> Block(w0) ------------------- + --> Block(w0) -> head 1x1, float32
1/4                      pool -> Block(w1) -- + --> Block(w1) -> 1x1, nearest
1/8                               pool -> Block(w2) -> 1x1, nearest
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDE = 8  #: tiles and their corners are multiples of it: a stem of stride 2 and two pools
RECEPTIVE_FIELD = 47  #: fine cells to a side a logit can depend on, corners being multiples of STRIDE


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the network."""

    static_channels: int
    classes: int
    widths: tuple[int, int, int] = (48, 96, 192)

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        if min(self.static_channels, self.classes, *self.widths) < 1 or len(self.widths) != 3:
            raise ValueError(f"a U-Net needs positive channels, classes and three widths, got {asdict(self)}")


class ConvNorm(nn.Sequential):
    """A 3x3 convolution; in training a batch norm follows, which `fold` merges into it."""

    def __init__(self, width_in: int, width_out: int, normalise: bool) -> None:
        conv = nn.Conv2d(width_in, width_out, 3, padding=1, bias=not normalise)
        super().__init__(conv, nn.BatchNorm2d(width_out)) if normalise else super().__init__(conv)


class Block(nn.Module):
    """Two 3x3 convolutions, the second one added to its input."""

    def __init__(self, width_in: int, width: int, normalise: bool) -> None:
        super().__init__()
        self.first = ConvNorm(width_in, width, normalise)
        self.second = ConvNorm(width, width, normalise)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width_in, H, W) to (B, width, H, W)."""
        x = F.relu(self.first(x), inplace=True)
        return F.relu(x + self.second(x), inplace=True)


class UNet(nn.Module):
    """(B, static + classes, H, W) -> float32 logits (B, classes, H, W); H and W are multiples of 8.

    `normalise` builds the batch norms that training uses. What ships is folded and never looks at the tile.
    """

    def __init__(self, config: UNetConfig, normalise: bool = False) -> None:
        super().__init__()
        self.config = config
        w0, w1, w2 = config.widths
        self.stem = nn.Conv2d(config.static_channels + config.classes, w0, 2, stride=2)
        self.down0 = Block(w0, w0, normalise)
        self.down1 = Block(w0, w1, normalise)
        self.bottom = Block(w1, w2, normalise)
        self.lift1 = nn.Conv2d(w2, w1, 1)
        self.up1 = Block(w1, w1, normalise)
        self.lift0 = nn.Conv2d(w1, w0, 1)
        self.up0 = Block(w0, w0, normalise)
        self.head = nn.Conv2d(w0, 4 * config.classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits; the last classes channels of x are the coarse fractions."""
        statics, fractions = x.split([self.config.static_channels, self.config.classes], dim=1)
        x = torch.cat([statics, fractions.sqrt()], dim=1)  # the root tells a trace of a class from none
        x = x.contiguous(memory_format=torch.channels_last).to(self.stem.weight.dtype)
        half = self.down0(self.stem(x))
        quarter = self.down1(F.max_pool2d(half, 2))
        x = self.bottom(F.max_pool2d(quarter, 2))
        x = self.up1(quarter + F.interpolate(self.lift1(x), scale_factor=2.0))
        x = self.up0(half + F.interpolate(self.lift0(x), scale_factor=2.0))
        return F.pixel_shuffle(self.head(x.float()).contiguous(), 2)

    def folded(self) -> UNet:
        """Return a copy whose batch norms are merged into the convolutions before them, in eval mode."""
        plain = UNet(self.config)
        state = {}
        for name, module in self.named_modules():
            if isinstance(module, ConvNorm) and len(module) == 2:
                weight, bias = _fold(module)
                state[f"{name}.0.weight"], state[f"{name}.0.bias"] = weight, bias
        own = self.state_dict()
        state |= {name: own[name] for name in plain.state_dict() if name not in state}
        plain.load_state_dict(state)
        return plain.eval()

    def in_precision(self, dtype: torch.dtype) -> UNet:
        """Cast everything but the head to `dtype`; the head and the logits stay float32."""
        self.to(dtype)
        self.head.float()
        return self


def _fold(module: ConvNorm) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution that equals convolution and batch norm in eval mode."""
    conv, norm = module
    if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d) or norm.running_var is None:
        raise TypeError(f"expected a convolution and its batch norm, got {module}")
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return conv.weight * gain[:, None, None, None], norm.bias - torch.as_tensor(norm.running_mean) * gain
