"""deal.py with `device: cuda`, torch's CPU device standing behind two made-up CUDA devices a node.

usage: on_device.py PER_DEVICE DEVICES, then what deal.py takes
"""

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import deal

from ai4land_coupler import device
from ai4land_coupler.config import Config, WorkersConfig

per_device, devices = int(sys.argv.pop(1)), int(sys.argv.pop(1))
device.KIND = "cpu"
device.visible = lambda: [(f"id {i}", "a made-up GPU") for i in range(devices)]
workers = WorkersConfig(per_device=per_device)
deal.Config = functools.partial(Config, device="cuda", workers=workers, precision="float32")
deal.main()
