"""What `ai4land plan` prints."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ai4land_coupler.emulator import Emulator
from ai4land_coupler.gridfile import read_grid
from ai4land_coupler.scale import plans
from ai4land_coupler.scale.balance import Balance, balance, tiles_with_land

WORKERS = tuple(2**n for n in range(13))


def plan(
    emulator: str, grid: str, ranks: Sequence[int], step: float, tile: int, tiles: int, threads: int, out: Path | None
) -> None:
    """Print the balance of a finer globe, the plans of simulated ranks, and a slice of that globe; JSON in `out`."""
    made = Emulator.load(emulator)
    has_land = tiles_with_land(made.base_map() > 0, tile, step)
    found = [balance(has_land, workers) for workers in WORKERS]
    _print_balance(found, step, tile)
    host = read_grid(grid).grid if ranks else None
    planned = {n: plans.plan(made, host, n) for n in ranks} if host is not None else {}
    if planned:
        _print_plans(planned, made, grid)
    report: dict[str, object] = {
        "balance": [asdict(one) | {"mean": one.mean, "ratio": one.ratio} for one in found],
        "plans": {n: [asdict(one) for one in of_ranks] for n, of_ranks in planned.items()},
    }
    if tiles:
        from ai4land_coupler.scale import globe

        run = globe.measure(made, step, tile, tiles, threads)
        globe.show(run)
        report["slice"] = asdict(run) | {"globe_year_s": run.globe_year_s}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n")


def _print_balance(found: Sequence[Balance], step: float, tile: int) -> None:
    first = found[0]
    title = f"{step:g} degree, tiles of {tile}: {first.tiles} with land, {first.sea} of the sea"
    table = Table(title=title, title_justify="left")
    for column in ("workers", "tiles of the largest", "mean", "largest / mean"):
        table.add_column(column, justify="right")
    for one in found:
        table.add_row(str(one.workers), str(one.largest), f"{one.mean:.3f}", f"{one.ratio:.4f}")
    Console().print(table)


def _print_plans(planned: dict[int, list[plans.RankPlan]], emulator: Emulator, grid: str) -> None:
    title = f"plans for {grid} and {emulator.name}, largest rank / mean, MB; beside the base map of all ranks, "
    table = Table(title=title + f"{emulator.base_map().nbytes / 1e6:.0f} MB", title_justify="left")
    columns = {"plan": "plan_bytes", "fields": "field_bytes", "received once": "setup_bytes", "a step": "step_bytes"}
    for column in ("ranks", "tiles", *columns):
        table.add_column(column, justify="right")
    for ranks, of_ranks in planned.items():
        tiles = [one.tiles for one in of_ranks]
        row = [f"{max(tiles)} / {np.mean(tiles):.2f}"]
        for name in columns.values():
            values = [getattr(one, name) / 1e6 for one in of_ranks]
            row.append(f"{max(values):.2f} / {np.mean(values):.2f}")
        table.add_row(str(ranks), *row)
    Console().print(table)
