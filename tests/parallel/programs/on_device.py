"""deal.py with `device: cuda`, torch's CPU device standing behind two made-up CUDA devices a node.

usage: on_device.py PER_DEVICE DEVICES, then what deal.py takes
Errors of the plugin's are printed together: the launcher ends other ranks as soon as one has ended with an error.
"""

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import deal
from mpi4py import MPI

from ai4land_coupler import device
from ai4land_coupler.config import Config, WorkersConfig
from ai4land_coupler.errors import CouplerError
from ai4land_coupler.ondevice import batches

per_device, devices = int(sys.argv.pop(1)), int(sys.argv.pop(1))
device.KIND = "cpu"
batches.VALUES = 2**15
device.visible = lambda: [(f"id {i}", "a made-up GPU") for i in range(devices)]
workers = WorkersConfig(per_device=per_device)
deal.Config = functools.partial(Config, device="cuda", workers=workers)
try:
    deal.main()
except CouplerError as error:
    said = MPI.COMM_WORLD.gather(f"{type(error).__name__}: {error}")
    print(*said or (), sep="\n", file=sys.stderr, flush=True)
    MPI.COMM_WORLD.Barrier()
    raise SystemExit(1) from None
