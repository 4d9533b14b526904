"""The Python side of a bench: drives the component as the Fortran host does, and runs the bare U-Net on its tiles.

usage: mpirun -n N python -m ai4land_coupler.bench.worker, then commands on standard input:

    open CONFIG GRID, step YEAR, peak, close, quit    as examples/bench_host/bench_host.f90
    alone CONFIG [COUNT]    what the steps run of the U-Net, by itself on their (first) tiles
                                        -> seconds on rank 0, how many
    whole CONFIG            the same of the U-Net with the first layer, which steps take apart
    do SECTION JOB OUT                                 runs a section in this process; OUT gets its answer as JSON
"""

import importlib
import json
import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ai4land_coupler.ahead import side_by_side
from ai4land_coupler.bench.hostfile import HostCells
from ai4land_coupler.comm import MPI
from ai4land_coupler.component import Component
from ai4land_coupler.config import Config
from ai4land_coupler.device import choose_precision
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import UsageError
from ai4land_coupler.unet import UNet

IDLE = 0.002
"""Seconds between two looks of a rank that waits for a command."""

Given = tuple[tuple[int, ...], torch.dtype, int]
"""Shape and type of an input, and the rim of it for which nothing is asked."""


class Player:
    """What the commands act on. given: all that the network was given in the last step."""

    def __init__(self) -> None:
        self.comm = MPI.COMM_WORLD
        self._land: Component | None = None
        self._cells: HostCells | None = None
        self._network: tuple[str, UNet] | None = None
        self.given: list[Given] = []

    def watch(self) -> None:
        """Note from now on what the network is given within steps."""
        after_stem = UNet.after_stem

        def noting(net: UNet, x: torch.Tensor, prior: torch.Tensor | None = None, rim: int = 0) -> torch.Tensor:
            if self._land is not None:
                self.given.append((tuple(x.shape), x.dtype, rim))
            return after_stem(net, x, prior, rim)

        setattr(UNet, "after_stem", noting)  # noqa: B010

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
        self.given.clear()
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
        """Seconds of the network after its first layer, and on how many inputs."""
        given = self.given[: int(count)] if count else self.given

        def call(net: UNet, one: Given, x: torch.Tensor) -> torch.Tensor:
            prior = torch.zeros(x.shape[0], net.config.classes, 2 * x.shape[2], 2 * x.shape[3])
            return net.after_stem(x, prior if net.config.prior else None, one[2])

        return self._run(config, given, call)

    def whole(self, config: str) -> list[float]:
        """Seconds of the whole network on whole windows, and on how many."""
        channels = Emulator.load(Config.load(config).emulator).unet.inputs
        given = [
            ((b, channels, 2 * rows, 2 * columns), torch.float32, 0) for (b, _, rows, columns), _, _ in self.given
        ]
        return self._run(config, given, lambda net, _, x: net(x))

    def _run(
        self, config: str, given: Sequence[Given], call: Callable[[UNet, Given, torch.Tensor], torch.Tensor]
    ) -> list[float]:
        """Plain PyTorch with the best settings: channels-last, no gradients, the run's precision, a tile a thread."""
        if not given:
            raise UsageError("bench: the steps have not called UNet.after_stem, so the network's tiles are not known")
        asked = Config.load(config)
        if self._network is None or self._network[0] != config:
            network = Emulator.load(asked.emulator).network("cpu", choose_precision(asked.precision))
            self._network = config, network
        net, threads = self._network[1], min(asked.workers.threads, len(given))
        pool = torch.rand(max(math.prod(shape) for shape, _, _ in given), generator=torch.Generator().manual_seed(1))
        pools = {dtype: pool.to(dtype) for _, dtype, _ in given}

        def one(what: Given) -> None:
            (batch, channels, rows, columns), dtype, _ = what
            torch.set_num_threads(asked.workers.threads // threads)  # of this thread
            part = pools[dtype][: batch * channels * rows * columns].view(batch, rows, columns, channels)
            with torch.inference_mode():
                call(net, what, part.permute(0, 3, 1, 2))

        self.comm.Barrier()
        began = time.perf_counter()
        side_by_side(one, list(given), threads)
        took = time.perf_counter() - began
        self.comm.Barrier()
        return [took, float(len(given))]

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
    player.watch()
    while words := _next(player.comm).split():
        if words[0] == "quit":
            break
        command: Callable[..., list[float]] = getattr(player, words[0])
        answer = command(*words[1:])
        if player.comm.rank == 0:
            print(*answer, flush=True)


if __name__ == "__main__":
    main()
