"""Score an emulator on its base map: true coarse fractions in, closed fine fractions and their class maps out."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler import ncfile
from ai4land_coupler.constraint import quota
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.inference import TileRunner
from ai4land_coupler.tiles import TileCells, TileWork, all_tiles, coarse_around, to_blocks
from ai4land_coupler.timing import Stopwatch
from ai4land_coupler.training import metrics
from ai4land_coupler.training.dataset import Box

SEED = 2019
MAPS = ("argmax", "quota", "majority", "random")


@dataclass(frozen=True)
class Region:
    """Whole coarse cells that cover a box, and which of their fine cells have centres in it."""

    emulator: Emulator
    box: Box

    @property
    def ratio(self) -> int:
        """Fine cells to a coarse edge."""
        return self.emulator.coarse.ratio_to(self.emulator.fine)

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the fine grid, the box expanded outward to whole coarse cells."""
        rows, cols = self.box.rows(self.emulator.fine), self.box.cols(self.emulator.fine)
        return _outward(rows, self.ratio), _outward(cols, self.ratio)

    @property
    def area(self) -> NDArray[np.float64]:
        """Area of the window's fine cells, (ny, nx) m2."""
        rows, cols = self.window
        return np.repeat(self.emulator.fine.area_rows[rows, None], cols.stop - cols.start, axis=1)

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Whether a fine cell of the window has its centre in the box, (ny, nx)."""
        fine, (rows, cols) = self.emulator.fine, self.window
        lat, lon = fine.lat[rows], fine.lon[cols]
        in_lat = (lat > self.box.lat0) & (lat < self.box.lat1)
        return in_lat[:, None] & ((lon > self.box.lon0) & (lon < self.box.lon1))


def _outward(part: slice, ratio: int) -> slice:
    return slice(part.start // ratio * ratio, -(-part.stop // ratio) * ratio)


def evaluate(
    emulator: str | Path | Emulator,
    region: str = "south-america",
    json_path: str | Path | None = None,
    maps_path: str | Path | None = None,
) -> dict[str, Any]:
    """Score the emulator in a region beside majority fill and random placement; print and return the scores.

    `json_path` receives the scores, `maps_path` the maps they come from, as netCDF.
    """
    if not isinstance(emulator, Emulator):
        emulator = Emulator.load(emulator)
    where = Region(emulator, Box.parse(region))
    maps, totals = predict(where)
    result = score(where, maps, totals)
    result = {"emulator": emulator.name, "weights_sha256": emulator.weights_hash, "region": region} | result
    print(table(result))
    if json_path is not None:
        Path(json_path).write_text(json.dumps(result, indent=1) + "\n")
    if maps_path is not None:
        write_maps(Path(maps_path), where, maps)
    return result


def predict(where: Region) -> tuple[dict[str, NDArray[np.uint8]], NDArray[np.float64]]:
    """Return class maps (ny, nx) of the window, 0 off land, with the flag `mixed`; and totals (C, K) of its land."""
    observed = where.emulator.base_map()[where.window]
    labels, area = to_blocks(observed, where.ratio), to_blocks(where.area * (observed > 0), where.ratio)
    land = labels > 0
    used = np.flatnonzero(land.any(axis=1))
    totals, counts = metrics.area_totals(labels[used], area[used], len(where.emulator.legend))
    fractions = closed_fractions(where, totals, used)
    ids = to_blocks(_cell_ids(where), where.ratio)
    share = counts / counts.sum(axis=1, keepdims=True)
    chosen = {
        "observed": labels[used],
        "argmax": ((fractions.argmax(axis=1) + 1) * land[used]).astype(np.uint8),
        "quota": quota(fractions, land[used], ids[used], share),
        "majority": metrics.majority_map(totals, land[used]),
        "random": metrics.random_map(labels[used], SEED),
        "mixed": (metrics.mixed(counts)[:, None] & land[used]).astype(np.uint8),
    }
    maps = {}
    for name, values in chosen.items():
        blocks = np.zeros(labels.shape, np.uint8)
        blocks[used] = values
        maps[name] = _from_blocks(blocks, observed.shape, where.ratio)
    return maps, totals


def _cell_ids(where: Region) -> NDArray[np.int64]:
    """Ids of the window's cells in the global fine grid, from 1, (ny, nx)."""
    rows, cols = where.window
    return np.arange(rows.start, rows.stop)[:, None] * where.emulator.fine.nlon + np.arange(cols.start, cols.stop) + 1


