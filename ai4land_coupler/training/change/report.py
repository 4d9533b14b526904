"""Scores of change on a series of yearly maps: `ai4land evaluate --change`, as table, JSON, netCDF and drawings."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ai4land_coupler import ncfile
from ai4land_coupler.errors import ConfigError
from ai4land_coupler.training.change import forecast
from ai4land_coupler.training.change.network import ChangeConfig
from ai4land_coupler.training.change.series import Series, read
from ai4land_coupler.training.scores import baselines, rollout

METHODS = {
    "model": "the network",
    "rule": "rule-based allocator, from the base map at once",
    "rule_yearly": "rule-based allocator, year after year",
    "random": "random placement of the net change",
    "persistence": "nothing changes",
}
SHOWN = ("model", "rule", "rule_yearly", "random")

FLICKER = "changed from the base year, and of the class of the base year again one year later"

Maps = dict[str, NDArray[np.uint8]]


def command(
    path: str | Path,
    base: int | None,
    block: int,
    json_path: str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 1,
    threads: int | None = None,
) -> dict[str, Any]:
    """Train on the maps of a file up to the year `base`, roll out over the later ones, print and return the scores.

    `block` is the edge in pixels of the blocks whose class totals are given. `out` is the folder of maps and drawings.
    """
    if base is None:
        raise ConfigError("--base is needed with --change: the last year to learn from")
    series = read(path)
    config = ChangeConfig(seed=seed)
    _check(series, base, block)
    torch.set_num_threads(threads or os.cpu_count() or 1)
    start = time.perf_counter()
    result, maps = evaluate(series, base, block, config)
    result = {"file": Path(path).name} | result | {"seconds": round(time.perf_counter() - start, 1)}
    print(table(result))
    if json_path is not None:
        Path(json_path).write_text(json.dumps(result, indent=1) + "\n")
    if out is not None:
        write(Path(out), series, base, maps)
    return result


def _check(series: Series, base: int, block: int) -> None:
    place = series.index(base)
    if place < 1 or place + 1 == len(series.years):
        raise ConfigError(
            f"--base {base}: a year with one or more maps before and after it is expected, the file has "
            f"{series.years[0]} to {series.years[-1]}"
        )
    if block < 2:
        raise ConfigError(f"--block {block}: blocks of 2 pixels or more are expected")


def evaluate(series: Series, base: int, block: int, config: ChangeConfig) -> tuple[dict[str, Any], dict[int, Maps]]:
    """Return the scores and, by year, the maps of each method and the observed one."""
    net = forecast.learn(series, base, block, config)
    before = series.classes[series.index(base)]
    maps: dict[int, Maps] = {}
    years = []
    previous = before
    for year, made in forecast.roll_out(net, series, base, block):
        wanted = _wanted(series, before, year, block)
        yearly = baselines.allocate(previous, wanted, block, area=series.area)
        maps[year] = {
            "model": made.classes,
            "rule": baselines.allocate(before, wanted, block, area=series.area),
            "rule_yearly": yearly,
            "random": baselines.allocate_at_random(before, wanted, block, config.seed),
            "persistence": before,
            "observed": np.where(before > 0, series.classes[series.index(year)], 0).astype(np.uint8),
        }
        previous = yearly
        counts = baselines.counts_in(made.classes, baselines.block_map(before.shape, block), len(series.legend))
        years.append(
            {
                "year": year,
                "residual_fractions": made.residual,
                "residual_map_cells": int(np.abs(counts - wanted).max()),
                "expected_figure_of_merit": made.expected,
            }
            | _scores(series, base, year, maps[year])
        )
    described = {
        "base": base,
        "block": block,
        "grid": list(before.shape),
        "legend": list(series.legend),
        "config": asdict(config),
        "methods": METHODS,
        "flicker": FLICKER,
        "unit_of_area": "km2",
    }
    return described | {"years": years}, maps


def _wanted(series: Series, before: NDArray[np.uint8], year: int, block: int) -> NDArray[np.int64]:
    """Cells of each class (B, K) that the totals of a later year ask for."""
    blocks, number = baselines.block_map(before.shape, block), len(series.legend)
    now = forecast.totals(before, blocks, number)
    later = np.where(before > 0, series.classes[series.index(year)], 0)
    after = forecast.totals(later, blocks, number, like=now)
    return baselines.whole_counts(after, np.bincount(blocks[before > 0], minlength=len(after)))


def flicker(before: NDArray[np.uint8], now: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels of maps (ny, nx) whose change since `before` is undone a year later: now another class, then the first."""
    return (now > 0) & (before > 0) & (now != before) & (after == before)


def _scores(series: Series, base: int, year: int, maps: Maps) -> dict[str, Any]:
    """Scores of one year by method, and the figures of merit side by side, all change and steady change alone."""
    before, observed = maps["persistence"], maps["observed"]
    by_method = {
        name: rollout.score_rollout(observed[None], maps[name][None], before, series.area, series.legend, [year])[0]
        for name in METHODS
    }
    for entry in by_method.values():
        entry["lead"] = year - base
    found: dict[str, Any] = {"lead": year - base, "observed_change": by_method["model"]["observed_change"]}
    found["figure_of_merit"] = {
        name: entry["figure_of_merit"]["1"]["figure_of_merit"] for name, entry in by_method.items()
    }
    found["figure_of_merit_without_flicker"] = _steady(series, year, maps)
    return found | by_method


