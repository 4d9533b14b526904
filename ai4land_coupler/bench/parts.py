"""The parts of a step, each beside the time that this machine's memory or arithmetic would need at least."""

import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ai4land_coupler.bench.figures import exponent
from ai4land_coupler.bench.timer import alternate
from ai4land_coupler.comm import MPI, Communicator
from ai4land_coupler.constraint import close, quota
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.exchange import Route
from ai4land_coupler.tally import TileSums
from ai4land_coupler.tiles import Tile, TileCells

MIB = 2**20
PIXELS = 100
ITERATIONS = 3
"""Newton steps of a coarse cell; 2.8 in the mean on real maps."""


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Rates of the machine, seconds of each part with its bound, and how closing grows with the classes.

    job: emulator (folder), cells (coarse cells to close), repeats.
    """
    rates = machine_rates(job["repeats"])
    emulator = Emulator.load(job["emulator"])
    made = {
        "constraint": lambda: constraint(job["cells"], len(emulator.legend), rates, job["repeats"]),
        "aggregation": lambda: aggregation(emulator, rates, job["repeats"]),
        "exchange": lambda: exchange(64800, len(emulator.legend), rates, job["repeats"]),
        "compression": lambda: compression(emulator.base_map()),
    }
    counts = [2, 4, 8]
    grown = [float(np.median(_closing(job["cells"] // 4, k, job["repeats"]))) for k in counts]
    return {
        "rates": rates,
        "parts": {name: function() for name, function in made.items()},
        "classes": {"size": counts, "seconds": grown, "exponent": exponent(counts, grown)},
    }


def machine_rates(repeats: int) -> dict[str, float]:
    """Bytes a second of a copy beyond the caches (read and written), and float64 operations a second, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    source, target = torch.rand(8 * MIB, dtype=torch.float64), torch.empty(8 * MIB, dtype=torch.float64)
    matrix, n = torch.rand(512, 512, dtype=torch.float64), 512
    ways: dict[str, Callable[[], object]] = {"copy": lambda: target.copy_(source), "multiply": lambda: matrix @ matrix}
    seconds = alternate(ways, max(repeats, 3))
    torch.set_num_threads(threads)
    return {
        "bytes_a_second": 2.0 * source.nbytes / min(seconds["copy"]),
        "flops": 2.0 * n**3 / min(seconds["multiply"]),
    }


def constraint(cells: int, classes: int, rates: dict[str, float], repeats: int) -> dict[str, Any]:
    """Closing and class map of mixed coarse cells. Bound: logits read and fractions written once, or the operations of
    an exponential (20), of 5 passes an iteration and of the Hessian, at the rate of a matrix product."""
    seconds = _closing(cells, classes, repeats)
    values = cells * classes * PIXELS
    memory = values * (4 + 8) / rates["bytes_a_second"]
    flops = values * (20 + ITERATIONS * (5 + classes)) / rates["flops"]
    return _part(seconds, memory, flops) | {"coarse_cells": cells, "classes": classes}


def _closing(cells: int, classes: int, repeats: int) -> list[float]:
    logits, area, totals, ids = _problem(cells, classes)

    def once() -> None:
        fractions, _ = close(logits, area, totals)
        quota(fractions, area > 0, ids, totals)

    return alternate({"once": once}, repeats)["once"]


def _problem(
    cells: int, classes: int
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Logits, areas, totals and cell ids of coarse cells whose totals differ from the logits' means."""
    random = np.random.default_rng(1)
    logits = random.normal(0.0, 2.0, (cells, classes, PIXELS)).astype(np.float32)
    totals = random.dirichlet(np.ones(classes), cells)
    ids = np.arange(cells * PIXELS).reshape(cells, PIXELS)
    return logits, np.ones((cells, PIXELS)), totals / totals.sum(axis=1, keepdims=True), ids


def aggregation(emulator: Emulator, rates: dict[str, float], repeats: int) -> dict[str, Any]:
    """Areas of a tile's fractions by class and host cell, 2 x 2 coarse cells each, and the digest of its fields.

    Bound: all of it read once.
    """
    classes, ratio = len(emulator.legend), emulator.coarse.ratio_to(emulator.fine)
    tile = Tile(0, 0, 0, emulator.tile)
    cells = TileCells.of(tile, np.ones((tile.size, tile.size), bool), emulator.fine, ratio)
    side = tile.size // ratio
    hosts = (np.arange(side)[:, None] // 2 * side + np.arange(side) // 2).ravel()[cells.coarse_of_cell]
    kinds, host = np.unique(hosts, return_inverse=True)
    borrowed = np.zeros(cells.coarse.size, bool)
    sums = TileSums(cells, emulator.fine.area_rows, kinds, borrowed, host.astype(np.uint16))
    fractions, drawn = np.full((classes, cells.size), 1.0 / classes), np.ones(cells.size, np.uint8)
    seconds = alternate({"once": lambda: sums(fractions, drawn)}, repeats)["once"]
    moved = cells.size * (8 * classes + 9) / rates["bytes_a_second"]
    return _part(seconds, moved, 2.0 * cells.size * classes / rates["flops"])


def exchange(cells: int, classes: int, rates: dict[str, float], repeats: int) -> dict[str, Any]:
    """Rows of host cells by a route on one rank. Bound: each read and written once."""
    comm = Communicator.of(MPI.COMM_SELF)
    order = np.random.default_rng(1).permutation(cells)
    route = Route.push(comm, order, np.zeros(cells, np.int64), order)
    rows = np.full((cells, classes), 1.0 / classes)
    seconds = alternate({"once": lambda: route(comm, rows)}, repeats)["once"]
    comm.free()
    return _part(seconds, 2 * rows.nbytes / rates["bytes_a_second"], 0.0)


def compression(classes: NDArray[np.uint8]) -> dict[str, Any]:
    """zlib's level 1 on a class map: the least that writing a year's two maps on one thread costs, twice this."""
    part = classes[: max(classes.shape[0] // 4, 1)].tobytes()
    began = time.process_time()
    packed = len(zlib.compress(part, 1))
    took = time.process_time() - began
    return {"seconds": 2 * took * classes.nbytes / len(part), "ratio": len(part) / packed}


def _part(seconds: list[float], memory: float, flops: float) -> dict[str, Any]:
    median = float(np.median(seconds))
    bound = max(memory, flops)
    return {
        "seconds": median, "raw": seconds, "bound_s": bound, "times_bound": median / bound,
        "bound_by": "memory" if memory >= flops else "arithmetic",
    }  # fmt: skip
