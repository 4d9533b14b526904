"""Bad geometry on one rank of three, the host a cubed sphere: prints as JSON what every rank got, and after how long.

usage: bad_grid.py EMULATOR ENGINE
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI

sys.path.insert(0, str(Path(__file__).parents[2] / "unit"))

from regrid_hosts import cubed_sphere

from ai4land_coupler.component import Component
from ai4land_coupler.config import Config, RegridConfig
from ai4land_coupler.errors import CouplerError
from ai4land_coupler.grids import HostGrid

COMM = MPI.COMM_WORLD
LAST = COMM.size - 1
SPHERE = cubed_sphere(16)
MINE = np.flatnonzero(np.random.default_rng(3).integers(0, COMM.size, SPHERE.size) == COMM.rank)


def spoil(case: str, lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corners of this rank's cells, and which of them it gives, with the fault on the last rank."""
    kept = np.arange(MINE.size)
    if COMM.rank != LAST:
        return lon, lat, kept
    if case == "bow_tie":
        lon[5, [1, 2]], lat[5, [1, 2]] = lon[5, [2, 1]], lat[5, [2, 1]]
    if case == "degenerate":
        lon[5], lat[5] = lon[5, [0, 1, 0, 1]], lat[5, [0, 1, 0, 1]]
    if case == "off_the_sphere":
        lat[5, 2] = 90.1
    if case == "infinite":
        lon[5, 2] = np.inf
    if case == "radians_here_alone":
        lon, lat = np.radians(lon), np.radians(lat)
    if case == "other_corners_than_the_neighbours":
        lon += 0.3
    if case == "a_neighbours_cell":
        lon[5], lat[5] = SPHERE.vertex_lon[5], SPHERE.vertex_lat[5]
    if case == "missing":
        kept = kept[1:]
    return lon, lat, kept


def attempt(case: str, engine: str, coverage: str) -> None:
    """Set the grid on all ranks and keep what each got."""
    start, got = time.monotonic(), (0, "")
    regrid = RegridConfig(engine=engine, coverage=coverage)
    with Component.init(Config(emulator=sys.argv[1], regrid=regrid), COMM) as land:
        lon, lat = SPHERE.vertex_lon[MINE].copy(), SPHERE.vertex_lat[MINE].copy()
        if case == "radians":
            lon, lat = np.radians(lon), np.radians(lat)
        lon, lat, kept = spoil(case, lon, lat)
        try:
            land.set_grid(land.together(lambda: HostGrid(MINE[kept] + 1, lon[kept], lat[kept], np.ones(kept.size))))
        except CouplerError as error:
            got = (int(error.status), str(error))
    everywhere = COMM.gather((*got, time.monotonic() - start))
    if COMM.rank == 0:
        FOUND[f"{case}/{coverage}"] = everywhere


FOUND: dict[str, list] = {}
for case in (
    "good", "bow_tie", "degenerate", "off_the_sphere", "infinite", "radians", "radians_here_alone",
    "other_corners_than_the_neighbours", "a_neighbours_cell", "missing",
):  # fmt: skip
    attempt(case, sys.argv[2], "any")
attempt("missing", sys.argv[2], "global")
attempt("good", sys.argv[2], "global")
names = {"spoilt": COMM.bcast(int(MINE[5]) + 1 if COMM.rank == LAST else None, root=LAST)}
if COMM.rank == 0:
    print(json.dumps({"found": FOUND, **names}))
