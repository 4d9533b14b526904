"""ESMF on some ranks of the world, or one over all; rank 0 of those writes the overlap it gets, each rank its error.

usage: esmf_ranks.py MODE OUT.npz SEED
  self        rank 0 of the world alone, the others wait in a barrier
  collective  all ranks of the world, cells dealt at random
  subset      the same on all ranks but 0 of the world, which waits in a barrier
  each        every rank but 0 makes the overlap of its own targets with all sources, by itself
  bow-tie     as collective, where the last rank has a cell whose edges cross
  twice       as collective, where two ranks give the same cell
  late        as collective, after rank 0 has used ESMF by itself
"""

import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI

sys.path.insert(0, str(Path(__file__).parents[2] / "unit"))

from regrid_hosts import hexagons, lattice

from ai4land_coupler.comm import Communicator
from ai4land_coupler.errors import CouplerError
from ai4land_coupler.grids import HostGrid
from ai4land_coupler.regrid import Overlap, esmf

SOURCE = hexagons(4)
TARGET = lattice(np.arange(-60.0, 81.0, 10.0), np.arange(-180.0, 181.0, 10.0))


def mine(grid: HostGrid, comm: Communicator, seed: int) -> HostGrid:
    """The cells dealt to this rank, in random order; with three ranks or more, one gets no cell."""
    random = np.random.default_rng(seed)
    owner = random.integers(0, comm.size - (comm.size > 2), grid.size)
    return grid.take(random.permutation(grid.size)[owner == comm.rank])


def crossed(grid: HostGrid) -> HostGrid:
    """One more cell, whose edges cross."""
    lon, lat = grid.vertex_lon.copy(), grid.vertex_lat.copy()
    lon[0], lat[0] = np.resize([10.0, 20.0, 10.0, 20.0], lon.shape[1]), np.resize([1.0, 1.0, 9.0, 9.0], lat.shape[1])
    return HostGrid(grid.cell_id, lon, lat, grid.land_fraction)


def made(mode: str, comm: Communicator, seed: int) -> Overlap:
    source, target = mine(SOURCE, comm, seed), mine(TARGET, comm, seed + 1)
    if mode == "each":
        own = esmf.engine().between(SOURCE, target.sorted_by_id())
        row, col, area = map(comm.gather, (np.sort(target.cell_id)[own.row] - 1, own.col, own.area))
        return Overlap.from_triplets(row, col, area, TARGET.size, SOURCE.size)
    if mode == "bow-tie" and comm.rank == comm.size - 1:
        target = crossed(TARGET.take(np.array([5])))
    if mode == "twice":
        source = SOURCE.take(np.arange(7))
    if mode == "late" and comm.rank == 0:
        assert esmf.lacks() is None
    return esmf.collective_overlap(comm, source, target)


def main(mode: str, out: str, seed: int) -> None:
    world = MPI.COMM_WORLD
    waits = (world.rank == 0) == (mode in ("subset", "each")) if mode in ("subset", "each", "self") else False
    part = world.Split(int(waits), world.rank)
    if not waits:
        comm = Communicator(part)
        try:
            overlap = esmf.engine().between(SOURCE, TARGET) if mode == "self" else made(mode, comm, seed)
            if comm.rank == 0:
                np.savez(out, row=overlap.row, col=overlap.col, area=overlap.area)
        except CouplerError as error:
            Path(f"{out}.{world.rank}").write_text(f"{type(error).__name__}: {error}")
        comm.free()
    world.Barrier()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
