"""A Python host that is particular about its process: what it had set is as it was after every hook.

usage: python_host.py EMULATOR FOLDER LAG
"""

import contextlib
import decimal
import gc
import hashlib
import locale
import logging
import os
import pickle
import random
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from long_life import host, state
from mpi4py import MPI

from ai4land_coupler.component import Component
from ai4land_coupler.config import Config, OutputConfig
from ai4land_coupler.errors import CouplerError


def look(comm: MPI.Comm) -> dict[str, Any]:
    """What a hook could change."""
    handlers = []
    for of in (MPI.COMM_WORLD, MPI.COMM_SELF, comm):
        handler = of.Get_errhandler()
        handlers.append(handler.handle if hasattr(handler, "handle") else handler.py2f())
    return {
        "random": hashlib.sha256(pickle.dumps(random.getstate())).hexdigest(),
        "numpy random": hashlib.sha256(pickle.dumps(np.random.get_state())).hexdigest(),  # noqa: NPY002
        "torch random": hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
        "torch": (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(),
                  torch.are_deterministic_algorithms_enabled(), torch.is_inference_mode_enabled()),
        "numpy": (np.geterr(), np.geterrcall()),
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "mask": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "locale": locale.setlocale(locale.LC_ALL),
        "folder": os.getcwd(),
        "umask": os.umask(0o27),
        "environment": dict(os.environ),
        "hooks": (sys.excepthook, threading.excepthook, sys.unraisablehook, sys.stdout, sys.stderr),
        "gc": (gc.isenabled(), gc.get_threshold(), sys.getrecursionlimit(), sys.getswitchinterval()),
        "decimal": decimal.getcontext().prec,
        "warnings": list(warnings.filters),
        "logging": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        "error handlers": handlers,
        "affinity": os.sched_getaffinity(0),
    }  # fmt: skip


def main() -> None:
    emulator, folder, lag = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    comm = MPI.COMM_WORLD.Dup()
    comm.Set_errhandler(MPI.ERRORS_RETURN)
    os.umask(0o27)
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(3)
    np.seterr(all="raise")
    torch.set_num_threads(2)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    decimal.getcontext().prec = 11
    warnings.simplefilter("error")
    before = look(comm)
    cells = host()

    def hook(call: Any, *args: Any, fails: bool = False) -> Any:
        out = None
        with contextlib.suppress(CouplerError) if fails else contextlib.nullcontext():
            out = call(*args)
        now = look(comm)
        changed = {name: (before[name], now[name]) for name in before if before[name] != now[name]}
        assert not changed, (call.__name__, changed)
        return out

    output = OutputConfig(folder=folder / "out", fractions="all")
    hook(Component.init, Config(emulator="/nowhere"), comm, fails=True)
    land = hook(Component.init, Config(emulator=emulator, lag=lag, output=output), comm)
    hook(land.step, 2000, {}, fails=True)
    hook(land.set_grid, cells)
    good = state(cells.size, land.legend, 2000)
    hook(land.step, 2000, {name: values * np.nan for name, values in good.items()}, fails=True)
    for year in (2000, 2001, 2002):
        hook(land.step, year, good)
    hook(land.step, 1990, good, fails=True)
    hook(land.write_restart, folder / "r.nc")
    hook(land.write_restart, folder / "none" / "r.nc", fails=True)
    hook(land.read_restart, folder / "r.nc")
    hook(land.get, "fine", land.legend[0])
    hook(land.finalize)


if __name__ == "__main__":
    main()
