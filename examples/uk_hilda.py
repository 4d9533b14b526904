"""Change of HILDA+ land use in the United Kingdom, 2009 to 2012, from given coarse changes: learned in every second
column of 0.5 degree cells, scored in those between.

    python examples/uk_hilda.py FOLDER [--json FILE] [--out FOLDER] [--seed N] [--inner]

FOLDER holds the rasters of LandScaleR's example (github.com/TamsinWoodman/LandScaleR): the maps
20221006_HILDA_UK_LULC_2009.tif and 20230211_HILDA_UK_LULC_2012.tif, and 20221006_HILDA_UK_LUC_*.tif, the yearly net
change in km2 of ten classes on 0.5 degrees. Needs rasterio: pip install 'ai4land_coupler[train]'.
--inner leaves the columns between alone: it learns in half of the others and scores the rest of them, which is how
everything was chosen.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import rasterio
import torch

from ai4land_coupler import ncfile
from ai4land_coupler.training.change import network
from ai4land_coupler.training.change.coarse import corrected_totals, nearest
from ai4land_coupler.training.change.features import features
from ai4land_coupler.training.change.network import ChangeConfig, Members, Sample, Target
from ai4land_coupler.training.scores import baselines, rollout

CODES = (11, 22, 33, 40, 41, 44, 45, 55, 66, 77)
LEGEND = ("urban", "cropland", "pasture", "forest", "evergreen_needleleaf_forest", "deciduous_broadleaf_forest",
          "mixed_forest", "grass_shrub", "sparse", "water")  # fmt: skip
FIRST, LAST = "20221006_HILDA_UK_LULC_2009.tif", "20230211_HILDA_UK_LULC_2012.tif"
CHANGES = "20221006_HILDA_UK_LUC_*.tif"
YEARS = 3
RADII = (1, 2, 4, 8, 20)
EARTH_KM = 6371.007
CONFIG = ChangeConfig(hidden=32, steps=400, pixels=6144, group=768, warmup=30)
DRAWS = 4  # of pixels from each coarse cell


class Country:
    """Fine maps (ny, nx), cells of 0.5 degree with their given change, and which fine cell counts to which."""

    def __init__(self, folder: Path) -> None:
        (before, lat, lon), (after, _, _) = classes(folder / FIRST), classes(folder / LAST)
        part = np.ix_(inhabited((before > 0).any(1)), inhabited((before > 0).any(0)))
        self.before, self.after = before[part], after[part]
        self.lat, self.lon = lat[part[0][:, 0]], lon[part[1][0]]
        self.land = self.before > 0
        step = abs(self.lat[1] - self.lat[0]), abs(self.lon[1] - self.lon[0])
        south, north = np.radians(self.lat - step[0] / 2), np.radians(self.lat + step[0] / 2)
        band = EARTH_KM**2 * np.radians(step[1]) * (np.sin(north) - np.sin(south))
        self.area = np.repeat(band[:, None], self.lon.size, axis=1)
        given, cell_lat, cell_lon, self.column = coarse_changes(sorted(folder.glob(CHANGES)))
        rows, cols = np.nonzero(self.land)
        self.blocks = np.full(self.land.shape, -1)
        self.blocks[rows, cols] = nearest(self.lat[rows], self.lon[cols], cell_lat, cell_lon)
        area = np.zeros(given.shape)
        np.add.at(area, (self.blocks[rows, cols], self.before[rows, cols].astype(int) - 1), self.area[rows, cols])
        self.totals = area / area.sum(1, keepdims=True)
        self.wanted = corrected_totals(area, given)
        self.given_sum = float(np.abs(given.sum(1)).max())


def inhabited(any_land: np.ndarray) -> np.ndarray:
    """Rows or columns from the first to the last with land."""
    found = np.flatnonzero(any_land)
    return np.arange(found[0], found[-1] + 1)


def classes(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Map of 1..K, 0 no class, and the latitudes and longitudes of its cells."""
    with rasterio.open(path) as file:
        values, t = file.read(1), file.transform
    found = np.zeros(values.shape, np.uint8)
    for place, code in enumerate(CODES, start=1):
        found[values == code] = place
    ny, nx = values.shape
    return found, t.f + t.e * (np.arange(ny) + 0.5), t.c + t.a * (np.arange(nx) + 0.5)


