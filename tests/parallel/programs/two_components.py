"""Two components at once on overlapping communicators, their hooks in turn; prints on rank 0 whether all is as alone.

usage: two_components.py EMULATOR

One is on all ranks, the other, with `lag: 1`, on all but the last in reverse order, and on the last by itself.
"""

import sys

from deal import cells, deal, state
from mpi4py import MPI

from ai4land_coupler.component import Component
from ai4land_coupler.config import Config
from ai4land_coupler.grids import HostGrid

WORLD = MPI.COMM_WORLD


def own(comm: MPI.Comm) -> HostGrid:
    """This rank's cells."""
    return cells().take(deal("random", comm.rank, comm.size))


def step(land: Component, grid: HostGrid, year: int) -> None:
    land.step(year, state(grid.cell_id, land.legend, year))


def fields(land: Component) -> list[bytes]:
    return [land.get(grid, name).tobytes() for grid in ("fine", "host") for name in (*land.legend, "year")]


def alone(emulator: str, comm: MPI.Comm, years: range) -> list[bytes]:
    with Component.init(Config(emulator=emulator), comm) as land:
        land.set_grid(own(comm))
        for year in years:
            step(land, own(comm), year)
        return fields(land)


def main(emulator: str) -> None:
    part = WORLD.Split(int(WORLD.rank == WORLD.size - 1), -WORLD.rank)
    one, other = (
        Component.init(Config(emulator=emulator), WORLD),
        Component.init(Config(emulator=emulator, lag=1), part),
    )
    other.set_grid(own(part))
    one.set_grid(own(WORLD))
    for year in (2001, 2002, 2003):
        step(other, own(part), year + 10)
        step(one, own(WORLD), year)
    found = fields(one), fields(other)
    other.finalize()
    one.finalize()
    same = found == (alone(emulator, WORLD, range(2001, 2004)), alone(emulator, part, range(2011, 2013)))
    everywhere = WORLD.allreduce(same, op=MPI.LAND)
    if WORLD.rank == 0:
        print("same" if everywhere else "not the same")


if __name__ == "__main__":
    main(sys.argv[1])
