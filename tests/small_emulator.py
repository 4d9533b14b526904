"""The small emulator of `ai4land bench --quick`, under the name that tests know it by."""

from ai4land_coupler.bench.small import COARSE, LEGEND, RATIO, TILE, TOPS, WIDTHS, build, planet

__all__ = ["COARSE", "LEGEND", "RATIO", "TILE", "TOPS", "WIDTHS", "build", "planet"]
