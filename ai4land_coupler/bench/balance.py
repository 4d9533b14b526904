"""How evenly the tiles of a 1 km globe fall on its workers."""

from typing import Any

from ai4land_coupler.emulator import Emulator
from ai4land_coupler.scale.balance import balance, tiles_with_land

TILE = 400
STEP = 0.01


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Tiles of the largest worker and their mean, for job["workers"] workers and the land of job["emulator"]."""
    tiles = tiles_with_land(Emulator.load(job["emulator"]).base_map() > 0, TILE, STEP)
    found, land = balance(tiles, job["workers"]), int(tiles.sum())
    return {
        "workers": job["workers"], "tiles": land, "largest": int(found.largest), "mean": float(found.mean),
        "at_most": -(-land // job["workers"]),
    }  # fmt: skip