def _from_blocks(blocks: NDArray, shape: tuple[int, int], ratio: int) -> NDArray:
    ny, nx = shape
    return blocks.reshape(ny // ratio, nx // ratio, ratio, ratio).swapaxes(1, 2).reshape(ny, nx)


def closed_fractions(where: Region, totals: NDArray[np.float64], used: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the component's closed fractions (C, K, ratio^2) of the window's coarse cells with land.

    The network sees the true fractions of the whole globe at the coarse resolution, as it would in a coupled run.
    """
    emulator, ratio, (rows, cols) = where.emulator, where.ratio, where.window
    classes = emulator.base_map()
    everywhere = global_totals(emulator)
    delivered = np.zeros(classes.shape, bool)
    delivered[where.window] = classes[where.window] > 0
    tiles = [
        TileCells.of(tile, delivered[tile.rows, tile.cols], emulator.fine, ratio)
        for tile in all_tiles(emulator.fine, emulator.coarse, emulator.tile)
        if delivered[tile.rows, tile.cols].any()
    ]
    runner = TileRunner(emulator, "level", "float32", os.cpu_count() or 1)
    around = (coarse_around(cells.tile, emulator.coarse, ratio, emulator.halo) for cells in tiles)
    works = (
        TileWork.of(cells, everywhere, window, np.zeros(cells.coarse.size, bool))
        for cells, window in zip(tiles, around, strict=True)
    )
    fields = runner.run(works, Stopwatch(), lambda: None)
    ny, nx = rows.stop - rows.start, cols.stop - cols.start
    window = np.zeros((len(emulator.legend), ny, nx))
    for cells, tile in zip(tiles, fields, strict=True):
        row, col = np.divmod(cells.cells, emulator.fine.nlon)
        window[:, row - rows.start, col - cols.start] = tile.fractions
    return np.stack([to_blocks(layer, ratio)[used] for layer in window], axis=1)


def global_totals(emulator: Emulator) -> NDArray[np.float64]:
    """Return the area-weighted fractions of the base map's land in every coarse cell, (K, n_coarse); 0 at sea."""
    ratio, classes = emulator.coarse.ratio_to(emulator.fine), len(emulator.legend)
    out = np.zeros((classes, emulator.coarse.nlat, emulator.coarse.nlon))
    for row in range(emulator.coarse.nlat):
        band = slice(row * ratio, (row + 1) * ratio)
        labels = to_blocks(emulator.base_map()[band], ratio)
        area = np.repeat(emulator.fine.area_rows[band], ratio) * (labels > 0)
        land = np.flatnonzero(area.any(axis=1))
        if land.size:
            out[:, row, land] = metrics.area_totals(labels[land], area[land], classes)[0].T
    return out.reshape(classes, -1)


def score(where: Region, maps: dict[str, NDArray[np.uint8]], totals: NDArray[np.float64]) -> dict[str, Any]:
    """Return accuracy, mIoU and IoU a class of each map over all land cells of the box, and over its mixed ones."""
    legend = where.emulator.legend
    land = (maps["observed"] > 0) & where.inside
    result: dict[str, Any] = {"box": asdict(where.box), "weights": "cell area", "mixed_below": metrics.MIXED_BELOW}
    used = to_blocks(maps["observed"], where.ratio).any(axis=1)
    for name, cells in (("all", land), ("mixed", land & (maps["mixed"] > 0))):
        area = where.area[cells]
        weight = to_blocks(where.area * cells, where.ratio).sum(axis=1)[used]
        part: dict[str, Any] = {"area_km2": float(area.sum() / 1e6), "cells": int(cells.sum())}
        for method in MAPS:
            matrix = metrics.confusion(maps["observed"][cells], maps[method][cells], area, len(legend))
            part[method] = metrics.scores(matrix, legend)
        part["random_expected_accuracy"] = metrics.random_accuracy(totals, weight)
        part["argmax_over_majority"] = part["argmax"]["accuracy"] - part["majority"]["accuracy"]
        part["quota_over_random"] = part["quota"]["accuracy"] - part["random_expected_accuracy"]
        result[name] = part
    return result


def table(result: dict[str, Any]) -> str:
    """Return the scores as text."""
    lines = [f"{result['emulator']} in {result['region']}: area-weighted scores over fine land cells"]
    for part, title in (("all", "all cells"), ("mixed", "mixed cells (no class covers 95 % of the coarse cell)")):
        scores = result[part]
        legend = list(scores["argmax"]["iou"])
        lines += ["", f"{title}: {scores['cells']} cells, {scores['area_km2']:.0f} km2"]
        lines.append(f"{'':10}{'accuracy':>9}{'mIoU':>7}" + "".join(f"{name[:9]:>11}" for name in legend))
        for method in MAPS:
            row = scores[method]
            iou = "".join(f"{'-' if row['iou'][n] is None else format(row['iou'][n], '.3f'):>11}" for n in legend)
            lines.append(f"{method:10}{row['accuracy']:9.4f}{row['miou']:7.3f}{iou}")
        lines.append(
            f"argmax - majority {scores['argmax_over_majority']:+.4f}; quota - random placement "
            f"{scores['quota_over_random']:+.4f} (expected {scores['random_expected_accuracy']:.4f})"
        )
    return "\n".join(lines)


def write_maps(path: Path, where: Region, maps: dict[str, NDArray[np.uint8]]) -> None:
    """Write the maps on lat and lon, so that anybody can score them again."""
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
    for name, values in maps.items():
        note = {"long_name": f"{name} land cover class", "units": "1"} | flags
        if name == "mixed":
            note = {"long_name": "no class covers 95 % of the land of the coarse cell", "units": "1"}
        variables[name] = (("lat", "lon"), values, note)
    described = {
        "Conventions": "CF-1.11",
        "title": f"Maps by which emulator {where.emulator.name} is scored",
        "weights_sha256": where.emulator.weights_hash,
    }
    ncfile.write(path, variables, described)