def coarse_changes(paths: list[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Change over all files (C, K) km2 of the cells that have one, their centres and their columns."""
    layers = []
    for path in paths:
        with rasterio.open(path) as file:
            if tuple(file.descriptions[: len(CODES)]) != tuple(f"LC{code}" for code in CODES):
                raise SystemExit(f"{path}: bands LC11 to LC77 are expected, got {file.descriptions}")
            layers.append(file.read()[: len(CODES)].astype(float))
            t = file.transform
    total = np.sum(layers, axis=0)
    rows, cols = np.nonzero(np.isfinite(total).all(0))
    return total[:, rows, cols].T, t.f + t.e * (rows + 0.5), t.c + t.a * (cols + 0.5), cols


def learn(country: Country, seen: np.ndarray, cells: np.ndarray, config: ChangeConfig) -> network.ChangeNet:
    """Train on the change of the fine cells of some coarse cells."""
    rng = np.random.default_rng(config.seed)
    members = Members.of(np.where(country.after > 0, country.blocks, -1), country.land, len(country.column))
    used = [cell for cell in cells if members.land[cell].sum() > 50] * DRAWS
    drawn = np.stack([
        rng.choice(pixel := members.pixel[cell][members.land[cell]], config.group, len(pixel) < config.group)
        for cell in used
    ])  # fmt: skip
    weight = (country.area.reshape(-1)[drawn] / country.area.max()).astype(np.float32)
    target = country.after.reshape(-1)[drawn].astype(np.int64) - 1
    return network.train(
        [Sample(seen[drawn], (Target(YEARS, target, weight, country.totals[used], country.wanted[used]),))],
        len(CODES),
        config,
    )


def score(
    country: Country, seen: np.ndarray, net: network.ChangeNet, cells: np.ndarray, seed: int
) -> tuple[dict, dict]:
    """Scores and maps of the fine cells of some coarse cells, by the network and by what it must beat."""
    number = np.full(len(country.column) + 1, -1)
    number[cells] = np.arange(len(cells))
    blocks = number[country.blocks]
    prior = np.where(blocks >= 0, country.before, 0).astype(np.uint8)
    members = Members.of(blocks, prior > 0, len(cells))
    before, after = country.totals[cells], country.wanted[cells]
    p, residual = network.fractions(net, seen, members, country.area, before, after, YEARS)
    made, expected = network.place(p, members, prior, after)
    wanted = baselines.whole_counts(after, members.land.sum(1))
    maps = {
        "model": made,
        "rule": baselines.allocate(prior, wanted, blocks, area=country.area),
        "random": baselines.allocate_at_random(prior, wanted, blocks, seed),
        "persistence": prior,
    }
    observed = np.where(prior > 0, country.after, 0).astype(np.uint8)
    result: dict = {"coarse_cells": len(cells), "fine_cells": int((prior > 0).sum()), "expected": expected}
    result["residual_fractions"] = residual
    result["residual_map_cells"] = int(
        np.abs(baselines.counts_in(made, blocks, len(CODES)) - after * members.land.sum(1)[:, None]).max()
    )
    for name, values in maps.items():
        result[name] = rollout.score_rollout(observed[None], values[None], prior, country.area, LEGEND, [2012])[0]
    return result, maps | {"observed": observed}


def main() -> None:
    """Learn, score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--inner", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    start = time.perf_counter()
    country = Country(asked.folder)
    seen = features(country.before[None], len(CODES), RADII)
    even, odd = np.flatnonzero(country.column % 2 == 0), np.flatnonzero(country.column % 2)
    if asked.inner:
        second = country.column[even] // 2 % 2 == 1
        even, odd = even[~second], even[second]
    config = ChangeConfig(**(vars(CONFIG) | {"seed": asked.seed}))
    result, maps = score(country, seen, learn(country, seen, even, config), odd, asked.seed)
    result |= {"config": vars(config), "sum_of_given_changes_km2": country.given_sum}
    result["seconds"] = round(time.perf_counter() - start, 1)
    for name in ("model", "rule", "random", "persistence"):
        parts = [result[name]["figure_of_merit"][scale]["figure_of_merit"] for scale in ("1", "5", "25")]
        print(f"{name:12} figure of merit at 1, 5, 25 cells: {parts}, accuracy {result[name]['accuracy']:.4f}")
    print(f"totals missed by {result['residual_fractions']:.1e} and {result['residual_map_cells']} fine cells at most")
    if asked.json is not None:
        asked.json.write_text(json.dumps(result, indent=1) + "\n")
    if asked.out is not None:
        write(asked.out, country, maps)


def write(folder: Path, country: Country, maps: dict) -> None:
    """Write the maps in HILDA+'s numbers and draw hits, misses and false alarms."""
    from ai4land_coupler.training.scores import scoreplots

    folder.mkdir(parents=True, exist_ok=True)
    code = np.array([0, *CODES], np.uint8)
    north, south = country.lat, {"standard_name": "latitude", "units": "degrees_north"}
    east = {"standard_name": "longitude", "units": "degrees_east"}
    variables: dict = {"lat": (("lat",), north, south), "lon": (("lon",), country.lon, east)}
    variables |= {name: (("lat", "lon"), code[values], {"long_name": name}) for name, values in maps.items()}
    ncfile.write(
        folder / "uk_maps.nc", variables, {"title": "HILDA+ classes of 2012 predicted from 2009; 0 not scored"}
    )
    shown = {name: maps[name] for name in ("model", "rule")}
    scoreplots.draw_change(
        maps["persistence"], maps["observed"], shown, LEGEND, folder / "uk_change.png", "2009 to 2012", "upper"
    )


if __name__ == "__main__":
    main()
