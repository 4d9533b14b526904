"""Drawings of scores: reliability, IoU a class, maps and their errors, hits and misses of change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from ai4land_coupler.plot import UNCHANGED, WATER, palette
from ai4land_coupler.training.scores import rollout
from ai4land_coupler.training.scores.staticmaps import Answer

METHODS = {"argmax": "#1f6b35", "quota": "#4f6d9a", "majority": "#c9a227", "random": "#9a9a9a"}
ERROR, RIGHT = "#222222", "#dfe5df"
KINDS = {
    "no_change": UNCHANGED,
    "hit": "#1f6b35",
    "wrong_change": "#4f6d9a",
    "miss": "#f2b134",
    "false_alarm": "#d7263d",
}
"""Colours of rollout.OUTCOMES, in their order."""

MAX_PIXELS = 700
"""Cells along the longer side of a panel; of more every n-th is drawn."""


def draw(found: Answer, scores: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """Draw the scores of a region into `folder`: NAME_reliability.png, NAME_iou.png and NAME_maps.png."""
    folder.mkdir(parents=True, exist_ok=True)
    if not scores["mixed"]["cells"]:
        return []
    title = f"{found.where.emulator.name}, {name.replace('_', ', ')}"
    drawn = {"reliability": _reliability(scores, title), "iou": _bars(scores, title), "maps": _maps(found, title)}
    return [_save(figure, folder / f"{name}_{kind}.png") for kind, figure in drawn.items()]


def draw_change(
    base: NDArray[np.uint8],
    observed: NDArray[np.uint8],
    predicted: dict[str, NDArray[np.uint8]],
    legend: Sequence[str],
    path: Path,
    title: str = "",
    origin: str = "lower",
) -> Path:
    """Draw hits, wrong change, misses and false alarms of predicted maps (ny, nx) by name, observed change beside.

    Maps hold 1..K in the legend's order, 0 off land; `origin` says whether the first row is `lower` or `upper`.
    """
    columns = len(predicted) + 1
    figure = Figure(figsize=(0.8 + 4.2 * columns, 5.6), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    colours = [*palette(legend), UNCHANGED]
    now = np.where(observed != base, observed, len(legend) + 1)
    _image(axes[0], np.where((observed > 0) & (base > 0), now, 0), colours, "observed change", origin)
    for axis, (name, made) in zip(axes[1:], predicted.items(), strict=True):
        kinds = rollout.outcome_map(base, observed, made)
        merit = rollout.figure_of_merit(base, observed, made, np.ones(base.shape))["figure_of_merit"]
        shown = "-" if merit is None else f"{merit:.3f}"
        _image(axis, np.where(kinds == 255, len(KINDS), kinds), [*KINDS.values(), WATER], f"{name}: {shown}", origin)
    gained = np.unique(now[(observed > 0) & (observed != base)])
    entries = [(colours[k], f"now {_spoken(legend[k - 1])}") for k in gained]
    _key(figure, [*entries, *((colour, _spoken(kind)) for kind, colour in KINDS.items())])
    figure.suptitle(f"{title} (figure of merit)".strip())
    path.parent.mkdir(parents=True, exist_ok=True)
    return _save(figure, path)


def _reliability(scores: dict[str, Any], title: str) -> Figure:
    """Frequency against forecast over mixed cells, and how the forecasts are spread."""
    figure = Figure(figsize=(9.0, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    calibrated = scores["mixed"]["calibration"]
    left.plot([0, 1], [0, 1], color="#999999", linewidth=1)
    for key, colour, label in (
        ("likeliest", METHODS["argmax"], "likeliest class"),
        ("all_classes", METHODS["quota"], "every class"),
    ):
        rows = calibrated[key]
        used = [(f, o) for f, o in zip(rows["forecast"], rows["observed"], strict=True) if f is not None]
        left.plot(*zip(*used, strict=True), marker="o", markersize=4, color=colour, label=label)
        right.stairs(rows["area_share"], [*rows["from"], 1.0], color=colour, linewidth=1.5, label=label)
    left.set(xlabel="closed fraction", ylabel="share of the area with that label", title="reliability, mixed cells")
    right.set(xlabel="closed fraction", ylabel="share of the area", title="forecasts by bin", yscale="log")
    left.legend(frameon=False)
    figure.suptitle(
        f"{title}: calibration error {calibrated['error']:.4f}, of classes {calibrated['error_of_classes']:.4f}"
    )
    return figure


def _bars(scores: dict[str, Any], title: str) -> Figure:
    """IoU of each class and their mean, all land above and mixed cells below."""
    figure = Figure(figsize=(11.0, 7.0), layout="constrained")
    for axis, part in zip(figure.subplots(2, 1), ("all", "mixed"), strict=True):
        names = [*scores[part]["argmax"]["iou"], "mean"]
        for place, (method, colour) in enumerate(METHODS.items()):
            values = [value or 0.0 for value in scores[part][method]["iou"].values()] + [scores[part][method]["miou"]]
            axis.bar(np.arange(len(names)) + 0.2 * (place - 1.5), values, 0.2, color=colour, label=method)
        axis.set_xticks(range(len(names)), [_spoken(name) for name in names])
        axis.set(ylabel="IoU", title=f"{'all land' if part == 'all' else 'mixed cells'}", ylim=(0, 1))
    figure.axes[0].legend(frameon=False, ncols=len(METHODS))
    figure.suptitle(title)
    return figure


def _maps(found: Answer, title: str) -> Figure:
    """Observed and mixed land, then each map with its errors below it."""
    maps, legend = found.maps, found.where.emulator.legend
    land = (maps["observed"] > 0) & found.where.inside
    ny, nx = land.shape
    columns = len(METHODS) + 1
    figure = Figure(figsize=(3.4 * columns, 1.2 + 2 * 3.4 * min(max(ny / nx, 0.4), 1.6)), layout="constrained")
    axes = figure.subplots(2, columns)
    _image(axes[0, 0], maps["observed"] * land, palette(legend), "observed")
    _image(axes[1, 0], np.where(land, 1 + maps["mixed"], 0), [WATER, RIGHT, "#8d6e63"], "mixed cells")
    for column, method in enumerate(METHODS, start=1):
        wrong = land & (maps[method] != maps["observed"])
        share = (found.where.area * wrong).sum() / (found.where.area * land).sum()
        _image(axes[0, column], maps[method] * land, palette(legend), method)
        _image(
            axes[1, column], np.where(land, 1 + wrong, 0), [WATER, RIGHT, ERROR], f"wrong on {share:.1%} of the land"
        )
    shown = np.unique(maps["observed"][land])
    named = [(palette(legend)[k], _spoken(legend[k - 1])) for k in shown]
    _key(figure, [*named, ("#8d6e63", "mixed"), (RIGHT, "right"), (ERROR, "wrong")])
    figure.suptitle(title)
    return figure


def _image(axes: Axes, picture: NDArray, colours: Sequence[str], title: str, origin: str = "lower") -> None:
    step = max(1, -(-max(picture.shape) // MAX_PIXELS))
    axes.imshow(
        picture[step // 2 :: step, step // 2 :: step], origin=origin, cmap=ListedColormap(list(colours)),  # type: ignore[arg-type]
        norm=BoundaryNorm(np.arange(len(colours) + 1) - 0.5, len(colours)), interpolation="nearest",
    )  # fmt: skip
    axes.set_title(title, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])


def _key(figure: Figure, entries: Sequence[tuple[str, str]]) -> None:
    patches = [Patch(facecolor=c, edgecolor="#777777", linewidth=0.6, label=name) for c, name in entries]
    columns = max(1, int(figure.get_figwidth() / 1.6))
    figure.legend(handles=patches, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=110, facecolor="white")
    return path


def _spoken(name: str) -> str:
    return name.replace("_", " ")
