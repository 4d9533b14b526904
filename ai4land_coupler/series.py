"""Area of each class over the years of a run beside the host's, from report.json."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ai4land_coupler.errors import OutputError

MILLION = 1e-6
COLUMNS = 4
INPUT, SHIFTED, MADE = "#222222", "#d7263d", "#4f6d9a"


@dataclass(frozen=True, eq=False)
class Areas:
    """Areas in km2 (K, years), years in the order of the run: of the host's state, of the fine fractions, and of the
    host's change what the base map had too little of to make (`change` mode; 0 else)."""

    legend: tuple[str, ...]
    years: NDArray[np.int64]
    host: NDArray[np.float64]
    fine: NDArray[np.float64]
    cut: NDArray[np.float64]

    @classmethod
    def read(cls, folder: Path) -> "Areas":
        """From the report.json of a run. Raises OutputError where it has no years."""
        path = folder / "report.json"
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))["years"]
            legend = tuple(entries[0]["fine_area_km2"])
            host, fine, cut = (
                np.array([[entry.get(name, {}).get(klass, 0.0) for entry in entries] for klass in legend], np.float64)
                for name in ("host_area_km2", "fine_area_km2", "cut_area_km2")
            )
            return cls(legend, np.array([entry["year"] for entry in entries], dtype=np.int64), host, fine, cut)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise OutputError(f"{path}: a report written by ai4land_coupler is expected, got: {error}") from error


def plot_series(folder: Path, out_dir: Path) -> Path:
    """Draw `area_series.png`: a panel a class, its area in the fine fractions and in the input, million km2.

    The input is drawn once more, moved to the fine area of the year the run began with, so that the changes can be
    compared where the levels differ, as they do in `change` mode, and there also less what the base map could not make;
    what is left between that and the fine area is land that only the host or the emulator has.
    """
    areas = Areas.read(folder)
    rows = -(-len(areas.legend) // COLUMNS)
    figure = Figure(figsize=(4.2 * COLUMNS, 3.2 * rows + 0.8), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False, sharex=True).ravel()
    for k, axes in enumerate(panels):
        if k >= len(areas.legend):
            axes.set_visible(False)
            continue
        _panel(axes, areas, k)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / "area_series.png"
    figure.savefig(path, dpi=120, facecolor="white")
    return path


def _panel(axes: Axes, areas: Areas, k: int) -> None:
    years, host, fine = areas.years, areas.host[k] * MILLION, areas.fine[k] * MILLION
    marker = "o" if len(years) <= 30 else ""
    axes.plot(years, fine, color="#1f6b35", linewidth=2.5, label="fine fractions", marker=marker, markersize=4)
    axes.plot(years, host, color=INPUT, linewidth=1.2, linestyle="--", label="input")
    moved = host + (fine[0] - host[0])
    axes.plot(
        years, moved, color=SHIFTED, linewidth=1.2, linestyle=":", label=f"input from the fine area of {years[0]} on"
    )
    if areas.cut.any():
        made = moved - areas.cut[k] * MILLION
        axes.plot(years, made, color=MADE, linewidth=1.2, linestyle="-.", label="the same less what cannot be made")
    axes.set_title(areas.legend[k].replace("_", " "))
    axes.set_ylabel("million km²")
    low, high = axes.get_ylim()
    if high - low < 0.02:  # what does not change is no steep line
        axes.set_ylim(0.5 * (low + high) - 0.01, 0.5 * (low + high) + 0.01)
    axes.grid(color="#dddddd", linewidth=0.6)
