"""One run of `ai4land selfcheck`: a host of made-up states, and a hash of every field it is served.

usage: mpirun -n N python -m ai4land_coupler.selfcheck_worker JOB.json
"""

import functools
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.comm import MPI, Communicator
from ai4land_coupler.component import Component
from ai4land_coupler.config import Config
from ai4land_coupler.errors import CouplerError, UsageError
from ai4land_coupler.gridfile import read_grid
from ai4land_coupler.grids import HostGrid
from ai4land_coupler.record import contents_hash

DEALS = ("bands", "blocks", "random")
SEEDS = np.array([0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89], dtype=np.uint64)


@dataclass(frozen=True)
class Job:
    """What a run does: deal the cells of `grid` over its ranks, read `resume`, step through `years`.

    leave_out: world rank 0 takes no part; resume may be empty; a restart goes into `folder` after each step, the hashes
    to `out`.
    """

    config: str
    grid: str
    deal: str
    leave_out: bool
    years: tuple[int, ...]
    resume: str
    folder: str
    out: str

    @classmethod
    def read(cls, path: Path) -> "Job":
        """From JSON."""
        words = json.loads(path.read_text())
        return cls(**{**words, "years": tuple(words["years"])})


def deal(how: str, grid: HostGrid, rank: int, size: int) -> NDArray[np.int64]:
    """Which cells a rank holds, and in which order; "random" leaves the last of three or more ranks without any."""
    n = grid.size
    if how == "bands":
        return np.arange(n * rank // size, n * (rank + 1) // size)
    if how == "blocks":
        lon, lat = (_quarters(x) for x in grid.centre)
        return np.flatnonzero((lon + 3 * lat) % size == rank)[::-1]
    if how == "random":
        order = np.random.default_rng(n).permutation(n)
        owner = np.random.default_rng(size).integers(0, size if size < 3 else size - 1, n)
        return order[owner[order] == rank]
    raise UsageError(f"unknown deal {how!r}; deals are {', '.join(DEALS)}")


def _quarters(x: NDArray[np.float64]) -> NDArray[np.int64]:
    least, most = x.min(initial=180.0), x.max(initial=-180.0)
    return np.floor(4 * (x - least) / max(most - least + 1e-9, 1e-9)).astype(np.int64)


def state(names: tuple[str, ...], grid: HostGrid, year: int, of_cell: bool) -> dict[str, NDArray[np.float64]]:
    """A made-up state (n,) a class that changes with the year, with pure cells and absent classes among it."""
    ids = grid.cell_id
    raw = np.stack([1.01 + np.sin(ids / (k + 7.0) + (year - 2000) / 9.0) for k in range(len(names))])
    raw[1:2, ids % 5 == 0] = 0
    raw[1:, ids % 11 == 0] = 0
    share = raw / raw.sum(axis=0) * (grid.land_fraction if of_cell else 1.0)
    return dict(zip(names, share, strict=True))


def hash_cells(comm: Communicator, cell_id: NDArray[np.float64], values: NDArray[np.float64]) -> str:
    """A hash of values on the cells of all ranks that no deal of them changes. Collective.

    Each cell's id and bits are mixed to four words by splitmix64, and the words added up modulo 2^64.
    """
    ids, bits = (np.ascontiguousarray(x, dtype=np.float64).view(np.uint64) for x in (cell_id, values))
    words = np.array([_mixed(_mixed(ids + seed) + bits).sum(dtype=np.uint64) for seed in SEEDS], dtype=np.uint64)
    return hashlib.sha256(comm.sum(words).tobytes()).hexdigest()


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def served(comm: Communicator, land: Component) -> dict[str, str]:
    """A hash of every field that `get` serves. Collective."""
    hashes = {}
    for grid, more in (("fine", ("class", "filled", "lon", "lat", "area")), ("host", ("area",))):
        ids = land.get(grid, "cell_id")
        for name in (*land.emulator.legend, *more):
            hashes[f"{grid} {name}"] = hash_cells(comm, ids, land.get(grid, name))
    return hashes


def run(job: Job, world: "MPI.Comm") -> Mapping[str, object]:
    """fields: (year served, {field: hash}) after each call; restarts: (year stepped to, {name: hash}). Collective."""
    fields: list[tuple[int, dict[str, str]]] = []
    restarts: list[tuple[int, dict[str, str]]] = []
    comm = Communicator.of(world)
    config = Config.parse(job.config, Path(job.folder))
    name = "restart, lag 1" if config.lag else "restart"
    with Component.init(config, world) as land:
        everyone = land.together(lambda: read_grid(job.grid).grid)
        own = land.together(lambda: everyone.take(deal(job.deal, everyone, comm.rank, comm.size)))
        land.set_grid(own)
        if job.resume:
            land.read_restart(job.resume)
            fields.append((int(land.get("fine", "year")[0]), served(comm, land)))
        for year in job.years:
            land.step(year, state(land.legend, own, year, config.state.fraction_of == "cell"))
            fields.append((int(land.get("fine", "year")[0]), served(comm, land)))
            kept = Path(job.folder) / f"restart_{year}.nc"
            land.write_restart(kept)
            hashed = comm.bcast(land.together(functools.partial(contents_hash, kept) if comm.rank == 0 else str))
            restarts.append((year, {name: hashed}))
    comm.free()
    return {"fields": fields, "restarts": restarts}


def main() -> int:
    """Run the job that the command line names; the exit code."""
    job, world = Job.read(Path(sys.argv[1])), MPI.COMM_WORLD
    out = job.leave_out and world.rank == 0
    comm = world.Split(int(out), world.rank)
    try:
        found = None if out else run(job, comm)
    except CouplerError as error:
        if comm.rank == 0:
            print(f"ai4land: {error}", file=sys.stderr)
        return int(error.status)
    if found is not None and comm.rank == 0:
        Path(job.out).write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
