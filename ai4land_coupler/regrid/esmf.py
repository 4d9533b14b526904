"""Shares of cells by ESMF itself, through esmpy: first-order conservative, great-circle edges.

Each rank is an ESMF of its own, on MPI_COMM_SELF: no call waits for another rank, so only the ranks that have cells
need call, and what is asked for alone gives the same bits as in company. `collective_overlap` runs one ESMF over all
ranks of a communicator instead, for comparison. Everything ESMF lives inside one function and is destroyed there.
"""

import atexit
import ctypes
import logging
import os
import threading
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import CouplerError, GridError, RegridError
from ai4land_coupler.grids import EARTH_RADIUS, HostGrid
from ai4land_coupler.regrid import esmfmk, esmfstart
from ai4land_coupler.regrid.draws import own_draws
from ai4land_coupler.regrid.greatcircle import GreatCircleEngine, Shares, Task
from ai4land_coupler.regrid.overlap import Overlap
from ai4land_coupler.regrid.polygons import Polygons

# comm.py is imported where it is used: a serial ESMF and `lacks` on a machine without ESMF need no MPI.

_LOG = logging.getLogger("ai4land_coupler")
_MEND = "regrid.engine yac serves the same cells, or give a weight file with regrid.file"


@dataclass(frozen=True, eq=False)
class _Running:
    """The ESMF of this process: esmpy, its version, who may call it, and the communicator if not MPI_COMM_SELF."""

    esmpy: Any
    version: str
    thread: int
    process: int
    comm: Any


_state: _Running | RegridError | None = None
"""ESMF starts once in a process; a start that failed is not tried again."""


def lacks() -> str | None:
    """Why ESMF cannot make shares in this process, with the mend; None where it can, and then it is running."""
    try:
        _on_self()
    except CouplerError as reason:
        return str(reason)
    return None


def version() -> str:
    """The version of the ESMF that would be used; "of unknown version" where there is none."""
    if isinstance(_state, _Running):
        return _state.version
    path = esmfmk.find()
    return (esmfmk.MakeFile.read(path).version if path else "") or "of unknown version"


def engine() -> GreatCircleEngine:
    """The engine for cells of any shape. Raises RegridError where ESMF cannot be used here, with the mend."""
    return GreatCircleEngine(f"esmf {_on_self().version}", shares)


def shares(tasks: Sequence[Task]) -> list[Shares]:
    """First-order conservative shares for each (source, target), sorted by (row, col), each pair once.

    Local. Raises RegridError where ESMF cannot be used here or fails.
    """
    running = _on_self()
    return [_shares(running, source, target) for source, target in tasks]


def collective_overlap(comm: Any, source: HostGrid, target: HostGrid) -> Overlap:
    """Overlap areas by one ESMF over all ranks of a Communicator, from the cells that each rank gives of both grids.

    Row and column are the positions of target and source cells in ascending order of id over all ranks; the same on
    every rank, and for every deal of the cells. Collective. Raises on every rank what is wrong on any: ESMF itself
    would leave the others waiting.
    """
    cells = comm.together(lambda: (_checked(source), _checked(target)))
    ids = [_all_ids(comm, grid, what) for grid, what in ((source, "source"), (target, "target"))]
    running = _on(comm)
    found = _shares(running, cells[0], cells[1], comm)
    area = found.share * cells[1].area[found.row] * EARTH_RADIUS**2
    rows = target.cell_id[found.row]
    (columns, column_ids), (_, row_ids) = ids
    parts = [_everyones(comm, part) for part in (rows, columns[found.col], area)]
    row, col = np.searchsorted(row_ids, parts[0]), np.searchsorted(column_ids, parts[1])
    return Overlap.from_triplets(row, col, parts[2], row_ids.size, column_ids.size)


def _on_self() -> _Running:
    """ESMF on this rank alone, started if need be."""
    if _state is None:
        _start(None)
    return _callable(None)


def _on(comm: Any) -> _Running:
    """ESMF over the communicator, started if need be; collective."""
    if comm.size == 1:
        return comm.together(_on_self)  # type: ignore[no-any-return]
    if comm.max(float(_state is not None)) == 0:
        makefile, library = comm.together(_loaded)
        comm.together(lambda: _refuse_serial(makefile))
        _launch(makefile, library, comm)
    return comm.together(lambda: _callable(comm))  # type: ignore[no-any-return]


