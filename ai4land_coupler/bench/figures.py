"""The figures of a report: raw samples, and the value, spread and bar that follow from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ai4land_coupler.errors import UsageError

BARS: dict[str, tuple[str, float, str]] = {
    "step_overhead": ("1", 0.03, "crossing, regrid, exchange and bookkeeping of a step / bare U-Net, one rank"),
    "outside_unet_s": ("s", 0.6, "all of a step outside the U-Net, one rank, output off"),
    "in_situ_ratio": ("1", 1.02, "inference in the coupled run / alone, the worse of 1 and 2 ranks"),
    "hook_us_median": ("us", 3.0, "put of no values through the Fortran module, median"),
    "hook_us_p99": ("us", 10.0, "put of no values through the Fortran module, 99 of 100"),
    "put_get_ratio": ("1", 1.2, "put or get, the worse / memcpy of the same bytes"),
    "apply_ratio": ("1", 0.5, "apply of 8 classes from ne30pg2 to 0.5 degree / ESMF's own, or SciPy's"),
    "constraint_share": ("1", 0.05, "closing and class map / U-Net"),
    "global_year_s": ("s", 10.0, "a global year on all cores; the bar is for processors with AMX bf16"),
    "peak_gb": ("GB", 2.5, "largest memory of the main job, one rank, output on"),
    "balance_1024": ("1", 1.04, "tiles of the largest worker / mean, 1 km globe, 1,024 workers"),
    "first_step_s": ("s", 6.0, "start, grid and first step, less a warm step"),
}
"""Unit, bar (at most) and meaning of each figure, in the order of the report."""

STATISTICS = {
    "median": lambda raw: float(np.median(raw)),
    "p99": lambda raw: float(np.percentile(raw, 99)),
    "max": lambda raw: float(np.max(raw)),
}


@dataclass(frozen=True)
class Figure:
    """One row of the report.

    raw: a sample a repeat, in `unit`; statistic: which of STATISTICS is its value; why: the reason where there are no
    samples; detail: what else was measured on the way. UsageError for an unknown name, and for samples that are not
    finite and positive (a difference of two times may be negative: those of names that end in _s).
    """

    name: str
    raw: tuple[float, ...] = ()
    statistic: str = "median"
    why: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "raw", tuple(float(x) for x in self.raw))
        if self.name not in BARS or self.statistic not in STATISTICS or bool(self.raw) == bool(self.why):
            raise UsageError(f"bench: figure {self.name!r}: expected a known name, and samples or why there are none")
        if not all(np.isfinite(x) and (x > 0 or self.unit == "s") for x in self.raw):
            raise UsageError(f"bench: figure {self.name}: expected finite samples above 0, got {self.raw}")

    @property
    def unit(self) -> str:
        """Unit of the samples; 1 for a ratio."""
        return BARS[self.name][0]

    @property
    def bar(self) -> float:
        """What the value should not exceed."""
        return BARS[self.name][1]

    @property
    def meaning(self) -> str:
        """What is measured, in a line."""
        return BARS[self.name][2]

    @property
    def value(self) -> float | None:
        """The statistic of the samples; None where there are none."""
        return STATISTICS[self.statistic](self.raw) if self.raw else None

    @property
    def spread(self) -> float | None:
        """Distance between the quartiles of the samples."""
        return float(np.subtract(*np.percentile(self.raw, [75, 25]))) if self.raw else None

    def entry(self) -> dict[str, Any]:
        """The row as JSON."""
        return {
            "value": self.value, "unit": self.unit, "bar": self.bar, "spread": self.spread, "repeats": len(self.raw),
            "statistic": self.statistic, "meaning": self.meaning, "why": self.why, "raw": list(self.raw),
            "detail": dict(self.detail),
        }  # fmt: skip


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Each sample over the one taken in turn with it; UsageError where they do not pair."""
    if len(above) != len(below):
        raise UsageError(f"bench: {len(above)} samples cannot be paired with {len(below)}")
    return [a / b for a, b in zip(above, below, strict=True)]


def exponent(size: Sequence[float], cost: Sequence[float]) -> float:
    """The slope of log cost over log size by least squares: cost grows as size to this power."""
    return float(np.polyfit(np.log(size), np.log(cost), 1)[0])
