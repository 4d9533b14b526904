"""Score an emulator on its base map: true coarse fractions in, closed fine fractions and their class maps out."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler import ncfile
from ai4land_coupler.device import choose_precision
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import ConfigError
from ai4land_coupler.inference import TileRunner
from ai4land_coupler.training.scores import calibration, metrics
from ai4land_coupler.training.scores.regions import Region, parse
from ai4land_coupler.training.scores.scoretable import summary, table
from ai4land_coupler.training.scores.staticmaps import Answer, Truth, answer

MAPS = ("argmax", "quota", "majority", "random")
PARTS = ("all", "mixed", "mixed_coarse")


def evaluate(
    emulator: str | Path | Emulator,
    region: str = "south-america",
    json_path: str | Path | None = None,
    maps_path: str | Path | None = None,
) -> dict[str, Any]:
    """Score the emulator in one region at its own resolution; print and return the scores.

    `json_path` receives the scores, `maps_path` the maps they come from, as netCDF.
    """
    scores = alone(evaluate_regions(emulator, [region], maps_path=maps_path))
    print(table(scores))
    if json_path is not None:
        Path(json_path).write_text(json.dumps(scores, indent=1) + "\n")
    return scores


def evaluate_regions(
    emulator: str | Path | Emulator,
    regions: Sequence[str],
    resolutions: Sequence[float] = (),
    maps_path: str | Path | None = None,
    plots: str | Path | None = None,
    threads: int | None = None,
    precision: str = "float32",
    report: Any = lambda line: None,
) -> dict[str, Any]:
    """Return the scores of the emulator in several regions, its state given at several resolutions.

    `regions` as `regions.parse` takes them; `resolutions` in degrees, multiples of the emulator's coarse step, its own
    where left out. Keys of the result: `emulator`, `weights_sha256`, and `regions`: by name the scores of `score` at
    the emulator's own resolution and, under `coarser`, by degrees, at the others. `maps_path` receives the maps as
    netCDF, one file a region and resolution, their names added where there are several; `plots` is a folder for
    drawings; `precision` is that of the network. `report` is called with a line of text for each region and resolution.
    """
    if not isinstance(emulator, Emulator):
        emulator = Emulator.load(emulator)
    boxes = parse(regions, emulator)
    blocks = _blocks(emulator, resolutions)
    truth = Truth.of(emulator)
    runner = TileRunner(emulator, "level", choose_precision(precision), threads or os.cpu_count() or 1)
    result: dict[str, Any] = {}
    for name, box in boxes.items():
        scores: dict[str, Any] = {}
        for number in blocks:
            where = Region(emulator, box, number)
            found = answer(where, truth, runner)
            part = score(found)
            label = f"{where.degrees:g}"
            report(f"{name} at {label} degree: {_line(part)}")
            several = len(boxes) * len(blocks) > 1
            if maps_path is not None:
                write_maps(_named(Path(maps_path), f"{name}_{label}deg" if several else ""), found)
            if plots is not None:
                from ai4land_coupler.training.scores import scoreplots

                scoreplots.draw(found, part, Path(plots), f"{name}_{label}deg")
            if number == 1:
                scores |= part
            else:
                scores.setdefault("coarser", {})[label] = part
        runner.forget()
        result[name] = scores
    return {"emulator": emulator.name, "weights_sha256": emulator.weights_hash, "regions": result}


def alone(result: dict[str, Any]) -> dict[str, Any]:
    """Return the result of one region without the level of regions; several are left as they are."""
    if len(result["regions"]) != 1:
        return result
    ((region, scores),) = result["regions"].items()
    return {name: result[name] for name in ("emulator", "weights_sha256")} | {"region": region} | scores


def command(
    emulator: str,
    regions: Sequence[str],
    resolutions: Sequence[float],
    json_path: Path | None,
    maps_path: Path | None,
    plots: Path | None,
    card: bool,
    threads: int | None,
    precision: str,
) -> None:
    """Score, print tables, write what was asked for: `ai4land evaluate`.

    The JSON of several regions has their scores by name under `regions`; that of one has them at its top.
    """
    loaded = Emulator.load(emulator)
    result = evaluate_regions(
        loaded, regions, resolutions, maps_path, plots, threads, precision, lambda line: print(line, flush=True)
    )
    for name, scores in result["regions"].items():
        print("\n" + table({"emulator": loaded.name, "region": name} | scores))
    print("\n" + summary(result))
    if json_path is not None:
        json_path.write_text(json.dumps(alone(result), indent=1) + "\n")
    if card:
        from ai4land_coupler.training.scores.card import add_scores

        print(f"\nscores and card written: {add_scores(loaded.path, result)}")


def _blocks(emulator: Emulator, resolutions: Sequence[float]) -> list[int]:
    """Coarse cells to the edge of a host cell at each resolution in degrees; the emulator's own comes first."""
    step = 180 / emulator.coarse.nlat
    blocks = {1}
    for degrees in resolutions:
        number = round(degrees / step)
        if number < 1 or abs(degrees - number * step) > 1e-9:
            raise ConfigError(f"resolution {degrees:g}: expected a multiple of {step:g} degrees, the emulator's own")
        blocks.add(number)
    return sorted(blocks)