def _callable(comm: Any) -> _Running:
    """The running ESMF, if this thread of this process may call it for this communicator."""
    if isinstance(_state, RegridError):
        raise _state
    if _state is None or _state.comm is not comm:
        where = "other ranks" if _state is None else "MPI_COMM_SELF" if _state.comm is None else "a communicator"
        raise RegridError(
            f"ESMF was started on {where} in this job already, and it starts once in a process: weights by one ESMF "
            "over all ranks need a program of their own"
        )
    if (_state.thread, _state.process) != (threading.get_ident(), os.getpid()):
        raise RegridError("ESMF can only be called by the thread and process that started it, and this is another")
    return _state


def _start(comm: Any) -> None:
    global _state
    try:
        makefile, library = _loaded()
        _launch(makefile, library, comm)
    except RegridError as reason:
        _state = reason


def _loaded() -> tuple[esmfmk.MakeFile, ctypes.CDLL]:
    """The library, loaded if nothing speaks against it; local."""
    problems, path = esmfmk.preflight(), esmfmk.find()
    if problems or path is None:
        found = "; ".join(problem.found for problem in problems)
        raise RegridError(f"{found} (mend: {problems[0].mend})")
    makefile = esmfmk.MakeFile.read(path)
    return makefile, esmfstart.load(makefile)


@own_draws()
def _launch(makefile: esmfmk.MakeFile, library: ctypes.CDLL, comm: Any) -> None:
    """Start ESMF and bring esmpy to use it; collective over the communicator."""
    global _state
    handle = 0
    if not makefile.serial:
        from ai4land_coupler.comm import self_handle

        handle = self_handle() if comm is None else comm.fortran_handle
    how = esmfstart.start(makefile, library, handle)
    esmpy = _import_esmpy(library)
    _keep_running(esmpy)
    pets, expected = esmpy.pet_count(), 1 if comm is None else comm.size
    if pets != expected:
        raise RegridError(f"ESMF runs on {pets} ranks where {expected} were asked for; it is left alone; {_MEND}")
    _state = _Running(esmpy, makefile.version, threading.get_ident(), os.getpid(), comm)
    _LOG.debug("ESMF %s of %s started %s on %d ranks", makefile.version, makefile.path, how, pets)


def _import_esmpy(library: ctypes.CDLL) -> Any:
    """esmpy on the library that is loaded already.

    It would load the library again for everybody: netCDF4's wheel would then find the libnetcdf that ESMF needs in
    place of its own, and crash.
    """
    names = vars(ctypes)
    flags, names["RTLD_GLOBAL"] = names["RTLD_GLOBAL"], esmfstart.APART
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of betas that are said to go together
            import esmpy
            from esmpy.interface import loadESMF
    except Exception as reason:
        raise RegridError(f"esmpy cannot be imported: {type(reason).__name__}: {reason}") from reason
    finally:
        names["RTLD_GLOBAL"] = flags
    if loadESMF._ESMF._handle != library._handle:
        raise RegridError(f"esmpy has loaded another ESMF than {library._name}; {_MEND}")
    return esmpy


def _keep_running(esmpy: Any) -> None:
    """Have nobody finalise ESMF: neither esmpy at exit nor the end of its Manager, which could end MPI too."""
    manager = esmpy.Manager(endFlag=esmpy.EndAction.KEEP_MPI) if hasattr(esmpy, "EndAction") else esmpy.Manager()
    atexit.unregister(manager.__del__)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(manager))


@own_draws()
def _shares(running: _Running, source: Polygons, target: Polygons, comm: Any = None) -> Shares:
    """Shares of target cells of this rank: row local, col counted over all ranks."""
    if comm is None and not (source.count.size and target.count.size):
        none = np.zeros(0, dtype=np.int64)
        return Shares(none, none, np.zeros(0))
    esmpy = running.esmpy
    with ExitStack() as objects:

        def kept(thing: Any) -> Any:
            objects.callback(_destroy, thing)
            return thing

        try:
            mesh = [_mesh(esmpy, kept, cells, comm) for cells in (source, target)]
            # each Field costs memory that ESMF never gives back, so the target's takes the fraction too
            on_source, on_target = (kept(esmpy.Field(on, meshloc=esmpy.MeshLoc.ELEMENT)) for on in mesh)
            regrid = kept(
                esmpy.Regrid(
                    on_source,
                    on_target,
                    regrid_method=esmpy.RegridMethod.CONSERVE,
                    line_type=esmpy.LineType.GREAT_CIRCLE,
                    norm_type=esmpy.NormType.FRACAREA,
                    unmapped_action=esmpy.UnmappedAction.IGNORE,
                    ignore_degenerate=True,
                    factors=True,
                    dst_frac_field=on_target,
                )
            )
            weight, index = regrid.get_factors(deep_copy=True)
            covered = np.array(on_target.data)
        except Exception as reason:
            raise RegridError(
                f"ESMF {running.version} failed on {source.count.size} source and {target.count.size} target cells: "
                f"{reason}; {_MEND}"
            ) from reason
    row = index[:, 1].astype(np.int64) - 1 - _first(comm, target.count.size)
    return _summed(row, index[:, 0].astype(np.int64) - 1, weight * covered[row])


