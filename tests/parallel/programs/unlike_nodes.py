"""usage: unlike_nodes.py EMULATOR: rank 1's processor lacks what the others have; each rank prints what `auto` is."""

import sys

from ai4land_coupler import device
from ai4land_coupler.comm import MPI
from ai4land_coupler.component import Component
from ai4land_coupler.config import Config

comm = MPI.COMM_WORLD
fast = frozenset({"avx512_bf16"} if comm.rank != 1 else {"avx2"})
device.processor_flags = lambda: fast
for asked in ("auto", "bfloat16"):
    land = Component.init(Config(emulator=sys.argv[1], precision=asked), comm)
    said = comm.gather(land._provenance()["precision"])
    land.finalize()
    if comm.rank == 0:
        print(asked, *said)
