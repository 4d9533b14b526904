"""Every rank holds some tiles of a made-up year; a file is written a case, and what each rank hears goes to stdout.

usage: write_year.py FORMAT FOLDER CASE...     into FOLDER/CASE; formats: netcdf, zarr; cases: good, no_folder,
                                               full_disk, good_again, fails_on_last_rank,
                                               wrong_shape_on_last_rank
"""

import json
import resource
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from mpi4py import MPI

from ai4land_coupler.comm import Communicator
from ai4land_coupler.errors import CouplerError
from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.output import YearWriter
from ai4land_coupler.tiles import all_tiles, deal
from ai4land_coupler.zarrout import ZarrWriter

EMULATOR = SimpleNamespace(
    name="small",
    legend=("forest", "grassland", "cropland"),
    fine=RegularGrid(80, 160),
    coarse=RegularGrid(8, 16),
    tile=40,
)
YEAR = 2001
TILES = [tile for tile in all_tiles(EMULATOR.fine, EMULATOR.coarse, EMULATOR.tile) if tile.index != 3]


def fields(year: int) -> dict[str, np.ndarray]:
    """What the file must hold, (80, 160) each: every value differs from its neighbours', nothing in tile 3."""
    n = np.arange(80 * 160).reshape(80, 160) + year
    missing = np.zeros((80, 160), bool)
    missing[:40, 120:] = True
    made = {"class": (n % 4).astype(np.uint8), "filled": (n // 7 % 3).astype(np.uint8)}
    made |= {name: np.where(n % 4, np.sin(n + k), np.nan) for k, name in enumerate(EMULATOR.legend)}
    return {name: np.where(missing, 0 if values.dtype == np.uint8 else np.nan, values).astype(values.dtype)
            for name, values in made.items()}  # fmt: skip


def coarse() -> dict[str, np.ndarray]:
    """target, residual and unplaced (3, 8, 16), NaN in a cell."""
    target = np.random.default_rng(1).random((3, 8, 16))
    target[:, 2, 5] = np.nan
    return {"target": target, "residual": 1e-14 * target, "unplaced": 1e9 * target}


WRITERS = {"netcdf": (YearWriter, 60_000), "zarr": (ZarrWriter, 5_000)}
"""And how large a file may be where the disk is full."""


def write(comm: Communicator, form: str, folder: Path, case: str) -> str:
    """What this rank hears of writing the year: the path, or status and text of the error."""
    last, (made, room) = comm.rank == comm.size - 1, WRITERS[form]
    values = fields(YEAR)

    def local(tile):
        if case == "fails_on_last_rank" and last:
            raise MemoryError("no room for a tile")
        size = slice(0, 39 if case == "wrong_shape_on_last_rank" and last else 40)
        return {name: field[tile.rows, tile.cols][size] for name, field in values.items()}

    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    if case == "full_disk" and comm.rank == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, unlimited[1]))
    try:
        writer = made(folder, EMULATOR, {"note": "a test"}, 1, (YEAR,))
        return str(writer.write(comm, YEAR, TILES, deal(len(TILES), comm.size), local, coarse()))
    except CouplerError as error:
        return f"{int(error.status)} {error}"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)


def main() -> None:
    comm = Communicator.of(MPI.COMM_WORLD)
    heard = {}
    for case in sys.argv[3:]:
        heard[case] = MPI.COMM_WORLD.gather(write(comm, sys.argv[1], Path(sys.argv[2]) / case, case))
    comm.free()
    if MPI.COMM_WORLD.rank == 0:
        print(json.dumps(heard))


if __name__ == "__main__":
    main()
