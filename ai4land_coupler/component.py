"""The component a host drives: init, set_grid, put, step, get, restart, finalize.

`Component._evaluate` is the picture of the whole plugin: the host's state is put on the coarse grid, refined tile by
tile with its totals closed, and brought back to host columns.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ai4land_coupler import console, provenance
from ai4land_coupler.comm import Communicator
from ai4land_coupler.config import Config
from ai4land_coupler.domain import Domain
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import TimeOrderError, UsageError
from ai4land_coupler.grids import HostGrid
from ai4land_coupler.inference import TileRunner, choose_precision
from ai4land_coupler.placement import Budget
from ai4land_coupler.publish import Publisher
from ai4land_coupler.report import YearReport
from ai4land_coupler.restart import Restart
from ai4land_coupler.state import StateLegend, judge
from ai4land_coupler.timing import Stopwatch
from ai4land_coupler.year import (
    GEOMETRY,
    YearFields,
    digest,
    fine_areas,
    fine_geometry,
    host_columns,
    host_geometry,
    known_grid,
    roundtrip,
)

log = logging.getLogger(__package__)

T = TypeVar("T")


class Component:
    """A land-use emulator inside a host's MPI job. Make one with `Component.init`; call all hooks from one thread."""

    def __init__(self, config: Config, comm: Communicator, emulator: Emulator) -> None:
        self.config = config
        self.emulator = emulator
        self._comm: Communicator | None = comm
        self._legend = StateLegend.of(config.state, emulator.legend)
        self._precision = choose_precision(config.precision)
        self._runner = TileRunner(emulator, config.constraint.mode, self._precision, config.workers.threads)
        self._publisher = Publisher(config.output, emulator, self._provenance(), comm.rank == 0)
        self._domain: Domain | None = None
        self._put: dict[str, NDArray[np.float64]] = {}
        self._fields: YearFields | None = None

    @classmethod
    def init(cls, config: "str | Path | Config", comm: Any) -> "Component":
        """Start the plugin on a communicator of mpi4py, or on the one a Fortran integer names. Collective.

        Rank 0 reads the configuration. Raises ConfigError, EmulatorError, OutputError or MPIError on every rank alike.
        """
        private = Communicator.of(comm)
        console.show_log(private.rank)
        try:
            loaded = private.together(lambda: _load(config) if private.rank == 0 else None)
            agreed: Config = private.bcast(loaded)
            return private.together(lambda: cls(agreed, private, Emulator.load(agreed.emulator)))
        except BaseException:
            private.free()
            raise

    @property
    def legend(self) -> tuple[str, ...]:
        """Names that `put` takes."""
        return self._legend.names

    def together(self, local: Callable[[], T]) -> T:
        """Run a function that does not communicate; what it raises on one rank is raised on all. Collective."""
        return self._alive().together(local)

    def set_grid(self, grid: HostGrid) -> None:
        """Take this rank's host cells (none is normal), once. Collective.

        Raises GridError or RegridError on every rank alike. Make the cells within `together` where they may be wrong
        on one rank alone.
        """
        comm = self._alive()
        comm.together(self._refuse_second_grid)
        self._domain = Domain.build(comm, self.emulator, self.config.regrid, grid)

    def put(self, name: str, values: ArrayLike) -> None:
        """Hand over one class of the state, (n,) fractions in the order of `set_grid`; judged in `step`. Local."""
        self._alive()
        expected = self._gridded().hosts.own.size
        if name not in self._legend.names:
            raise UsageError(f"put: unknown class {name!r}; the state's classes are {', '.join(self._legend.names)}")
        taken = np.array(values, dtype=np.float64).reshape(-1)
        if taken.size != expected:
            raise UsageError(
                f"put {name!r}: expected {expected} values, one a host cell of this rank, got {taken.size}"
            )
        self._put[name] = taken

    def step(self, year: int, state: Mapping[str, ArrayLike] | None = None) -> dict[str, NDArray[np.float64]]:
        """Advance to the fields of the state at the start of `year`; returns {class: (n_fine,)} float64. Collective.

        `state` may hand over classes as `put` does. Raises the same error on every rank: UsageError, TimeOrderError,
        BadInputError, ConstraintError or OutputError; the last good year is then still served, and this one may be
        tried again.
        """
        comm, watch = self._alive(), Stopwatch()
        own = comm.together(lambda: self._judged(year, state or {}))
        fields, report = self._evaluate(year, own, watch)
        with watch.stage("output"):
            self._publisher.write(comm, self._gridded(), fields)
        self._fields, self._put = fields, {}
        self._publisher.tell(comm, report, watch)
        return {name: fields.fine(k) for k, name in enumerate(self.emulator.legend)}

    def size(self, grid: str) -> int:
        """Number of this rank's cells on "fine" or "host". Local."""
        self._alive()
        domain = self._gridded()
        return domain.fine_size if known_grid(grid) == "fine" else domain.hosts.own.size

    def get(self, grid: str, name: str) -> NDArray[np.float64]:
        """A field or the geometry of this rank's cells on "fine" or "host", float64. Local.

        Fields: the emulator's classes as fractions of land, `class` and `filled` on the fine grid, `year` (1,).
        Geometry: lon, lat in degrees, area in m2, cell_id, land_fraction. Raises UsageError for what is not there yet.
        """
        self._alive()
        domain, fine = self._gridded(), known_grid(grid) == "fine"
        if name in GEOMETRY:
            return fine_geometry(domain, self.emulator, name) if fine else host_geometry(domain, name)
        known = [*self.emulator.legend, *(("class", "filled") if fine else ()), "year"]
        if name not in known:
            raise UsageError(f"get: unknown name {name!r} on the {grid} grid; known: {', '.join([*known, *GEOMETRY])}")
        fields = self._served()
        if name == "year":
            return np.array([float(fields.year)])
        if name == "class":
            return fields.classes()
        if name == "filled":
            return domain.filled().astype(np.float64)
        k = self.emulator.legend.index(name)
        return fields.fine(k) if fine else fields.columns[k].copy()

    def get_into(self, grid: str, name: str, out: NDArray[np.float64]) -> None:
        """Like `get`, into a float64 array of exactly the right length."""
        values = self.get(grid, name)
        if out.shape != values.shape:
            raise UsageError(f"get {name!r} on the {grid} grid: expected room for {values.size} values, got {out.size}")
        out[...] = values

    def write_restart(self, path: "str | Path") -> None:
        """Write the year served to exactly `path`; an older file of that name becomes `path`.1. Collective."""
        comm = self._alive()
        fields = comm.together(self._served)
        state = self._gridded().hosts.gather(comm, fields.state)
        restart = Restart(fields.year, state, fields.digest, self._identity(), self._provenance())
        comm.together(lambda: restart.write(Path(path)) if comm.rank == 0 else None)

    def read_restart(self, path: "str | Path") -> None:
        """After `set_grid`: serve the restart's year without a step; the next step goes on from it. Collective."""
        comm = self._alive()
        domain = comm.together(self._gridded)
        identity, others = self._identity(), self.config.restart.allow_other_weights
        read = comm.together(lambda: Restart.read(Path(path), identity, others) if comm.rank == 0 else None)
        year, made = comm.bcast(read and (read.year, read.digest))
        state = domain.hosts.scatter(comm, read.state if read else np.empty((0, 0)))
        fields, _ = self._evaluate(year, state, Stopwatch())
        if fields.digest != made and comm.rank == 0:
            log.warning("restart %s: the fields of %d differ in bits from those of the run that wrote it; processor, "
                        "precision, threads, versions or weights are not the same", path, year)  # fmt: skip
        self._fields, self._put = fields, {}

    def finalize(self) -> None:
        """Give back what the plugin holds; a second call does nothing. Collective."""
        if self._comm is None:
            return
        comm, self._comm = self._comm, None
        self._publisher.summarise()
        self._domain = self._fields = None
        comm.free()

    def __enter__(self) -> "Component":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finalize()

    def _evaluate(self, year: int, state: NDArray[np.float64], watch: Stopwatch) -> tuple[YearFields, YearReport]:
        """State (K, n) of this rank's host cells to the fields of a year and their report. Collective."""
        comm, domain, place = self._alive(), self._gridded(), self._gridded().placement
        with watch.stage("exchange"):
            reaching = domain.hosts.to_tiles(comm, state)
        with watch.stage("regrid"):
            regridded = place.land.apply(reaching)
        with watch.stage("exchange"):
            totals = place.totals(comm, regridded)
        with console.progress(str(year), len(domain.own), comm.rank == 0) as done:
            tiles = comm.together(lambda: self._runner.run(domain.work(totals), watch, done))
        with watch.stage("exchange"):
            columns = host_columns(comm, domain, state, tiles)
            fields = YearFields(year, state, totals, regridded, tuple(tiles), columns, digest(comm, domain, tiles))
            return fields, self._report(fields, watch)

    def _report(self, fields: YearFields, watch: Stopwatch) -> YearReport:
        comm, domain, place = self._alive(), self._gridded(), self._gridded().placement
        land = place.host_area * domain.hosts.own.land_fraction
        delivered, filled = fine_areas(domain, self.emulator, fields.tiles)
        budget = Budget.of(comm, place, fields.state * land, fields.regridded, fields.totals, delivered, filled)
        residual = comm.max(max((float(np.abs(tile.residual).max()) for tile in fields.tiles), default=0.0))
        circle = roundtrip(comm, land, fields.state, fields.columns)
        return YearReport(fields.year, self.emulator.legend, budget, residual, circle, watch.seconds)

    def _judged(self, year: int, state: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
        own = self._gridded().hosts.own
        for name, values in state.items():
            self.put(name, values)
        self._refuse_year(year)
        return judge(self._put, self._legend, self.config.state, own.cell_id, own.land_fraction)

    def _refuse_year(self, year: int) -> None:
        if self._fields is None:
            return
        last, forward = self._fields.year, self.config.time == "forward"
        if (year <= last) if forward else (year >= last):
            word = "after" if forward else "before"
            raise TimeOrderError(
                f"step({year}): expected a year {word} {last}, the last one (time: {self.config.time})"
            )

    def _refuse_second_grid(self) -> None:
        if self._domain is not None:
            raise UsageError("set_grid was already called; make another component for another grid")

    def _alive(self) -> Communicator:
        if self._comm is None:
            raise UsageError("the component was finalized; make another one with init")
        return self._comm

    def _gridded(self) -> Domain:
        if self._domain is None:
            raise UsageError("there is no host grid yet; call set_grid first")
        return self._domain

    def _served(self) -> YearFields:
        if self._fields is None:
            raise UsageError("no year is served yet; call step or read_restart first")
        return self._fields

    def _identity(self) -> dict[str, str]:
        return {
            "emulator": f"{self.emulator.name} {self.emulator.hash}",
            "legend": " ".join(self.emulator.legend),
            "host_grid": self._gridded().hosts.fingerprint,
            "constraint": self.config.constraint.mode,
            "weights": self.emulator.weights_hash,
        }

    def _provenance(self) -> dict[str, str]:
        return provenance.collect(self.emulator, self.config, self._precision)


def _load(config: "str | Path | Config") -> Config:
    return config if isinstance(config, Config) else Config.load(config)
