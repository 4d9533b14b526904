"""Scores as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

METHODS = ("argmax", "quota", "majority", "random")
TITLES = {
    "all": "all cells",
    "mixed": "mixed cells (no class covers 95 % of the cell the state is given for)",
    "mixed_coarse": "cells mixed at the emulator's own resolution",
}


def table(scores: dict[str, Any]) -> str:
    """Return the scores of one region, at all its resolutions."""
    lines = []
    for degrees, part in by_resolution(scores):
        lines += [
            f"{scores['emulator']} in {scores['region']}, state at {degrees} degree: area-weighted scores over fine "
            "land cells"
        ]
        for name, title in TITLES.items():
            if name in part:
                lines += [
                    "",
                    f"{title}: {part[name]['cells']} cells, {part[name]['area_km2']:.0f} km2",
                    *_part(part[name]),
                ]
        lines.append("")
    return "\n".join(lines[:-1])


def by_resolution(scores: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield degrees and scores at the emulator's own resolution and the coarser ones."""
    yield f"{scores['state_degrees']:g}", scores
    yield from scores.get("coarser", {}).items()


def _part(scores: dict[str, Any]) -> list[str]:
    if not scores["cells"]:
        return ["no cells"]
    legend = list(scores["argmax"]["iou"])
    lines = [
        f"{'':10}{'accuracy':>9}{'mIoU':>7}{'>1 %':>7}{'quant.':>8}{'alloc.':>8}"
        + "".join(f"{n[:9]:>11}" for n in legend)
    ]
    for method in METHODS:
        row = scores[method]
        iou = "".join(f"{number(row['iou'][n]):>11}" for n in legend)
        lines.append(
            f"{method:10}{row['accuracy']:9.4f}{row['miou']:7.3f}{row['miou_common']:7.3f}"
            f"{row['quantity']:8.4f}{row['allocation']:8.4f}{iou}"
        )
    loss, calibrated = scores["log_loss"], scores["calibration"]
    return [
        *lines,
        f"argmax - majority {scores['argmax_over_majority']:+.4f}; quota - random placement "
        f"{scores['quota_over_random']:+.4f} (expected {scores['random_expected_accuracy']:.4f}); "
        f"mIoU of quota - better baseline {scores['quota_miou_over_better']:+.4f}",
        f"log loss {loss['emulator']:.4f}, filling {loss['filling']:.4f}, ratio {number(loss['ratio'])}; "
        f"calibration error {calibrated['error']:.4f}, of classes {calibrated['error_of_classes']:.4f}",
    ]


COLUMNS = ("argmax-majority", "quota-random", "mIoU quota", "mIoU argmax", "log loss", "calibration")


def summary(result: dict[str, Any]) -> str:
    """Return one line a region and resolution: margins over mixed cells, and of mean IoU over all cells."""
    width = max(len(name) for name in ("region", *result["regions"]))
    lines = [
        f"{result['emulator']}: margins over the baselines; accuracy, log loss (share of filling's) and calibration "
        "error over mixed cells, mIoU over all land",
        f"{'region':{width}} {'degree':>7}" + "".join(f"{name:>17}" for name in COLUMNS),
    ]
    for region, scores in result["regions"].items():
        for degrees, part in by_resolution(scores):
            lines.append(f"{region:{width}} {degrees:>7}" + "".join(f"{value:>17}" for value in margins(part)))
    return "\n".join(lines)


def margins(part: dict[str, Any]) -> tuple[str, ...]:
    """Return the six COLUMNS of scores at one resolution."""
    mixed, every = part["mixed"], part["all"]
    if not mixed["cells"]:
        return ("-",) * len(COLUMNS)
    return (
        f"{mixed['argmax_over_majority']:+.4f}",
        f"{mixed['quota_over_random']:+.4f}",
        f"{every['quota_miou_over_better']:+.4f}",
        f"{every['argmax_miou_over_better']:+.4f}",
        number(mixed["log_loss"]["ratio"]),
        f"{mixed['calibration']['error']:.4f}",
    )


def number(value: float | None) -> str:
    """A score to three digits, or a dash."""
    return "-" if value is None else f"{value:.3f}"


def rollout_table(entries: dict[str, list[dict[str, Any]]], leads: Sequence[int] = ()) -> str:
    """Return the scores of `rollout.beside_baselines` as text, of all leads or of some."""
    scales = list(next(iter(entries.values()))[0]["figure_of_merit"])
    head = (
        f"{'year':>6}{'lead':>6} {'':12}{'accuracy':>9}{'mIoU':>7}{'changed':>9}{'quant.':>8}{'alloc.':>8}{'drift':>8}"
    )
    lines = [head + "".join(f"{'FoM ' + scale:>9}" for scale in scales)]
    for place, one in enumerate(next(iter(entries.values()))):
        if leads and one["lead"] not in leads:
            continue
        for name, years in entries.items():
            row = years[place]
            merits = "".join(f"{number(row['figure_of_merit'][scale]['figure_of_merit']):>9}" for scale in scales)
            lines.append(
                f"{row['year']:6}{row['lead']:6} {name:12}{row['accuracy']:9.4f}{row['miou']:7.3f}"
                f"{number(row['on_changed']['miou']):>9}{row['quantity']:8.4f}{row['allocation']:8.4f}"
                f"{row['drift']['total']:8.4f}{merits}"
            )
    return "\n".join(lines)
