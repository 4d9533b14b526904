"""What a rank holds and receives for a global 1 degree host on the shipped emulator; JSON of all ranks from rank 0.

usage: traffic.py DEAL
"""

import json
import sys

import numpy as np
from deal import deal
from mpi4py import MPI

from ai4land_coupler.component import Component
from ai4land_coupler.config import Config
from ai4land_coupler.domain import Domain
from ai4land_coupler.gridfile import read_grid
from ai4land_coupler.tilework import TileFields


def held(thing: object) -> int:
    """Bytes of all arrays in a frozen object, each counted once."""
    found: dict[int, int] = {}

    def look(value: object) -> None:
        if isinstance(value, np.ndarray):
            owner = value if value.base is None else value.base
            found[id(owner)] = owner.nbytes if isinstance(owner, np.ndarray) else value.nbytes
        elif isinstance(value, tuple | list):
            for item in value:
                look(item)
        elif hasattr(value, "__dataclass_fields__"):
            for item in vars(value).values():
                look(item)

    look(thing)
    return sum(found.values())


def exchange(comm, domain: Domain, classes: int) -> None:
    """All that crosses ranks in a step, with made-up fields."""
    state = np.full((classes, domain.hosts.own.size), 1.0 / classes)
    totals = domain.placement.totals(comm, domain.placement.land.apply(domain.hosts.to_tiles(comm, state)))
    for work in domain.work(totals):
        assert work.totals.shape[0] == classes
    fields = [TileFields(np.zeros((classes, c.size)), np.zeros(c.size, np.uint8), np.zeros(0)) for c in domain.own]
    pairs = zip(domain.to_host, fields, strict=True)
    partial = [to(tile.fractions, tile.classes).by_host for to, tile in pairs]
    domain.columns(comm, np.concatenate([np.empty((0, classes)), *partial]))


world = MPI.COMM_WORLD
everyone = read_grid("latlon:1.0").grid
with Component.init(Config(emulator="igbp-0p05"), world) as land:
    comm = land._comm
    assert comm is not None
    before = comm.received
    land.set_grid(everyone.take(deal(sys.argv[1], world.rank, world.size, everyone.size)))
    domain = land._gridded().domain
    at_start = comm.received - before
    exchange(comm, domain, len(land.emulator.legend))
    found = {
        "set_grid": at_start,
        "step": comm.received - before - at_start,
        "held": held(domain),
        "tiles": len(domain.own),
        "fine": domain.fine_size,
        "reaching": domain.hosts.reaching.size,
    }
    everywhere = world.gather(found)
    if world.rank == 0:
        print(json.dumps(everywhere))
