"""Measure what the run through HYDE's years promises, from its files alone.

    python examples/hyde/check.py output/hyde

For each year and class: the largest distance, over all coarse cells, of what the fine fractions sum to from the coarse
total, as a share of the cell's land, computed here from the fractions; that of the class map in fine cells, in `change`
mode of its change since the first year; and areas in km2: fine, of the input, and of the input's change what the base
map has too little of to make (`change` mode). Exit code 1 where a total is missed by 1e-12, or a map by more than a
cell and what shares of area and of cells differ by where cells are not of one size.
"""

import json
import sys
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

EARTH_RADIUS = 6_371_000.0
LIMIT = 1e-12


def blocks(fine: NDArray, ratio: int) -> NDArray:
    """A fine field (nlat, nlon) summed over ratio x ratio cells."""
    nlat, nlon = fine.shape
    rows = fine.reshape(nlat // ratio, ratio, nlon).sum(axis=1, dtype=np.float64)
    return rows.reshape(nlat // ratio, nlon // ratio, ratio).sum(axis=2)


def residuals(year: xr.Dataset, base: xr.Dataset | None, legend: list[str]) -> tuple[list[float], list, list, bool]:
    """For each class: largest miss of a total, of the map's cells (since `base`), the map's area in km2; all in bounds.

    A share of a coarse cell's area and the share of its cells differ by at most (largest - smallest) / mean cell.
    """
    classes, target = year["class"].values, year["target"].values
    ratio = classes.shape[0] // target.shape[1]
    edges = np.sin(np.radians(np.linspace(-90, 90, classes.shape[0] + 1)))
    area = np.broadcast_to((EARTH_RADIUS**2 * np.diff(edges) * 2 * np.pi / classes.shape[1])[:, None], classes.shape)
    there = classes > 0
    land, count = blocks(np.where(there, area, 0.0), ratio), blocks(there, ratio)
    known = (count > 0) & np.isfinite(target).all(axis=0)
    rows = area[:, 0].reshape(-1, ratio)
    room = 1 + count * ((rows.max(axis=1) - rows.min(axis=1)) / rows.mean(axis=1))[:, None]
    missed, moved, areas, holds = [], [], [], True
    for k, name in enumerate(legend):
        fraction = np.where(there, year[name].values, 0.0)
        off = (blocks(fraction * area, ratio) - target[k] * land)[known] / land[known]
        missed.append(float(np.abs(off).max()))
        counts, wanted = blocks(classes == k + 1, ratio), target[k]
        if base is not None:
            counts, wanted = counts - blocks(base["class"].values == k + 1, ratio), wanted - base["target"].values[k]
        off_by = np.abs(counts - wanted * count)[known]
        moved.append(float(off_by.max()))
        holds = holds and missed[-1] < LIMIT and bool((off_by <= room[known]).all())
        areas.append(float((area * (classes == k + 1)).sum() * 1e-6))
    return missed, moved, areas, holds


def main() -> None:
    folder = Path(sys.argv[1])
    report = {entry["year"]: entry for entry in json.loads((folder / "years" / "report.json").read_text())["years"]}
    holds = True
    with xr.open_zarr(folder / "years" / "ai4land.zarr", decode_times=False) as data:
        legend = data["class"].attrs["flag_meanings"].split()[1:]
        base = data[["class", "target"]].isel(time=0).load() if "cut" in data else None
        print(f"{'':22s}" + "".join(f"{name:>14s}" for name in legend))
        for at, number in enumerate(data.year.values):
            missed, moved, areas, met = residuals(data.isel(time=at), base, legend)
            entry = report[int(number)]
            rows = {
                "total missed by": [f"{value:.1e}" for value in missed],
                "map off by, cells": [f"{value:.3f}" for value in moved],
                "fine fractions, km2": [f"{entry['fine_area_km2'][name]:,.0f}" for name in legend],
                "class map, km2": [f"{value:,.0f}" for value in areas],
                "input, km2": [f"{entry['host_area_km2'][name]:,.0f}" for name in legend],
                "not made, km2": [f"{entry['cut_area_km2'][name]:,.0f}" for name in legend],
            }
            print(int(number))
            for what, values in rows.items():
                print(f"  {what:20s}" + "".join(f"{value:>14s}" for value in values))
            holds = holds and met
    print("every total is met" if holds else f"a total is missed by more than {LIMIT:g}, or a map by more than a cell")
    raise SystemExit(not holds)


if __name__ == "__main__":
    main()