def _mesh(esmpy: Any, kept: Any, cells: Polygons, comm: Any) -> Any:
    """The cells as a Mesh, corners of cells of this rank shared; ids count over all ranks."""
    used = np.arange(cells.lon.shape[1]) < cells.count[:, None]
    corners, corner = np.unique(cells.lon[used] + 1j * cells.lat[used], return_inverse=True)
    n, m = corners.size, cells.count.size
    first_node, first_cell = _first(comm, n), _first(comm, m)
    if max(first_node + n, first_cell + m) >= 2**31:
        raise RegridError(f"{m} cells with {n} corners are more than ESMF can count")
    mesh = kept(esmpy.Mesh(parametric_dim=2, spatial_dim=2, coord_sys=esmpy.CoordSys.SPH_RAD))
    mesh._link_coords_ = lambda: None  # a Python loop over all corners, for coordinates that nobody asks for
    owner = np.full(n, comm.rank if comm else 0, dtype=np.int32)
    place = np.stack([corners.real, corners.imag], axis=1).reshape(-1)
    mesh.add_nodes(n, _ids(first_node, n), place, owner)
    mesh.add_elements(m, _ids(first_cell, m), cells.count.astype(np.int32), corner.astype(np.int32))
    return mesh


def _destroy(thing: Any) -> None:
    """Give ESMF's memory back, and have esmpy forget that it wanted to at exit."""
    thing.destroy()
    atexit.unregister(thing.__del__)


def _ids(first: int, n: int) -> NDArray[np.int32]:
    return np.arange(first + 1, first + n + 1, dtype=np.int32)


def _first(comm: Any, n: int) -> int:
    """How many things the lower ranks have, of which this one has n."""
    return int(_everyones(comm, np.array([n]))[: comm.rank].sum()) if comm else 0


def _summed(row: NDArray[np.int64], col: NDArray[np.int64], share: NDArray[np.float64]) -> Shares:
    """Sorted by (row, col), pairs that come in parts summed in the order of size.

    ESMF cuts cells of more than four corners into triangles and gives a weight for each pair of those.
    """
    order = np.lexsort((share, col, row))
    row, col, share = row[order], col[order], share[order]
    start = np.flatnonzero((np.diff(row, prepend=-1) != 0) | (np.diff(col, prepend=-1) != 0))
    return Shares(row[start], col[start], np.add.reduceat(share, start) if start.size else share)


def _checked(grid: HostGrid) -> Polygons:
    """The cells as polygons, none of them odd: ESMF would stop on this rank only."""
    GreatCircleEngine("esmf", shares).check(grid)
    return Polygons.of(grid.vertex_lon, grid.vertex_lat)


def _everyones(comm: Any, rows: NDArray[Any]) -> NDArray[Any]:
    """The ranks' rows one after the other, on every rank."""
    return comm.bcast(comm.gather(rows))  # type: ignore[no-any-return]


def _all_ids(comm: Any, grid: HostGrid, what: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The ids of all ranks' cells in order of rank, and sorted."""
    ids = _everyones(comm, grid.cell_id)
    ordered = np.sort(ids)
    twice = ordered[1:][np.diff(ordered) == 0]
    if twice.size:
        raise GridError(f"{what} cell {int(twice[0])} is given more than once ({twice.size} such ids in all)")
    return ids, ordered


def _refuse_serial(makefile: esmfmk.MakeFile) -> None:
    if makefile.serial:
        raise RegridError(f"ESMF of {makefile.path} is built without MPI: one ESMF over all ranks is not possible")
