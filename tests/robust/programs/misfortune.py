"""A run to which something happens on one rank in the middle of a year: all ranks hear of it, and the run goes on.

usage: misfortune.py EMULATOR FOLDER WHAT LAG
It prints JSON: what each rank got, and whether the fields are those of a run left alone.
"""

import ctypes
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import torch
from long_life import state
from mpi4py import MPI

from ai4land_coupler.component import Component
from ai4land_coupler.config import Config, OutputConfig
from ai4land_coupler.errors import CouplerError
from ai4land_coupler.grids import HostGrid, RegularGrid
from ai4land_coupler.inference import TileRunner

COMM = MPI.COMM_WORLD
RAISED: dict[str, Callable[[], BaseException]] = {
    "python": lambda: ZeroDivisionError("made up"),
    "memory": lambda: MemoryError("made up"),
    "torch memory": lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    "device memory": lambda: torch.OutOfMemoryError("CUDA out of memory (made up)"),
    "device": lambda: RuntimeError("CUDA error: an illegal memory access was encountered (made up)"),
    "interrupt": KeyboardInterrupt,
    "exit": lambda: SystemExit(3),
}
LIBC = ctypes.CDLL(None)
LIBC.malloc.argtypes, LIBC.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
BLOCK = 1 << 16
ROOM = 1 << 18
"""Bytes that small objects may still take."""
YEARS = range(2001, 2006)
ODD = 2003


def host() -> HostGrid:
    """This rank's part of the cells of two tiles, one a rank."""
    grid = RegularGrid(8, 16)
    row, column = (x.ravel() for x in np.meshgrid(np.arange(4, 8), np.arange(4, 12), indexing="ij"))
    cells = (row * grid.nlon + column)[COMM.rank :: COMM.size]
    return HostGrid(cells + 1, *grid.corners(cells), np.full(cells.size, 0.7))


class Sabotage:
    """Makes the tiles of one rank fail until told to stop."""

    def __init__(self, error: Callable[[], BaseException]) -> None:
        self._ask, self._error = TileRunner._ask, error

    def __enter__(self) -> None:
        def tile(*_: Any, **__: Any) -> Any:
            raise self._error()

        if COMM.rank == COMM.size - 1:
            TileRunner._ask = tile

    def __exit__(self, *_: object) -> None:
        TileRunner._ask = self._ask


class SmallFiles:
    """No file grows beyond a few kB, as on a full disk."""

    def __enter__(self) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, self._before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


class SmallFilesBehind:
    """No file grows beyond a few kB, for the process that writes behind the step."""

    def __enter__(self) -> None:
        for pid in Path("/proc/self/task", str(os.getpid()), "children").read_text().split():
            if b"writer_process" in Path("/proc", pid, "cmdline").read_bytes():
                resource.prlimit(int(pid), resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))

    def __exit__(self, *_: object) -> None:
        """It ends with this run of the host."""


class NoMemory:
    """The last rank gets no more address space, and no block that was freed is left to it.

    The test sets glibc's MALLOC_ARENA_MAX to 1: heaps of threads have address space in reserve.
    """

    def __enter__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_AS)
        if COMM.rank == COMM.size - 1:
            self._limit(0)
            while LIBC.malloc(BLOCK):
                pass
            self._limit(ROOM)

    def _limit(self, room: int) -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + room, self._before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_AS, self._before)


class NoFolder:
    """The folder is gone, and something else has its name."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._away = folder, folder.with_name("away")

    def __enter__(self) -> None:
        if COMM.rank == 0:
            self._folder.rename(self._away)
            self._folder.write_text("")
        COMM.Barrier()

    def __exit__(self, *_: object) -> None:
        if COMM.rank == 0:
            self._folder.unlink()
            self._away.rename(self._folder)
        COMM.Barrier()


def attempt(call: Callable[..., Any], *args: Any) -> int:
    """The status a C host would get; 100 for what is no error of the plugin's."""
    try:
        call(*args)
    except CouplerError as error:
        return int(error.status)
    except BaseException:
        return 100
    return 0


def trouble(what: str, folder: Path) -> Any:
    if what in RAISED:
        return Sabotage(RAISED[what])
    if what == "limit":
        return NoMemory()
    if what == "full behind":
        return SmallFilesBehind()
    return SmallFiles() if what == "full" else NoFolder(folder)


def run(emulator: str, folder: Path, lag: int, what: str | None) -> tuple[dict[str, list[int]], np.ndarray]:
    got: dict[str, list[int]] = {}
    cells = host()
    behind = 0 if what in ("full", "lost") else 1
    config = Config(emulator=emulator, lag=lag, output=OutputConfig(folder=folder, fractions="all", behind=behind))
    land = Component.init(config, COMM)
    land.set_grid(cells)
    for year in YEARS:
        values = state(cells.size, land.legend, year)
        if year == ODD and what:
            with trouble(what, folder):
                got["step"] = COMM.allgather(attempt(land.step, year, values))
                got["restart"] = COMM.allgather(attempt(land.write_restart, folder / "restart.nc"))
                got["next"] = COMM.allgather(attempt(land.step, year + 1 if got["step"][0] == 0 else year, values))
            land = again(land, config, folder)
            cells = host()
            last = land._gridded().last
            if last is not None and last >= year:
                continue
        land.step(year, values)
        land.write_restart(folder / "restart.nc")
    fields = np.concatenate([land.get("fine", name) for name in land.legend])
    land.finalize()
    return got, fields


def again(land: Component, config: Config, folder: Path) -> Component:
    """Ends the run as a host may and starts it again from its last restart."""
    attempt(land.finalize)
    if COMM.rank == 0:
        left = [name for name in os.listdir(folder) if name.endswith((".part", ".new"))]
        assert not left, left
        for file in folder.glob("*.nc"):
            with netCDF4.Dataset(file) as data:
                for variable in data.variables.values():
                    variable[...]
    land = Component.init(config, COMM)
    land.set_grid(host())
    land.read_restart(folder / "restart.nc")
    return land


def main() -> None:
    emulator, folder, what, lag = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    got, fields = run(emulator, folder / "odd", lag, what)
    _, expected = run(emulator, folder / "alone", lag, None)
    same = COMM.allreduce(bool(np.array_equal(fields, expected)), op=MPI.LAND)
    shutil.rmtree(folder / "odd", ignore_errors=True)
    if COMM.rank == 0:
        print(json.dumps({"got": got, "same": same}))


if __name__ == "__main__":
    main()
