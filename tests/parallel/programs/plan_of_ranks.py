"""The plan of each rank under MPI, as test_scale.py compares it.

usage: plan_of_ranks.py EMULATOR GRID OUT.json
"""

import json
import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI

from ai4land_coupler.comm import Communicator
from ai4land_coupler.config import RegridConfig
from ai4land_coupler.domain import Domain
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.gridfile import read_grid
from ai4land_coupler.scale import plans

world = MPI.COMM_WORLD
comm, emulator, host = Communicator(world), Emulator.load(sys.argv[1]), read_grid(sys.argv[2]).grid
first, last = (host.size * r // comm.size for r in (comm.rank, comm.rank + 1))
with comm.hook():
    domain = Domain.build(comm, emulator, RegridConfig(), host.take(np.arange(first, last)))
    comm.received = 0
    plans.exchange_of_a_step(comm, domain, len(emulator.legend))
mine = {
    "held": [last - first, len(domain.own), domain.fine_size, plans.held(domain)],
    "step_bytes": comm.received,
}
everyone = world.gather(mine)
if world.rank == 0:
    Path(sys.argv[3]).write_text(json.dumps(everyone))
