"""What a year is reported as: a line on the log and an entry of report.json."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.placement import Budget

KM2 = 1e-6


@dataclass(frozen=True, eq=False)
class YearReport:
    """One year in numbers.

    largest_residual: largest |fine - coarse total| of a coarse cell and class, share of the cell's land; roundtrip:
    half the sum over classes of |host column - host state|, mean over the host's land; closure: see Budget; seconds
    per stage; held: why the fields are those of an earlier year. The fine area is that of all delivered cells.
    """

    year: int
    legend: tuple[str, ...]
    budget: Budget
    largest_residual: float
    roundtrip: float
    seconds: Mapping[str, float]
    held: str = ""

    def entry(self) -> dict[str, object]:
        """The year as JSON: areas in km2 per class, seconds per stage with `total` and `other`."""
        areas = {
            f"{name}_area_km2": self._km2(getattr(self.budget, name))
            for name in ("host", "filled", "unplaced", "coast_gap", "cut")
        }
        return {
            "year": self.year,
            "host_area_km2": areas.pop("host_area_km2"),
            "fine_area_km2": self._km2(self.budget.delivered),
            **areas,
            "unplaced_cells": self.budget.unplaced_cells,
            "largest_residual": self.largest_residual,
            "closure": self.budget.closure,
            "roundtrip": self.roundtrip,
            "held": self.held,
            "seconds": {name: round(value, 4) for name, value in self.seconds.items()},
            "share_not_unet": round(self.share_not_unet, 4),
        }

    @property
    def share_not_unet(self) -> float:
        """Share of the time the host waited for that was not the network's; 0 where more of that was hidden."""
        return max(0.0, 1.0 - self.seconds["unet"] / max(self.seconds["total"], 1e-9))

    def line(self, before: "YearReport | None") -> str:
        """The year on a line: areas of the classes that changed, largest residual, seconds per stage."""
        if self.held:
            return f"{self.year}  fields held: {self.held}"
        seconds = " ".join(f"{name} {value:.3f}" for name, value in self.seconds.items())
        return (
            f"{self.year}  {self._changes(before)}  residual {self.largest_residual:.1e}  closure "
            f"{self.budget.closure:.1e}  round trip {self.roundtrip:.4f}  seconds: {seconds}  "
            f"({100 * self.share_not_unet:.0f} % is not U-Net)"
        )

    def _changes(self, before: "YearReport | None") -> str:
        parts = []
        for k, name in enumerate(self.legend):
            host, fine = self.budget.host[k] * KM2, self.budget.delivered[k] * KM2
            if before is None:
                parts.append(f"{name} {host:,.0f}/{fine:,.0f}")
            else:
                dhost, dfine = host - before.budget.host[k] * KM2, fine - before.budget.delivered[k] * KM2
                if max(abs(dhost), abs(dfine)) >= 1.0:
                    parts.append(f"{name} {dhost:+,.0f}/{dfine:+,.0f}")
        what = "km2 host/fine:" if before is None else "change in km2 host/fine:"
        return f"{what} {', '.join(parts) or 'none'}"

    def _km2(self, area: NDArray[np.float64]) -> dict[str, float]:
        return {name: float(value) * KM2 for name, value in zip(self.legend, area, strict=True)}


def run_report(
    entries: Sequence[Mapping[str, object]], provenance: Mapping[str, str], files: Sequence[str]
) -> dict[str, object]:
    """The whole run as JSON: `years`, the files written and what made them."""
    return {
        "years": list(entries),
        "files": list(files),
        "provenance": dict(provenance),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
