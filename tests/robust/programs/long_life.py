"""Many steps of one component, then many components one after the other. Prints JSON: what the process holds.

usage: long_life.py EMULATOR FOLDER STEPS CYCLES LAG
"""

import ctypes
import gc
import json
import os
import sys
import threading
from pathlib import Path

import numpy as np
from mpi4py import MPI

from ai4land_coupler.component import Component
from ai4land_coupler.config import Config, OutputConfig
from ai4land_coupler.grids import HostGrid, RegularGrid

COMM = MPI.COMM_WORLD
PAGE = os.sysconf("SC_PAGE_SIZE")
LIBC = ctypes.CDLL(None)


def held() -> dict[str, float]:
    """Resident bytes, open files, threads of this process, and a number that grows with communicators not freed."""
    for thread in threading.enumerate():  # with lag: 1 a year may be in the making
        if thread is not threading.main_thread():
            thread.join()
    gc.collect()
    LIBC.malloc_trim(0)
    spare = COMM.Dup()
    number = spare.py2f()
    spare.Free()
    return {
        "resident": int(Path("/proc/self/statm").read_text().split()[1]) * PAGE,
        "files": len(os.listdir("/proc/self/fd")),
        "tasks": len(os.listdir("/proc/self/task")),
        "threads": threading.active_count(),
        "communicator": number,
    }


def host() -> HostGrid:
    """This rank's part of 16 coarse cells of one tile."""
    grid = RegularGrid(8, 16)
    row, column = (x.ravel() for x in np.meshgrid(np.arange(4, 8), np.arange(8, 12), indexing="ij"))
    cells = (row * grid.nlon + column)[COMM.rank :: COMM.size]
    return HostGrid(cells + 1, *grid.corners(cells), np.full(cells.size, 0.7))


def state(n: int, names: tuple[str, ...], year: int) -> dict[str, np.ndarray]:
    """Changes from year to year, all classes in it."""
    raw = np.stack([2 + np.sin(np.arange(n) * (k + 1) + year) for k in range(len(names))])
    return dict(zip(names, raw / raw.sum(axis=0), strict=True))


def main() -> None:
    emulator, folder, steps, cycles, lag = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:6])
    cells = host()
    found: dict[str, list[dict[str, float]]] = {"steps": [], "cycles": []}
    with Component.init(Config(emulator=emulator, lag=lag), COMM) as land:
        land.set_grid(cells)
        for year in range(steps):
            land.step(year, state(cells.size, land.legend, year))
            if year % 10 == 9:
                found["steps"].append(held())
    for cycle in range(cycles):
        output = OutputConfig(folder=folder / "out", fractions="all", behind=int(cycle % 5 == 0))
        with Component.init(Config(emulator=emulator, lag=lag, output=output), COMM) as land:
            land.set_grid(cells)
            if cycle:
                land.read_restart(folder / "restart.nc")
            year = cycle + 1
            land.step(year, state(cells.size, land.legend, year))
            land.write_restart(folder / "restart.nc")
        found["cycles"].append(held())
    if COMM.rank == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
