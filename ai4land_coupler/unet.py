"""The U-Net: coarse fractions, static fields and the prior year's map of a tile in, a logit a class and fine cell out.

fine    static + climate + coarse + prior ----------------------------> logits (pixel shuffle) + gain x prior
1/2       stem 2x2/2 -> Block(w0) ------------------- + --> Block(w0) -> head 1x1, float32
1/4                      pool -> Block(w1) -- + --> Block(w1) -> 1x1, nearest
1/8                               pool -> Block(w2) -> 1x1, nearest
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ai4land_coupler.unetconfig import REACH, UNetConfig


class ConvNorm(nn.Sequential):
    """A 3x3 convolution; in training a batch norm follows, which `fold` merges into it."""

    def __init__(self, width_in: int, width_out: int, normalise: bool) -> None:
        conv = nn.Conv2d(width_in, width_out, 3, padding=1, bias=not normalise)
        super().__init__(conv, nn.BatchNorm2d(width_out)) if normalise else super().__init__(conv)

    def forward(self, x: Tensor, padding: int = 1) -> Tensor:
        """Map (B, width_in, H, W) to (B, width, H, W); without padding to the (H - 2, W - 2) within."""
        conv, *norm = self
        assert isinstance(conv, nn.Conv2d)
        x = F.conv2d(x, conv.weight, conv.bias, padding=padding)
        return norm[0](x) if norm else x


class Block(nn.Module):
    """Two 3x3 convolutions, the second one added to its input."""

    def __init__(self, width_in: int, width: int, normalise: bool) -> None:
        super().__init__()
        self.first = ConvNorm(width_in, width, normalise)
        self.second = ConvNorm(width, width, normalise)

    def forward(self, x: Tensor, padding: int = 1) -> Tensor:
        """Map (B, width_in, H, W) to (B, width, H, W); without padding to the (H - 4, W - 4) within."""
        x = F.relu(self.first(x, padding), inplace=True)
        return F.relu(_within(x, 1 - padding) + self.second(x, padding), inplace=True)


class UNet(nn.Module):
    """(B, static + classes [+ classes], H, W) -> float32 logits (B, classes, H, W); H and W are multiples of 8.

    `normalise` builds the batch norms that training uses. What ships is folded and never looks at the tile. With a
    prior map the network predicts the change on top of it: a cell's own class is lifted by `gain`.
    """

    def __init__(self, config: UNetConfig, normalise: bool = False) -> None:
        super().__init__()
        self.config = config
        w0, w1, w2 = config.widths
        if config.climate_classes:
            self.climate = nn.Embedding(config.climate_classes + 1, config.climate_width)
        self.stem = nn.Conv2d(config.embedded, w0, 2, stride=2)
        self.down0 = Block(w0, w0, normalise)
        self.down1 = Block(w0, w1, normalise)
        self.bottom = Block(w1, w2, normalise)
        self.lift1 = nn.Conv2d(w2, w1, 1)
        self.up1 = Block(w1, w1, normalise)
        self.lift0 = nn.Conv2d(w1, w0, 1)
        self.up0 = Block(w0, w0, normalise)
        self.head = nn.Conv2d(w0, 4 * config.classes, 1)
        if config.prior:
            self.gain = nn.Parameter(torch.tensor(4.0))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits; the channels of x are statics, coarse fractions and, where it has one, the prior map."""
        prior = x[:, -self.config.classes :] if self.config.prior else None
        x = self._seen(x).contiguous(memory_format=torch.channels_last).to(self.stem.weight.dtype)
        return F.pixel_shuffle(self.after_stem(self.stem(x), prior), 2)

    def static_stem(self, statics: Tensor) -> Tensor:
        """Return what the stem makes of static channels (B, static, H, W) alone, with its bias: (B, w0, H/2, W/2)."""
        return self.stem_of_seen(self.seen_statics(statics))

    def seen_statics(self, statics: Tensor) -> Tensor:
        """Return what the stem is given of static channels, cell by cell."""
        return self._embedded(statics).contiguous(memory_format=torch.channels_last)

    def climates(self) -> NDArray[np.float32] | None:
        """Return the numbers in which climate classes are embedded, (classes + 1, width), where they are."""
        if not self.config.climate_classes:
            return None
        return np.ascontiguousarray(self.climate.weight.detach().float().cpu().numpy())

    def stem_of_seen(self, seen: Tensor) -> Tensor:
        """Return what the stem makes of `seen_statics`."""
        weight, bias = self.stem.weight[:, : self.static_width].float(), self.stem.bias
        return F.conv2d(seen, weight, None if bias is None else bias.float(), stride=2)

    def moving_stem(self, fractions: Tensor, prior: Tensor | None = None) -> Tensor:
        """Return what the stem adds for fractions and the prior map (B, classes, H, W): (B, w0, H/2, W/2)."""
        seen = fractions.sqrt() if prior is None else torch.cat([fractions.sqrt(), prior], dim=1)
        return F.conv2d(seen, self.stem.weight[:, self.static_width :].float(), stride=2)

    @property
    def static_width(self) -> int:
        """Channels the stem sees of the static ones, the climate class embedded."""
        return self.stem.in_channels - (self.config.inputs - self.config.static_channels)

    def after_stem(self, x: Tensor, prior: Tensor | None = None, rim: int = 0) -> Tensor:
        """Return the logits of what the stem made, (B, w0, H/2, W/2), with the prior map where the network has one.

        They are those of 2 x 2 cells each, (B, 4 classes, H/2 - rim, W/2 - rim), from which `pixel_shuffle` makes one a
        cell. rim: fine cells along each edge for which none is asked, 0 or at least REACH. Nothing is computed there
        that the others do not need, and their bits are the same.
        """
        if rim and (rim < REACH or rim % 2):
            raise ValueError(f"a rim of 0, or even and at least {REACH} cells, is expected, got {rim}")
        padding = 0 if rim else 1

        def cut(tensor: Tensor, cells: int) -> Tensor:
            return _within(tensor, cells if rim else 0)

        x = cut(x, (rim - REACH) // 2)  # numbers on the right: cells of the rim that are left
        half = self.down0(x.to(self.stem.weight.dtype), padding)  # 22, 20
        quarter = self.down1(F.max_pool2d(half, 2), padding)  # 10, 8
        x = self.bottom(F.max_pool2d(quarter, 2), padding)  # 4, 2
        x = self.up1(cut(quarter, 5) + cut(_twice(self.lift1(x)), 1), padding)  # 3, 1
        x = self.up0(cut(half, 18) + _twice(self.lift0(x)), padding)  # 2, 0
        with torch.autocast(x.device.type, enabled=False):
            logits: Tensor = self.head(x.to(self.head.weight.dtype))
        return logits if prior is None else logits + self.gain * F.pixel_unshuffle(_within(prior, rim), 2)

    def _seen(self, x: Tensor) -> Tensor:
        """What the stem is given: the root of the fractions tells a trace of a class from none."""
        c, k = self.config.static_channels, self.config.classes
        statics, fractions, prior = x[:, :c], x[:, c : c + k].sqrt(), x[:, c + k :]
        return torch.cat([self._embedded(statics), fractions, prior], dim=1)

    def _embedded(self, statics: Tensor) -> Tensor:
        if not self.config.climate_classes:
            return statics
        embedded = self.climate(statics[:, -1].long()).permute(0, 3, 1, 2).to(statics.dtype)
        return torch.cat([statics[:, :-1], embedded], dim=1)

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
        if self.config.prior:
            self.gain.data = self.gain.data.float()
        return self


def _within(x: Tensor, cells: int) -> Tensor:
    """Return x (.., H, W) without so many cells along each edge."""
    return x[..., cells : x.shape[-2] - cells, cells : x.shape[-1] - cells] if cells else x


def _twice(x: Tensor) -> Tensor:
    """Return x (.., H, W) on cells of half the size."""
    return F.interpolate(x, scale_factor=2.0)


def _fold(module: ConvNorm) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution that equals convolution and batch norm in eval mode."""
    conv, norm = module
    if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d) or norm.running_var is None:
        raise TypeError(f"expected a convolution and its batch norm, got {module}")
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return conv.weight * gain[:, None, None, None], norm.bias - torch.as_tensor(norm.running_mean) * gain
