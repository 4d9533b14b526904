"""Every bad input on one rank of three: all ranks get one status, and the run goes on. Prints JSON from rank 0.

usage: bad_input.py EMULATOR FOLDER
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from deal import cells, deal, state
from mpi4py import MPI

from ai4land_coupler.component import Component
from ai4land_coupler.config import Config, OutputConfig
from ai4land_coupler.errors import CouplerError
from ai4land_coupler.grids import HostGrid

COMM = MPI.COMM_WORLD
ODD = COMM.rank == COMM.size - 1
FOUND: dict[str, list[tuple[int, str]]] = {}


def attempt(name: str, call: Callable[[], object]) -> None:
    """Run on all ranks; keep what each rank got."""
    try:
        call()
        got = (0, "")
    except CouplerError as error:
        got = (int(error.status), str(error))
    FOUND[name] = COMM.allgather(got)


def mine(**changes: np.ndarray) -> HostGrid:
    """This rank's random deal of the cells, with arrays replaced on the odd rank."""
    everyone, part = cells(), deal("random", COMM.rank, COMM.size)
    arrays = {name: getattr(everyone, name)[part] for name in ("cell_id", "vertex_lon", "vertex_lat", "land_fraction")}
    return HostGrid(**(arrays | (changes if ODD else {})))


def spoiled(values: np.ndarray, to: float) -> np.ndarray:
    """One land value replaced on the odd rank."""
    out = values.copy()
    if ODD:
        out[np.flatnonzero(LAND)[0]] = to
    return out


emulator, folder = sys.argv[1], Path(sys.argv[2])
blocked = folder / "file-not-folder"
blocked.write_text("in the way")
attempt("emulator_missing", lambda: Component.init(Config(emulator=str(folder / "none")), COMM))
attempt(
    "output_unwritable", lambda: Component.init(Config(emulator=emulator, output=OutputConfig(folder=blocked)), COMM)
)

land = Component.init(Config(emulator=emulator), COMM)
attempt("step_before_set_grid", lambda: land.step(2001))
whole = mine()
LAND = whole.land_fraction > 0
ids, lat = whole.cell_id.copy(), whole.vertex_lat.copy()
ids[0] = ids[1]
lat[0, 0] = np.nan
overlapping = whole.vertex_lon.copy()
overlapping[0] += 6.0
attempt("grid_repeated_id", lambda: land.set_grid(land.together(lambda: mine(cell_id=ids))))
attempt("grid_not_finite", lambda: land.set_grid(land.together(lambda: mine(vertex_lat=lat))))
attempt("grid_overlap", lambda: land.set_grid(land.together(lambda: mine(vertex_lon=overlapping))))
attempt("set_grid", lambda: land.set_grid(whole))
attempt("set_grid_again", lambda: land.set_grid(whole))
good = state(whole.cell_id, land.legend, 2001)
first = land.legend[0]
attempt("get_before_step", lambda: land.get("fine", first))
attempt("restart_before_step", lambda: land.write_restart(folder / "r.nc"))
attempt("put_unknown", lambda: land.put("foreset", good[first]))
attempt("put_length", lambda: land.put(first, good[first][:-1]))
attempt("class_missing", lambda: land.step(2001, {k: v for k, v in good.items() if not (ODD and k == first)}))
attempt("years_differ", lambda: land.step(2002 if ODD else 2001, good))
attempt("nan", lambda: land.step(2001, good | {first: spoiled(good[first], np.nan)}))
attempt("negative", lambda: land.step(2001, good | {first: spoiled(good[first], -0.1)}))
attempt("above_one", lambda: land.step(2001, good | {first: spoiled(good[first], 1.5)}))
attempt("sum", lambda: land.step(2001, good | {first: good[first] * (1 - 1e-3 * ODD)}))
attempt("good", lambda: land.step(2001, good))
attempt("year_repeated", lambda: land.step(2001, good))
attempt("year_back", lambda: land.step(1999, good))
served = COMM.allreduce(land.get("fine", first).sum())
attempt("restart_unwritable", lambda: land.write_restart(blocked / "r.nc"))
attempt("restart", lambda: land.write_restart(folder / "r.nc"))
attempt("restart_missing", lambda: land.read_restart(folder / "no.nc"))
if COMM.rank == 0:
    content = (folder / "r.nc").read_bytes()
    (folder / "damaged.nc").write_bytes(content[: len(content) // 2])
COMM.Barrier()
attempt("restart_damaged", lambda: land.read_restart(folder / "damaged.nc"))
attempt("get_unknown", lambda: land.get("fine", "foreset"))
attempt("grid_unknown", lambda: land.size("coarse"))
attempt("goes_on", lambda: land.step(2002, good))
attempt("finalize", land.finalize)
attempt("finalize_again", land.finalize)
attempt("use_after_finalize", lambda: land.step(2003, good))
if COMM.rank == 0:
    print(json.dumps({"found": FOUND, "served": served}))
