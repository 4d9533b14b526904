"""The component a host drives: init, set_grid, put, step, get, restart, finalize.

What a step does is in `years.py`.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ai4land_coupler import console, isolation, provenance
from ai4land_coupler.ahead import Ahead
from ai4land_coupler.comm import Communicator
from ai4land_coupler.config import Config
from ai4land_coupler.device import Device, agreed_precision
from ai4land_coupler.domain import Domain
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import BadInputError, CouplerError, Status, TimeOrderError, UsageError
from ai4land_coupler.features import StaticFeatures
from ai4land_coupler.grids import HostGrid
from ai4land_coupler.publish import Publisher
from ai4land_coupler.restart import Restart
from ai4land_coupler.state import StateLegend, judge, refuse_missing
from ai4land_coupler.timing import Stopwatch
from ai4land_coupler.year import GEOMETRY, YearFields, fine_geometry, host_geometry, known_grid
from ai4land_coupler.years import Years

if TYPE_CHECKING:
    from ai4land_coupler.inference import TileRunner
    from ai4land_coupler.record import Answer, Ask, Recorder

log = logging.getLogger(__package__)

T = TypeVar("T")


class Component:
    """A land-use emulator inside a host's MPI job. Make one with `Component.init`; call all hooks from one thread."""

    def __init__(
        self, config: Config, comm: Communicator, emulator: Emulator, device: Device, precision: str,
        statics: StaticFeatures,
    ) -> None:  # fmt: skip
        self.config = config
        self.device = device
        self.emulator = emulator
        self._comm: Communicator | None = comm
        self._years: Years | None = None
        self.origin: dict[str, str] = {}
        self._legend = StateLegend.of(config.state, emulator.legend)
        self._precision = precision
        self._runner = _runner(config, emulator, device, self._precision, statics)
        self._publisher = Publisher(
            config.output, emulator, self._provenance(), comm.rank == 0, config.time == "backward",
            config.constraint.mode == "change",
        )  # fmt: skip
        self._put: dict[str, NDArray[np.float64]] = {}
        self._recorder: Recorder | None = None

    @classmethod
    def init(cls, config: "str | Path | Config", comm: Any) -> "Component":
        """Start the plugin on a communicator of mpi4py, or on the one a Fortran integer names. Collective.

        Rank 0 reads the configuration. Raises ConfigError, DeviceError, EmulatorError, OutputError or MPIError on every
        rank alike.
        """
        private = Communicator.of(comm)
        try:
            with private.hook():
                with private.whole():
                    console.show_log(private.rank)
                    agreed: Config = private.bcast(_load(config) if private.rank == 0 else None)
                    emulator = Emulator.load(agreed.emulator)
                    with _reading(emulator) as statics:
                        isolation.load_torch()
                        device = Device.agreed(private, agreed.device, agreed.workers.per_device)
                        precision = agreed_precision(private, device, agreed.precision)
                        made = cls(agreed, private, emulator, device, precision, statics.result())
                made._open_record(private)
                return made
        except BaseException:
            private.free()
            raise

    @property
    def legend(self) -> tuple[str, ...]:
        """Names that `put` takes."""
        return self._legend.names

    @property
    def optional(self) -> tuple[str, ...]:
        """Those of `legend` that count as 0 where nobody puts them."""
        return self._legend.table.optional

    @property
    def held(self) -> str | None:
        """Why the last step served an earlier year's fields; None where it did not."""
        return self._years.held if self._years else None

    @property
    def last(self) -> int | None:
        """The last year stepped to, a restart's included; None before the first."""
        return self._years.last if self._years else None

    @property
    def served_state(self) -> tuple[int, NDArray[np.float64]]:
        """The year served, and its state (K, n) of this rank's cells in the emulator's legend. Local."""
        fields = self._gridded().served
        return fields.year, fields.state

    def judged(self, state: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
        """The state (K, n) that a step would take from what is put, without taking it. Raises BadInputError. Local."""
        return self._judge({name: np.asarray(values, dtype=np.float64) for name, values in state.items()})

    def tell_origin(self, about: Mapping[str, str]) -> None:
        """What else outputs, restarts and the report are to say of where the states come from. Before `set_grid`."""
        self.origin = dict(about)

    def together(self, local: Callable[[], T]) -> T:
        """Run a function that does not communicate; what it raises on one rank is raised on all. Collective."""
        return self._alive().together(local)

    def agreed(self, on_first: Callable[[], T]) -> T:
        """What a function gives on rank 0, where alone it runs, on every rank; or what it raises. Collective."""
        comm = self._alive()
        return comm.bcast(comm.together(lambda: on_first() if comm.rank == 0 else None))

    def set_grid(self, grid: HostGrid | Callable[[], HostGrid]) -> None:
        """Take this rank's host cells (none is normal), once. Collective.

        grid: the cells, or a function that makes them, where they may be wrong on one rank alone. Raises GridError or
        RegridError on every rank alike.
        """
        comm = self._alive()
        given: list[HostGrid] = []
        with comm.hook(), self._noted(lambda record, *end: record.grid(comm, given[0] if given else None, *end)):
            config = self.config
            with comm.whole():
                self._refuse_second_grid()
                given.append(grid() if callable(grid) else grid)
                borrow = config.constraint.mode != "change"
                domain = Domain.build(comm, self.emulator, config.regrid, given[0], borrow, self.device.workers)
                legend = self._legend.on(domain.hosts.own, self.emulator)
                years = Years(
                    comm, domain, self.emulator, self._runner, self._publisher, config.lag, config.constraint.mode
                )
                self._publisher.know(self._provenance(domain))
            self._years, self._legend = years, legend

    def put(self, name: str, values: ArrayLike) -> None:
        """Hand over one class of the state, (n,) fractions in the order of `set_grid`; judged in `step`. Local."""
        with self._noted_here("put", name):
            self._alive()
            expected = self._gridded().domain.hosts.own.size
            if name not in self._legend.names:
                known = ", ".join(self._legend.names)
                raise UsageError(f"put: unknown class {name!r}; the state's classes are {known}")
            given = np.asarray(values)  # judged by its length before a value is read
            if given.size != expected:
                raise UsageError(
                    f"put {name!r}: expected {expected} values, one a host cell of this rank, got {given.size}"
                )
            self._put[name] = np.array(given, dtype=np.float64).reshape(-1)

    def step(self, year: int, state: Mapping[str, ArrayLike] | None = None) -> dict[str, NDArray[np.float64]]:
        """Advance to the fields of the state at the start of `year`; returns {class: (n_fine,)} float64. Collective.

        `state` may hand over classes as `put` does. With `lag: 1` the fields served are those of the step before.
        Raises the same error on every rank: UsageError, TimeOrderError, BadInputError, ConstraintError or OutputError;
        the last good year is then still served, and this one may be tried again. An OutputError may be that of an
        earlier year, which is then given up. Where bad values are configured to hold last year's fields they are
        served, and `held` says why.
        """
        room: dict[str, NDArray[np.float64]] = {}
        self._advance(year, state, room)
        return room

    def advance(self, year: int, state: Mapping[str, ArrayLike] | None = None) -> None:
        """What `step` does, for hosts that `get` the fields they want. Collective."""
        self._advance(year, state, None)

    def _room(self) -> dict[str, NDArray[np.float64]]:
        n = self._years.domain.fine_size if self._years else 0
        return {name: np.empty(n) for name in self.emulator.legend}

    def _advance(
        self, year: int, state: Mapping[str, ArrayLike] | None, room: dict[str, NDArray[np.float64]] | None
    ) -> None:
        """A step, whose fine fields are left in `room` where one is given."""
        comm = self._alive()
        with comm.hook():
            with self._noted(lambda record, *end: record.step(comm, year, self._put, *end)):
                with comm.whole():
                    if room is not None:  # while nothing has changed that a lack of memory would leave half done
                        room.update(self._room())
                    watch = Stopwatch()
                    self._publisher.heed()
                    self._complete(year, state or {})
                    _refuse_different_years(comm, year)
                years, own, refused = self._gridded(), None, ""
                try:
                    own = comm.together(self._judged)
                except BadInputError as error:
                    if self.config.on_bad_input == "fail" or years.fields is None:
                        raise
                    refused = str(error)

                def take(fields: YearFields) -> None:
                    for k, values in enumerate((room or {}).values()):
                        fields.fine(k, values)

                if own is None:
                    years.hold(year, refused, watch, take)
                else:
                    years.advance(year, own, watch, take)
            self._put = {}

    def size(self, grid: str) -> int:
        """Number of this rank's cells on "fine" or "host". Local."""
        self._alive()
        domain = self._gridded().domain
        return domain.fine_size if known_grid(grid) == "fine" else domain.hosts.own.size

    def get(self, grid: str, name: str) -> NDArray[np.float64]:
        """A field or the geometry of this rank's cells on "fine" or "host", float64. Local.

        Fields: the emulator's classes as fractions of land, `class` and `filled` on the fine grid, `year` (1,).
        Geometry: lon, lat in degrees, area in m2, cell_id, land_fraction. Raises UsageError for what is not there yet.
        """
        with self._noted_here("get", f"{grid} {name}"):
            self._alive()
            domain, fine = self._gridded().domain, known_grid(grid) == "fine"
            if name in GEOMETRY:
                return fine_geometry(domain, self.emulator, name) if fine else host_geometry(domain, name)
            known = [*self.emulator.legend, *(("class", "filled") if fine else ()), "year"]
            if name not in known:
                names = ", ".join([*known, *GEOMETRY])
                raise UsageError(f"get: unknown name {name!r} on the {grid} grid; known: {names}")
            fields = self._gridded().served
            if name == "year":
                return np.array([float(fields.year)])
            if name == "class":
                return fields.classes()
            if name == "filled":
                return domain.filled().astype(np.float64)
            k = self.emulator.legend.index(name)
            return fields.fine(k) if fine else fields.columns[k].copy()

    def views(self) -> dict[tuple[str, str], list[NDArray[np.float64]]]:
        """The classes served, by grid and name, as memory to copy from; nothing before the first year. Local.

        They stay as they are until the next step or read_restart. What lies on a device is left to `get`.
        """
        fields = self._years.fields if self._years else None
        if fields is None:
            return {}
        named = list(enumerate(self.emulator.legend))
        fine = {("fine", name): here for k, name in named if (here := fields.here(k)) is not None}
        return fine | {("host", name): [fields.columns[k]] for k, name in named}

    def get_into(self, grid: str, name: str, out: NDArray[np.float64]) -> None:
        """Like `get`, into a float64 array of exactly the right length."""
        values = self.get(grid, name)
        if out.shape != values.shape:
            raise UsageError(f"get {name!r} on the {grid} grid: expected room for {values.size} values, got {out.size}")
        out[...] = values

    def write_restart(self, path: "str | Path") -> None:
        """Write the year served to exactly `path`; an older file of that name becomes `path`.1. Collective.

        A year whose fields are in the making (`lag: 1`) goes with it. It waits until the output of the years before is
        on disk; where that fails OutputError is raised, once, and no restart written.
        """
        comm = self._alive()

        with (
            comm.hook(),
            self._noted(lambda record, status, text, _: record.restart_written(comm, Path(path), status, text)),
        ):
            years = self._gridded()
            fields, hosts = years.served, years.domain.hosts
            ahead = None if years.in_the_making is None else hosts.gather(comm, years.in_the_making)
            first = None if years.first is None else hosts.gather(comm, years.first)
            before = years.prior
            prior = None if before is None else before.gather(comm, before.middles(fields.priors or []))
            restart = Restart(
                fields.year, hosts.gather(comm, fields.state), fields.digest,
                fields.year if years.last is None else years.last, ahead, self._identity(), self._provenance(),
                first, prior,
            )  # fmt: skip
            self._publisher.settle()  # a restart says that the output up to its year is there
            comm.agree(None)  # nothing is written where a rank has failed
            if comm.rank == 0:
                restart.write(Path(path))

    def read_restart(self, path: "str | Path") -> None:
        """After `set_grid`: serve the restart's year without a step; the next step goes on from it. Collective."""
        comm = self._alive()
        with comm.hook():
            with self._noted(lambda record, *end: record.restart_read(comm, Path(path), *end)):
                with comm.whole():
                    years, others = self._gridded(), self.config.restart.allow_other_weights
                    self._publisher.settle()
                    read = Restart.read(Path(path), self._identity(), others) if comm.rank == 0 else None
                years.resume(read, str(path))
            self._put = {}

    def finalize(self) -> None:
        """Give back what the plugin holds, once a year in the making is served; a second call does nothing. Collective.

        All years are then on disk. Raises what that year, or one still to be written, failed with.
        """
        if self._comm is None:
            return
        comm = self._comm
        try:
            with comm.hook(), self._noted(lambda record, *end: record.finalized(comm, *end)):
                if self._years is not None:
                    self._years.land()
                with comm.whole():
                    self._publisher.settle()
                self._publisher.summarise()
        finally:
            self._give_back()

    def _give_back(self) -> None:
        comm, self._comm = self._alive(), None
        try:  # no `suppress`, which may lack memory itself
            try:
                self._publisher.close()
            finally:
                if self._years is not None:
                    self._years.drop()
        except MemoryError:
            pass
        self._years = None
        try:
            if self._recorder is not None:
                self._recorder.close(comm)
        except MemoryError:
            pass
        comm.free()

    def __enter__(self) -> "Component":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finalize()
        elif self._comm is not None and isinstance(error, Exception):  # else this rank ends, and others may not come
            self._give_back()

    def _complete(self, year: int, state: Mapping[str, ArrayLike]) -> None:
        years = self._gridded()
        for name, values in state.items():
            self.put(name, values)
        if years.last is not None:
            _refuse_year(year, years.last, self.config.time)
        refuse_missing(self._put, self._legend, years.domain.hosts.own.size)

    def _judged(self) -> NDArray[np.float64]:
        return self._judge(self._put)

    def _judge(self, values: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        own = self._gridded().domain.hosts.own
        return judge(values, self._legend, self.config.state, own.cell_id, own.land_fraction)

    def _refuse_second_grid(self) -> None:
        if self._years is not None:
            raise UsageError("set_grid was already called; make another component for another grid")

    def _alive(self) -> Communicator:
        if self._comm is None:
            raise UsageError("the component was finalized; make another one with init")
        return self._comm

    def _gridded(self) -> Years:
        if self._years is None:
            raise UsageError("there is no host grid yet; call set_grid first")
        return self._years

    def _identity(self) -> dict[str, str]:
        return {
            "emulator": f"{self.emulator.name} {self.emulator.hash}",
            "legend": " ".join(self.emulator.legend),
            "host_grid": self._gridded().domain.hosts.fingerprint,
            "constraint": self.config.constraint.mode,
            "weights": self.emulator.weights_hash,
            "design": self.emulator.design,
        }

    def _provenance(self, domain: Domain | None = None) -> dict[str, str]:
        known = provenance.collect(self.emulator, self.config, self._precision, self.device.name) | self.origin
        if domain is None and self._years is None:
            return known
        domain = domain or self._gridded().domain
        return known | {"regrid_engine": domain.engine, "host_grid": domain.hosts.fingerprint}

    def _open_record(self, comm: Communicator) -> None:
        if self.config.record is not None:
            from ai4land_coupler.record import Recorder

            self._recorder = Recorder.open(comm, self.config.record, self.config, self.legend, self._provenance())

    @contextmanager
    def _noted(self, write: "Callable[[Recorder, int, str, Ask], None]") -> Iterator[None]:
        """Hand the end of a collective hook to the recorder, where there is one: status, text, how to get the answer.

        An exit or interrupt of this rank is an error on the others, who all come to the recorder.
        """
        try:
            with self._alive().whole():  # so that every rank comes to the recorder with the same end
                yield
        except BaseException as error:
            self._tell(write, error)
            raise
        self._tell(write, None)

    def _tell(self, write: "Callable[[Recorder, int, str, Ask], None]", error: BaseException | None) -> None:
        """Call the recorder; where that fails before it is reached, so that the other ranks hear of it there."""
        if self._recorder is None:
            return
        try:
            if error is None:
                write(self._recorder, int(Status.HELD if self.held else Status.OK), self.held or "", self._answer)
            else:
                status = error.status if isinstance(error, CouplerError) else Status.INTERNAL
                write(self._recorder, int(status), str(error), lambda: None)
        except Exception as missed:
            self._recorder.missed(self._alive(), missed)

    @contextmanager
    def _noted_here(self, hook: str, arguments: str) -> Iterator[None]:
        """Hand the failure of a local hook to the recorder, where there is one."""
        try:
            yield
        except CouplerError as error:
            if self._recorder is not None:
                self._recorder.local(hook, arguments, int(error.status), str(error))
            raise

    def _answer(self) -> "Answer | None":
        """What the host is now served, as the recorder keeps it. Collective."""
        from ai4land_coupler.record import Answer

        years = self._years
        if years is None or years.fields is None:
            return None
        return Answer.of(self._alive(), years.fields, years.domain.hosts.own.cell_id, self.held or "")


@contextmanager
def _reading(emulator: Emulator) -> Iterator[Ahead[StaticFeatures]]:
    """A thread that reads an emulator's static fields, while torch is imported."""
    statics = Ahead(lambda: StaticFeatures(emulator))
    statics.start()
    try:
        yield statics
    finally:
        statics.wait()


def _runner(
    config: Config, emulator: Emulator, device: Device, precision: str, statics: StaticFeatures
) -> "TileRunner":
    from ai4land_coupler.ondevice.runner import runner_on

    mode, workers = config.constraint.mode, config.workers
    return runner_on(device, emulator, mode, precision, workers.threads, workers.per_device, statics)


def _refuse_different_years(comm: Communicator, year: int) -> None:
    first, last = comm.min(year), -(comm.min(-year) or 0)
    if first != last:
        raise UsageError(f"step: expected one year on all ranks, got {first} on some and {last} on others")


def _refuse_year(year: int, last: int, time: str) -> None:
    if (year <= last) if time == "forward" else (year >= last):
        word = "after" if time == "forward" else "before"
        raise TimeOrderError(f"step({year}): expected a year {word} {last}, the last one (time: {time})")


def _load(config: "str | Path | Config") -> Config:
    return config if isinstance(config, Config) else Config.load(config)