def _named(path: Path, suffix: str) -> Path:
    return path.with_stem(f"{path.stem}_{suffix}") if suffix else path


def score(found: Answer) -> dict[str, Any]:
    """Return the scores of a region over all its land cells and over its mixed ones.

    `mixed` are those in host cells without a class on 95 % of their land, by counts; where host cells are larger than
    coarse cells `mixed_coarse` are those in such coarse cells, the land scored as mixed at the emulator's resolution.
    A part holds the scores of each map of MAPS (`metrics.scores`), the accuracy expected of random placement, margins,
    log loss beside that of filling with the host's fractions, and calibration.
    """
    where, maps = found.where, found.maps
    land = (maps["observed"] > 0) & where.inside
    masks = {"all": land} | {name: land & (maps[name] > 0) for name in PARTS[1:] if name in maps}
    result: dict[str, Any] = {"box": asdict(where.box), "weights": "cell area", "mixed_below": metrics.MIXED_BELOW}
    result["state_degrees"] = where.degrees
    return result | {name: _part(found, cells) for name, cells in masks.items()}


def _part(found: Answer, cells: NDArray[np.bool_]) -> dict[str, Any]:
    """Scores over some cells of the window, (ny, nx)."""
    where, maps, legend = found.where, found.maps, found.where.emulator.legend
    area = where.area[cells]
    part: dict[str, Any] = {"area_km2": float(area.sum() / 1e6), "cells": int(cells.sum())}
    if not part["cells"]:
        return part
    for method in MAPS:
        matrix = metrics.confusion(maps["observed"][cells], maps[method][cells], area, len(legend))
        part[method] = metrics.scores(matrix, legend)
    at = found.cells(cells)
    state = found.state[found.host]
    part["random_expected_accuracy"] = metrics.random_accuracy(state, (found.area * at).sum(1))
    part["argmax_over_majority"] = part["argmax"]["accuracy"] - part["majority"]["accuracy"]
    part["quota_over_random"] = part["quota"]["accuracy"] - part["random_expected_accuracy"]
    better = max(part["majority"]["miou"], part["random"]["miou"])
    part["quota_miou_over_better"] = part["quota"]["miou"] - better
    part["argmax_miou_over_better"] = part["argmax"]["miou"] - better
    coarse, cell = np.nonzero(at)
    label, weight = found.labels[at].astype(np.int64), found.area[at]
    own = calibration.log_loss(found.fractions[coarse, label - 1, cell], weight)
    filling = calibration.log_loss(state[coarse, label - 1], weight)
    part["log_loss"] = {"emulator": own, "filling": filling, "ratio": own / filling if filling > 0 else None}
    part["calibration"] = calibration.calibration(found.fractions[coarse, :, cell].T, label, weight, legend)
    return part


def _line(scores: dict[str, Any]) -> str:
    part = scores["mixed"]
    if not part["cells"]:
        return "no mixed land"
    return (
        f"argmax {part['argmax_over_majority']:+.4f} over majority, quota {part['quota_over_random']:+.4f} over "
        f"random, log loss {part['log_loss']['ratio']:.3f} of filling's, "
        f"calibration error {part['calibration']['error']:.4f}"
    )


def write_maps(path: Path, found: Answer) -> None:
    """Write the maps on lat and lon, so that anybody can score them again."""
    where = found.where
    fine, (rows, cols) = where.emulator.fine, where.window
    legend = where.emulator.legend
    flags = {
        "flag_values": np.arange(len(legend) + 1, dtype=np.uint8),
        "flag_meanings": " ".join(("no_land", *legend)),
    }
    variables: dict[str, Any] = {
        "lat": (("lat",), fine.lat[rows], {"standard_name": "latitude", "units": "degrees_north"}),
        "lon": (("lon",), fine.lon[cols], {"standard_name": "longitude", "units": "degrees_east"}),
    }
    cell = {"mixed": "host cell", "mixed_coarse": "coarse cell"}
    for name, values in found.maps.items():
        note = {"long_name": f"{name} land cover class", "units": "1"} | flags
        if name in cell:
            note = {"long_name": f"no class covers 95 % of the land of the {cell[name]}", "units": "1"}
        variables[name] = (("lat", "lon"), values, note)
    described = {
        "Conventions": "CF-1.11",
        "title": f"Maps by which emulator {where.emulator.name} is scored, its state given at {where.degrees:g} degree",
        "weights_sha256": where.emulator.weights_hash,
    }
    ncfile.write(path, variables, described)