def _steady(series: Series, year: int, maps: Maps) -> dict[str, float | None] | None:
    """Figures of merit where flicker is no observed change; None where the file has no map of the year after."""
    if year + 1 not in series.years:
        return None
    before, observed = maps["persistence"], maps["observed"]
    undone = flicker(before, observed, series.classes[series.index(year + 1)])
    steady = np.where(undone, before, observed)
    return {
        name: rollout.figure_of_merit(before, steady, maps[name], series.area)["figure_of_merit"] for name in METHODS
    }


def table(result: dict[str, Any]) -> str:
    """Return the scores as text."""
    lines = [
        f"{result['file']}: change since {result['base']}, learned from the maps up to then; totals of blocks of "
        f"{result['block']} pixels given",
        "figure of merit (cumulative, by area)",
        f"{'':6}{'observed':>9}{'made':>7}"
        + "".join(f"{name:>13}" for name in SHOWN)
        + f"{'without flicker:':>19}"
        + "".join(f"{name:>9}" for name in ("model", "rule"))
        + f"{'at 5':>8}{'at 25':>7}{'accuracy':>10}{'(still)':>9}",
    ]
    for row in result["years"]:
        model, steady = row["model"], row["figure_of_merit_without_flicker"] or {}
        merits = [_number(row["figure_of_merit"][name]) for name in SHOWN]
        scales = model["figure_of_merit"]
        lines.append(
            f"{row['year']:<6}{row['observed_change']:9.3f}{model['predicted_change']:7.3f}"
            + "".join(f"{merit:>13}" for merit in merits)
            + f"{'':19}"
            + "".join(f"{_number(steady.get(name)):>9}" for name in ("model", "rule"))
            + f"{_number(scales['5']['figure_of_merit']):>8}{_number(scales['25']['figure_of_merit']):>7}"
            + f"{model['accuracy']:10.3f}{row['persistence']['accuracy']:9.3f}"
        )
    worst = max(row["residual_fractions"] for row in result["years"])
    cells = max(row["residual_map_cells"] for row in result["years"])
    lines.append(f"totals missed by at most {worst:.1e} of a block in the fractions and {cells} pixels in the maps")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def write(folder: Path, series: Series, base: int, maps: dict[int, Maps]) -> list[Path]:
    """Write change_maps.nc, in the class numbers of the file that was read, and a drawing a year; return the paths."""
    from ai4land_coupler.training.scores import scoreplots

    folder.mkdir(parents=True, exist_ok=True)
    (y, at_y), (x, at_x) = series.axes.items()
    absent = 0 if 0 not in series.codes else max(series.codes) + 1
    code = np.array([absent, *series.codes], np.int16)
    text = {"flag_values": code[1:], "flag_meanings": " ".join(_word(name) for name in series.legend)}
    variables: dict[str, Any] = {
        "year": (("year",), np.array(list(maps), np.int32), {}),
        y: ((y,), at_y, {}),
        x: ((x,), at_x, {}),
    }
    for name in ("model", "rule", "rule_yearly", "observed"):
        values = code[np.stack([layers[name] for layers in maps.values()])]
        notes = {"long_name": f"class, {METHODS.get(name, name)}", "missing_value": np.int16(absent)} | text
        variables[name] = (("year", y, x), values, notes)
    variables["outcome"] = (("year", y, x), *_outcomes(maps))
    ncfile.write(folder / "change_maps.nc", variables, {"title": f"change predicted from {base}", "base": base})
    drawn = list(_drawings(folder, scoreplots, series, base, maps))
    return [folder / "change_maps.nc", *drawn]


def _outcomes(maps: dict[int, Maps]) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    values = np.stack([rollout.outcome_map(m["persistence"], m["observed"], m["model"]) for m in maps.values()])
    flags = {
        "flag_values": np.arange(len(rollout.OUTCOMES), dtype=np.uint8),
        "flag_meanings": " ".join(rollout.OUTCOMES),
    }
    return values, {"long_name": "what came of the model's change", "missing_value": np.uint8(255)} | flags


def _drawings(folder: Path, plots: Any, series: Series, base: int, maps: dict[int, Maps]) -> Iterator[Path]:
    at_y = next(iter(series.axes.values()))
    origin = "upper" if at_y.size > 1 and at_y[-1] < at_y[0] else "lower"
    for year, layers in maps.items():
        shown = {name: layers[name] for name in ("model", "rule")}
        path = folder / f"change_{base}_{year}.png"
        title = f"{base} to {year}"
        yield plots.draw_change(layers["persistence"], layers["observed"], shown, series.legend, path, title, origin)


def _word(name: str) -> str:
    return "_".join(name.split())
