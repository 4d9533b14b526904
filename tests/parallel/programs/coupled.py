"""A coupled run that writes a restart every year, and goes on from the last good one when it is started again.

usage: coupled.py EMULATOR FOLDER LAG DEAL [HANDLER [LIBRARY]]

HANDLER: what the host does on SIGTERM: "goes on" counts in Python, "exits" raises SystemExit and ends the job, "in C"
counts in C, by the function of LIBRARY, "stops" does that too and ends well after the year in which one came; the
default is to have no handler.
It leaves FOLDER/handled.RANK with the count, FOLDER/pid.RANK once it integrates, and FOLDER/final.npz at the end.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from deal import cells, deal, state
from mpi4py import MPI

from ai4land_coupler.component import Component
from ai4land_coupler.config import Config, OutputConfig
from ai4land_coupler.errors import RestartError

YEARS = range(2001, 2009)


def take_up(land: Component, folder: Path) -> None:
    """Read the newest restart that is whole; a host tries the older one where it is not."""
    for name in ("restart.nc", "restart.nc.1"):
        if (folder / name).exists():
            try:
                land.read_restart(folder / name)
            except RestartError as error:
                print(f"{name}: {error}", file=sys.stderr)
            else:
                return


def handle(how: str, library: str) -> Callable[[], int]:
    """Install the host's handler; how many signals came, as it counts them."""
    came: list[int] = []

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    if library:
        own = ctypes.CDLL(library)
        assert own.install(signal.SIGTERM) == 0
        return own.so_far
    if how:
        signal.signal(signal.SIGTERM, leave if how == "exits" else lambda number, _: came.append(number))
    return lambda: len(came)


def main(emulator: str, folder: Path, lag: int, how: str, stops: Callable[[], bool]) -> None:
    comm = MPI.COMM_WORLD
    grid = cells().take(deal(how, comm.rank, comm.size))
    with Component.init(Config(emulator=emulator, lag=lag, output=OutputConfig(folder=folder)), comm) as land:
        land.set_grid(grid)
        (folder / f"pid.{comm.rank}").write_text(str(os.getpid()))
        take_up(land, folder)
        years = land._gridded()
        for year in YEARS:
            if years.last is None or year > years.last:
                land.step(year, state(grid.cell_id, land.legend, year))
                land.write_restart(folder / "restart.nc")
                if comm.allreduce(stops(), op=MPI.LOR):
                    return
        ids = np.concatenate(comm.allgather(land.get("fine", "cell_id")))
        got = {
            name: np.concatenate(comm.allgather(land.get("fine", name)))[np.argsort(ids)]
            for name in (*land.legend, "class", "filled")
        }
        if comm.rank == 0:
            np.savez(folder / "final.part.npz", year=land.get("fine", "year"), **got)
    if comm.rank == 0:
        (folder / "final.part.npz").rename(folder / "final.npz")


handler, library = (*sys.argv[5:7], "", "")[:2]
came = handle(handler, library)
try:
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], lambda: handler == "stops" and came() > 0)
except SystemExit as error:
    MPI.COMM_WORLD.Abort(int(str(error)))
Path(sys.argv[2], f"handled.{MPI.COMM_WORLD.rank}").write_text(str(came()))
if handler == "goes on":  # Python takes its handlers away before it has ended
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
