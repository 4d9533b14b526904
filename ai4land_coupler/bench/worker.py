"""The Python side of a bench: drives the component as the Fortran host does, and runs the bare U-Net on its tiles.

usage: mpirun -n N python -m ai4land_coupler.bench.worker, then commands on standard input:

    open CONFIG GRID, step YEAR, peak, close, quit    as examples/bench_host/bench_host.f90
    alone CONFIG [COUNT]          -> seconds of rank 0's U-Net by itself on the (first) tiles of the steps, and how many
    do SECTION JOB OUT                                 runs a section in this process; OUT gets its answer as JSON
"""

import importlib
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from ai4land_coupler.bench.hostfile import HostCells
from ai4land_coupler.comm import MPI
from ai4land_coupler.component import Component
from ai4land_coupler.config import Config
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import UsageError
from ai4land_coupler.inference import choose_precision
from ai4land_coupler.unet import UNet

IDLE = 0.002


class Player:
    """What the commands act on. shapes: of every input the network was given since `open`, until `close`."""

    def __init__(self) -> None:
        self.comm = MPI.COMM_WORLD
        self._land: Component | None = None
        self._cells: HostCells | None = None
        self._network: tuple[str, UNet] | None = None
        self.shapes: list[tuple[int, ...]] = []
        register_module_forward_pre_hook(self._seen)

    def _seen(self, module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, UNet) and self._land is not None:
            self.shapes.append(tuple(args[0].shape))

    def open(self, config: str, grid: str) -> list[float]:
        """Seconds of init and set_grid."""
        cells = self._cells = HostCells.read(Path(grid)).band(self.comm.rank, self.comm.size)
        self.comm.Barrier()
        times = [time.perf_counter()]
        self._land = Component.init(config, self.comm)
        times.append(time.perf_counter())
        self._land.set_grid(cells.grid)
        return self._slowest([*times, time.perf_counter()])

    def step(self, year: str) -> list[float]:
        """Seconds of puts, step and gets."""
        land, cells = self._opened()
        self.shapes.clear()
        self.comm.Barrier()
        times = [time.perf_counter()]
        for name, values in zip(cells.names, cells.state, strict=True):
            land.put(name, values)
        times.append(time.perf_counter())
        land.advance(int(year))
        times.append(time.perf_counter())
        for name in cells.names:
            land.get("host", name)
        return self._slowest([*times, time.perf_counter()])

    def alone(self, config: str, count: str = "") -> list[float]:
        """Seconds of the network alone, in float32 or bfloat16 and with as many threads as the run has."""
        asked = Config.load(config)
        if not self.shapes:
            raise UsageError("bench: the steps have not called the U-Net as a module, so its tiles are not known")
        if self._network is None or self._network[0] != config:
            network = Emulator.load(asked.emulator).network("cpu", choose_precision(asked.precision))
            self._network = config, network
        torch.set_num_threads(asked.workers.threads)
        shapes = self.shapes[: int(count)] if count else self.shapes
        pool = torch.rand(max(int(np.prod(shape)) for shape in shapes), generator=torch.Generator().manual_seed(1))
        self.comm.Barrier()
        took = 0.0
        with torch.inference_mode():
            for batch, channels, rows, columns in shapes:
                part = pool[: batch * channels * rows * columns].view(batch, rows, columns, channels)
                began = time.perf_counter()
                self._network[1](part.permute(0, 3, 1, 2))
                took += time.perf_counter() - began
        self.comm.Barrier()
        return [took, float(len(shapes))]

    def peak(self) -> list[float]:
        """Largest resident memory of a rank, bytes."""
        return [self.comm.allreduce(1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, MPI.MAX)]

    def close(self) -> list[float]:
        """End the component."""
        land, _ = self._opened()
        land.finalize()
        self._land = None
        return [0.0]

    def do(self, section: str, job: str, out: str) -> list[float]:
        """Run `run(job)` of a module of this package."""
        module = importlib.import_module(f"ai4land_coupler.bench.{section}")
        answer = module.run(json.loads(Path(job).read_text()))
        Path(out).write_text(json.dumps(answer))
        return [0.0]

    def _opened(self) -> tuple[Component, HostCells]:
        if self._land is None or self._cells is None:
            raise UsageError("bench: open comes first")
        return self._land, self._cells

    def _slowest(self, times: list[float]) -> list[float]:
        return [self.comm.allreduce(float(seconds), MPI.MAX) for seconds in np.diff(times)]


def _next(comm: MPI.Intracomm) -> str:
    """The next command, on every rank; '' at the end. Ranks that wait sleep."""
    if comm.rank == 0:
        line = sys.stdin.readline()
        for rank in range(1, comm.size):
            comm.send(line, rank)
        return line
    while not comm.iprobe(0):
        time.sleep(IDLE)
    return str(comm.recv(source=0))


def main() -> None:
    player = Player()
    while words := _next(player.comm).split():
        if words[0] == "quit":
            break
        command: Callable[..., list[float]] = getattr(player, words[0])
        answer = command(*words[1:])
        if player.comm.rank == 0:
            print(*answer, flush=True)


if __name__ == "__main__":
    main()
