"""Sizes of the U-Net, and what they ask of the windows it is given."""

from __future__ import annotations

from dataclasses import asdict, dataclass

STRIDE = 8  #: tiles and their corners are multiples of it: a stem of stride 2 and two pools
RECEPTIVE_FIELD = 47  #: fine cells to a side a logit can depend on, corners being multiples of STRIDE
REACH = 44  #: of these, what the network is to be given around a window whose corners are such multiples


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the network.

    climate_classes: where above 0, the last static channel is a climate class 0..climate_classes (0: none), which is
    embedded in climate_width numbers. prior: the last `classes` input channels are the prior year's map, one class a
    cell, zero where it is not known.
    """

    static_channels: int
    classes: int
    widths: tuple[int, int, int] = (48, 96, 192)
    climate_classes: int = 0
    climate_width: int = 8
    prior: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        sizes = (self.static_channels, self.classes, self.climate_width, *self.widths)
        if min(sizes) < 1 or len(self.widths) != 3 or self.climate_classes < 0:
            raise ValueError(f"a U-Net needs positive channels, classes and three widths, got {asdict(self)}")

    @property
    def inputs(self) -> int:
        """Channels of a tile."""
        return self.static_channels + self.classes * (2 if self.prior else 1)

    @property
    def embedded(self) -> int:
        """Channels the stem sees, once the climate class is embedded."""
        return self.inputs + (self.climate_width - 1 if self.climate_classes else 0)
