"""`ai4land weights`: conservative weights between two grids, made once and kept in a file that `regrid.file` reads."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler import __version__, console
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import CouplerError, OutputError, RegridError, UsageError
from ai4land_coupler.gridfile import NamedGrid, read_grid, regular
from ai4land_coupler.grids import refuse_radians
from ai4land_coupler.regrid import Engine, Overlap, esmf_wanted, is_rectangle, make_engine, weightfile

T = TypeVar("T")
Float = NDArray[np.float64]

log = logging.getLogger(__package__)


@dataclass(frozen=True)
class Options:
    """What `make_engine` asks for: no weight file, no cache."""

    engine: str
    file: None = None
    cache: None = None


@dataclass(frozen=True)
class Summary:
    """What a set of weights is worth.

    row_sum: largest difference from 1 of the sum of a target cell's weights. whole: source cells that the target
    covers wholly; balance: the largest share by which the area of one of them is missed; conservation: the same of
    their areas together.
    """

    links: int
    row_sum: float
    whole: int
    balance: float
    conservation: float

    @classmethod
    def of(cls, overlap: Overlap, area: Float, tolerance: float) -> "Summary":
        """From overlaps and the areas (n_source,) of the source cells, m2; whole means within `tolerance`."""
        if not overlap.row.size:
            raise RegridError("the two grids share no area: no weights")
        rows = np.bincount(overlap.row, overlap.area / overlap.row_sum()[overlap.row], overlap.n_row)
        kept = overlap.col_sum()
        whole = np.abs(kept / area - 1) <= tolerance
        balance = np.abs(kept / area - 1)[whole].max(initial=0.0)
        total = area[whole].sum()
        return cls(
            links=overlap.row.size,
            row_sum=float(np.abs(rows[np.unique(overlap.row)] - 1).max()),
            whole=int(whole.sum()),
            balance=float(balance),
            conservation=abs(float(kept[whole].sum() / total) - 1) if total else 0.0,
        )


def make(source: str, target: str, engine: str, output: Path) -> Summary:
    """Write the weights from one grid to the other, made in this process alone.

    source, target: what `read_grid` takes, or `emulator:NAME` for an emulator's coarse grid. Raises GridError for grids
    that are none, RegridError where the engine cannot serve them, OutputError for a folder that is not there.
    """
    console.show_log(0)
    _refuse_ranks()
    _refuse_folder(output)
    grids = _named(source), _named(target)
    chosen = _engine(engine, *grids)
    for side, named in zip(("source", "target"), grids, strict=True):
        _about(side, named, lambda named=named: chosen.check(named.grid))  # type: ignore[misc]
    overlap = chosen.between(grids[0].grid, grids[1].grid)
    areas = chosen.area(grids[0].grid), chosen.area(grids[1].grid)
    return _write(output, overlap, grids, areas, chosen.name, chosen.area_tolerance)


def make_collective(source: str, target: str, output: Path) -> Summary:
    """The same by one ESMF over all ranks of MPI_COMM_WORLD, each with a band of both grids, to compare. Collective."""
    from ai4land_coupler.comm import MPI, Communicator
    from ai4land_coupler.regrid import esmf
    from ai4land_coupler.regrid.greatcircle import GreatCircleEngine

    comm = Communicator.of(MPI.COMM_WORLD)
    console.show_log(comm.rank)
    comm.together(lambda: _refuse_folder(output))
    grids = comm.together(lambda: (_named(source), _named(target)))
    own = [named.grid.take(_band(named.grid.size, comm.rank, comm.size)) for named in grids]
    overlap = esmf.collective_overlap(comm, own[0], own[1])
    name = f"esmf {esmf.version()}"
    polygons = GreatCircleEngine(name, esmf.shares)
    areas = polygons.area(grids[0].grid), polygons.area(grids[1].grid)
    if comm.rank == 0:
        log.info("regrid: engine %s (asked for, one ESMF over %d ranks)", name, comm.size)
    made = comm.together(
        lambda: _write(output, overlap, grids, areas, name, polygons.area_tolerance) if comm.rank == 0 else None
    )
    return comm.bcast(made)  # type: ignore[no-any-return]


def _named(spec: str) -> NamedGrid:
    if spec.startswith("emulator:"):
        return regular(Emulator.load(spec.removeprefix("emulator:")).coarse, spec)
    named = read_grid(spec)
    grid = named.grid
    largest = float(np.abs([grid.vertex_lon, grid.vertex_lat]).max(initial=0.0))
    _about("grid", named, lambda: refuse_radians(grid.size, largest))
    return named


def _engine(wanted: str, source: NamedGrid, target: NamedGrid) -> Engine:
    """The engine by the rules of `regrid.engine`; `latlon` needs rectangles on both sides."""
    options, odd = Options(wanted), None
    for side, named in (("target", target), ("source", source)):
        ids = named.grid.cell_id[~is_rectangle(named.grid.vertex_lon, named.grid.vertex_lat)]
        if ids.size and wanted == "latlon":
            raise RegridError(
                f"{side} {named.name}: cell {ids[0]} is no latitude-longitude rectangle ({ids.size} such cells), which "
                "engine latlon needs; use --engine auto"
            )
        odd = int(ids[0]) if ids.size else odd
    lacks = _lacks_esmf() if esmf_wanted(options, odd) else None
    return make_engine(options, odd, lacks)


def _lacks_esmf() -> str | None:
    from ai4land_coupler.regrid import esmf

    return esmf.lacks()


def _write(
    output: Path, overlap: Overlap, grids: tuple[NamedGrid, NamedGrid], areas: tuple[Float, Float], engine: str,
    tolerance: float,
) -> Summary:  # fmt: skip
    source, target = grids
    summary = Summary.of(overlap, areas[0], tolerance)
    attributes = {
        "grid_file_src": source.name,
        "grid_file_dst": target.name,
        "engine": engine,
        "edges": "parallels and meridians" if engine == "latlon" else "great circle",
        "history": f"ai4land weights {__version__}",
    }
    weightfile.write(output, overlap, source.grid, target.grid, areas, (source.shape, target.shape), attributes)
    log.info("%s: %d links from %d cells of %s to %d of %s", output, summary.links, source.grid.size, source.name,
             target.grid.size, target.name)  # fmt: skip
    log.info(
        "row sums 1 within %.1e; %d of %d source cells lie wholly in the target, their areas kept within %.1e each "
        "and %.1e together",
        summary.row_sum, summary.whole, source.grid.size, summary.balance, summary.conservation,
    )  # fmt: skip
    return summary


def _about(side: str, named: NamedGrid, call: Callable[[], T]) -> T:
    """Run `call`; what it raises says which grid it is about."""
    try:
        return call()
    except CouplerError as error:
        what = str(error).replace("host cell", "cell").replace("regrid.engine:", "--engine")
        raise type(error)(f"{side} {named.name}: {what}") from error


def _band(n: int, rank: int, size: int) -> NDArray[np.int64]:
    return np.arange(n * rank // size, n * (rank + 1) // size, dtype=np.int64)


def _refuse_folder(output: Path) -> None:
    if not output.resolve().parent.is_dir():
        raise OutputError(f"{output} cannot be written: its folder does not exist")


def _refuse_ranks() -> None:
    """UsageError in a job of several ranks, which would all make and write the same."""
    job: dict[str, Any] = {name: os.environ.get(name, "1") for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")}
    if any(value.isdigit() and int(value) > 1 for value in job.values()):
        raise UsageError("weights is made by one process: run it without mpirun, or with --collective")
