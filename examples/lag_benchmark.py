"""How much of the network's time `lag: 1` hides behind a host that computes on another core.

    python examples/lag_benchmark.py [--years 4] [--region -20,60,30,70]

One rank, shipped emulator, 1 degree host cells of a region. Between two steps the host multiplies matrices, on one
thread, for somewhat longer than the network takes. A year's `hidden` seconds are those its tiles took beside the host,
its `wait` is what of them the next step had to wait for: hidden share = 1 - wait / hidden.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np  # noqa: E402
from mpi4py import MPI  # noqa: E402

from ai4land_coupler.component import Component  # noqa: E402
from ai4land_coupler.config import Config, OutputConfig  # noqa: E402
from ai4land_coupler.gridfile import read_grid  # noqa: E402
from ai4land_coupler.provenance import processor  # noqa: E402


def integrate(seconds: float) -> None:
    """What a host does between two steps."""
    matrix = np.random.default_rng(0).random((400, 400))
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        matrix @ matrix


def state(ids: np.ndarray, names: tuple[str, ...], year: int) -> dict[str, np.ndarray]:
    """A made-up mixed state that changes with the year."""
    raw = np.stack([1.2 + np.sin(ids / (k + 7.0) + year / 9.0) for k in range(len(names))])
    return dict(zip(names, raw / raw.sum(axis=0), strict=True))


def measure(years: int, west: float, east: float, south: float, north: float) -> tuple[float, float, float]:
    """Seconds of the tiles beside the host, of waiting for them, and of the first year, which is not hidden."""
    everyone = read_grid("latlon:1.0").grid
    lon, lat = everyone.centre
    grid = everyone.take(np.flatnonzero((lon > west) & (lon < east) & (lat > south) & (lat < north)))
    with tempfile.TemporaryDirectory() as folder:
        config = Config(emulator="igbp-0p05", lag=1, output=OutputConfig(folder=Path(folder)))
        with Component.init(config, MPI.COMM_SELF) as land:
            land.set_grid(grid)
            began = time.perf_counter()
            land.step(2000, state(grid.cell_id, land.legend, 2000))
            first = time.perf_counter() - began
            for year in range(2001, 2001 + years):
                land.step(year, state(grid.cell_id, land.legend, year))
                integrate(1.2 * first)
        report = json.loads((Path(folder) / "report.json").read_text())
    behind = [entry["seconds"] for entry in report["years"][1:]]
    return sum(s["hidden"] for s in behind), sum(s["wait"] for s in behind), first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--years", type=int, default=4)
    parser.add_argument("--region", default="-20,60,30,70", help="west,east,south,north")
    args = parser.parse_args()
    hidden, wait, first = measure(args.years, *(float(part) for part in args.region.split(",")))
    print(f"{processor()}, {os.cpu_count()} cores")
    print(f"first year, not hidden: {first:.2f} s")
    print(f"{args.years} years beside the host: {hidden:.2f} s, waited {wait:.2f} s")
    print(f"hidden share: {100 * (1 - wait / hidden):.1f} %")


if __name__ == "__main__":
    main()
