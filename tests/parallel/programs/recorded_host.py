"""A host that does everything a host may, good and bad, and prints on rank 0 the hash of all it was given.

usage: recorded_host.py CONFIG FOLDER [--kill] [--limit BYTES]

--kill: rank 0 kills itself after two good steps; --limit: no file of rank 0 can grow beyond that, from the first step.
"""

import hashlib
import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np
from deal import cells, deal, state
from mpi4py import MPI

from ai4land_coupler.component import Component
from ai4land_coupler.errors import CouplerError
from ai4land_coupler.grids import HostGrid

SIGNALLING_NAN = np.array([0x7FF0DEADBEEF0001], dtype=np.uint64).view(np.float64)[0]


def attempt(land: Component, call: str, *arguments: object) -> int:
    """Make a call; its status as a C host would get it."""
    try:
        getattr(land, call)(*arguments)
    except CouplerError as error:
        return int(error.status)
    return -1 if land.held else 0


def main() -> None:
    config, folder = Path(sys.argv[1]), Path(sys.argv[2])
    comm = MPI.COMM_WORLD
    grid = cells().take(deal("random", comm.rank, comm.size))
    ids = np.r_[grid.cell_id[:1], grid.cell_id[:-1]]
    twice = HostGrid(ids, grid.vertex_lon, grid.vertex_lat, grid.land_fraction)
    told: list[object] = []
    with Component.init(config, comm) as land:
        told.append(attempt(land, "step", 2000))
        told.append(attempt(land, "set_grid", twice))
        told.append(attempt(land, "set_grid", grid))
        if "--limit" in sys.argv and comm.rank == 0:
            most = int(sys.argv[sys.argv.index("--limit") + 1])
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        good = {year: state(grid.cell_id, land.legend, year) for year in range(2001, 2008)}
        told.append(attempt(land, "step", 2001, good[2001]))
        told.append(attempt(land, "step", 2002, good[2002]))
        if "--kill" in sys.argv:
            comm.Barrier()
            if comm.rank == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            comm.Barrier()
        bad = {name: values.copy() for name, values in good[2003].items()}
        if comm.rank == comm.size - 1:
            bad["forest"][:2] = np.inf, SIGNALLING_NAN
            bad["barren"][1] = -0.0
        told.append(attempt(land, "step", 2003, bad))
        told.append(attempt(land, "step", 2003, good[2003]))
        if comm.rank == comm.size - 1:
            attempt(land, "put", "forset", np.zeros(1))
        some = dict(good[2004])
        if comm.rank == comm.size - 1:
            del some["cropland"]
        told.append(attempt(land, "step", 2004, some))
        told.append(attempt(land, "step", 1999, good[2004]))
        told.append(attempt(land, "step", 2004, good[2004]))
        told.append(attempt(land, "write_restart", folder / "kept.nc"))
        told.append(attempt(land, "step", 2005, good[2005]))
        told.append(attempt(land, "read_restart", folder / "kept.nc"))
        told.append(attempt(land, "read_restart", folder / "none.nc"))
        told.append(attempt(land, "step", 2006, good[2006]))
        fields = [land.get(grid_name, name).tobytes() for grid_name in ("fine", "host") for name in land.legend]
        told.append(hashlib.sha256(b"".join(fields)).hexdigest())
    everyone = comm.gather(told)
    if comm.rank == 0:
        print(everyone)


if __name__ == "__main__":
    main()
