"""How evenly the tiles of a 1 km globe fall on its workers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.emulator import Emulator
from ai4land_coupler.tiles import deal

TILE = 400
STEP = 0.01


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Tiles of the largest worker and their mean, for job["workers"] workers and the land of job["emulator"]."""
    land = land_tiles(Emulator.load(job["emulator"]).base_map() > 0)
    load = np.bincount(deal(land, job["workers"]), minlength=job["workers"])
    return {
        "workers": job["workers"], "tiles": land, "largest": int(load.max()), "mean": float(load.mean()),
        "at_most": -(-land // job["workers"]),
    }  # fmt: skip


def land_tiles(land: NDArray[np.bool_]) -> int:
    """Tiles of TILE x TILE cells of STEP degrees that hold land of a coarser map (nlat, nlon)."""
    edge = TILE * STEP
    rows, columns = round(180 / edge), round(360 / edge)
    south = np.arange(rows) * land.shape[0] // rows
    west = np.arange(columns) * land.shape[1] // columns
    return int(np.logical_or.reduceat(np.logical_or.reduceat(land, south, axis=0), west, axis=1).sum())
