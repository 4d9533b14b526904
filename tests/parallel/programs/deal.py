"""A host whose cells are dealt as told; rank 0 writes all it gets back, in order of cell id.

usage: deal.py EMULATOR OUT.npz DEAL [--years A,B,..] [--restart-to F] [--restart-from F] [--subset]
       [--grid GRID] [--engine ENGINE] [--cache FOLDER] [--lag 1] [--bad YEAR] [--hold] [--mode MODE] [--backward]
"""

import argparse
from dataclasses import replace

import numpy as np
from mpi4py import MPI

from ai4land_coupler.component import Component
from ai4land_coupler.config import Config, ConstraintConfig, OutputConfig, RegridConfig
from ai4land_coupler.gridfile import read_grid
from ai4land_coupler.grids import HostGrid

NLAT, NLON = 15, 30


def cells() -> HostGrid:
    """A global 12 degree grid with a made-up land fraction."""
    south, west = (x.ravel() for x in np.meshgrid(-90 + 12.0 * np.arange(NLAT), 12.0 * np.arange(NLON), indexing="ij"))
    land = np.clip(0.6 + 0.5 * np.sin(west / 20) * np.cos(south / 15), 0, 1)
    return HostGrid(
        np.arange(1, NLAT * NLON + 1) * 3,
        np.stack([west, west + 12, west + 12, west], axis=1),
        np.stack([south, south, south + 12, south + 12], axis=1),
        land,
    )


def with_land(spec: str) -> HostGrid:
    """A grid by name, as `ai4land run --grid` takes it, with a made-up land fraction."""
    grid = read_grid(spec).grid
    lon, lat = grid.centre
    return replace(grid, land_fraction=np.clip(0.6 + 0.5 * np.sin(lon / 20) * np.cos(lat / 15), 0, 1))


def deal(how: str, rank: int, size: int, n: int = NLAT * NLON) -> np.ndarray:
    """Which of n cells a rank holds, in which order."""
    if how == "bands":
        return np.arange(n * rank // size, n * (rank + 1) // size)
    if how == "random":
        shuffled = np.random.default_rng(5).permutation(n)
        return shuffled[np.random.default_rng(6).integers(0, size, n)[shuffled] == rank]
    if how == "blocks":
        return np.flatnonzero(np.arange(n) // 25 % size == rank)
    if how == "last":
        return np.arange(n) if rank == size - 1 else np.empty(0, int)
    raise SystemExit(f"unknown deal {how}")


def state(ids: np.ndarray, names: tuple[str, ...], year: int) -> dict[str, np.ndarray]:
    """A made-up state that changes with the year, with pure cells and absent classes among it."""
    raw = np.stack([1 + np.sin(ids / (k + 7.0) + (year - 2000) / 9.0) for k in range(len(names))])
    raw[1, ids % 5 == 0] = 0
    raw[1:, ids % 11 == 0] = 0
    return dict(zip(names, raw / raw.sum(axis=0), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("emulator")
    parser.add_argument("out")
    parser.add_argument("deal")
    parser.add_argument("--years", default="2001,2003")
    parser.add_argument("--restart-to")
    parser.add_argument("--restart-from")
    parser.add_argument("--output")
    parser.add_argument("--grid", help="a grid file, or a 12 degree grid")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--cache")
    parser.add_argument("--lag", type=int, default=0)
    parser.add_argument("--bad", type=int, help="a year in which the last rank puts NaN")
    parser.add_argument("--hold", action="store_true")
    parser.add_argument("--mode", default="level", help="constraint.mode")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--backward", action="store_true")
    parser.add_argument("--subset", action="store_true", help="leave out world rank 0")
    args = parser.parse_args()
    world = MPI.COMM_WORLD
    comm = world.Split(int(args.subset and world.rank == 0), world.rank)
    if not (args.subset and world.rank == 0):
        host(args, comm)
    world.Barrier()


def host(args: argparse.Namespace, comm: MPI.Comm) -> None:
    everyone = with_land(args.grid) if args.grid else cells()
    mine = deal(args.deal, comm.rank, comm.size, everyone.size)
    grid = everyone.take(mine)
    regrid = RegridConfig(engine=args.engine, cache=args.cache)
    output = OutputConfig(folder=args.output, fractions="all") if args.output else None
    config = Config(
        precision=args.precision,
        emulator=args.emulator, regrid=regrid, output=output, lag=args.lag,
        on_bad_input="hold" if args.hold else "fail", constraint=ConstraintConfig(mode=args.mode),
        time="backward" if args.backward else "forward",
    )  # fmt: skip
    with Component.init(config, comm) as land:
        land.set_grid(grid)
        if args.restart_from:
            land.read_restart(args.restart_from)
        for year in (int(y) for y in args.years.split(",") if y):
            given = state(grid.cell_id, land.legend, year)
            if year == args.bad and comm.rank == comm.size - 1:
                given[land.legend[0]][np.flatnonzero(grid.land_fraction > 0)[0]] = np.nan
            land.step(year, given)
            assert len(set(comm.allgather(land.held))) == 1
            assert (land.held is not None) == (year == args.bad)
        if args.restart_to:
            land.write_restart(args.restart_to)
        got = {}
        for name in ("fine", "host"):
            ids = np.concatenate(comm.allgather(land.get(name, "cell_id")))
            assert ids.size == np.unique(ids).size, "a cell came back twice"
            extra = ("class", "filled") if name == "fine" else ()
            for field in (*land.legend, *extra, "lon", "lat", "area", "land_fraction"):
                values = np.concatenate(comm.allgather(land.get(name, field)))
                got[f"{name}_{field}"] = values[np.argsort(ids)]
            got[f"{name}_cell_id"] = np.sort(ids)
        got["year"] = land.get("fine", "year")
        if comm.rank == 0:
            np.savez(args.out, **got)


if __name__ == "__main__":
    main()
