"""The years of a run: the one that is served, the one in the making, and how one follows the other."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler import console
from ai4land_coupler.ahead import Ahead
from ai4land_coupler.comm import Communicator
from ai4land_coupler.domain import Domain
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import UsageError
from ai4land_coupler.hostchange import HostChange
from ai4land_coupler.priormap import Map, PriorMap
from ai4land_coupler.publish import Publisher
from ai4land_coupler.report import YearReport
from ai4land_coupler.restart import Restart
from ai4land_coupler.tilework import TileDraft, TileFields
from ai4land_coupler.timing import Stopwatch
from ai4land_coupler.year import YearFields, digest, host_columns, report_of

if TYPE_CHECKING:
    from ai4land_coupler.inference import TileRunner

log = logging.getLogger(__package__)

Float = NDArray[np.float64]
Take = Callable[[YearFields], None]


@dataclass(frozen=True, eq=False)
class Begun:
    """A year on the coarse grid: state (K, n) of this rank's host cells and reaching (K, h) of those that reach its
    tiles, regridded (K, m) areas in m2 and totals (K, w) of its coarse cells; in `change` mode first (K, n), the state
    of the first year, and cut (K, m) in m2; priors: the map of the year made before around each of its tiles, where the
    network is given one."""  # fmt: skip

    year: int
    state: Float
    reaching: Float
    regridded: Float
    totals: Float
    watch: Stopwatch
    first: Float | None = None
    cut: Float | None = None
    priors: list[Map] | None = None


@dataclass(frozen=True, eq=False)
class Made:
    """What the network made of this rank's tiles: their fields, or drafts where totals are still to be shared out."""

    fields: list[TileFields] | None
    drafts: list[TileDraft]


@dataclass(frozen=True, eq=False)
class InTheMaking:
    """A year whose tiles are refined while the host integrates; `hidden` counts the seconds of that."""

    begun: Begun
    made: Ahead[Made]
    hidden: Stopwatch


class Years:
    """Takes a run from year to year on a host grid.

    `_begin`, `_refined`, `_settled`, `_closed` and `_finish` are the picture of the whole plugin: the host's state is
    put on the coarse grid, refined tile by tile with its totals closed, and brought back to host columns. Where host
    cells are larger than coarse cells their totals follow from what the network says, so closing waits until all tiles
    have run.
    fields: the year served; last: the last year stepped to; first (K, n): the state of the first year, in `change`
    mode; held: why the last step served an earlier year's fields.
    """

    def __init__(
        self,
        comm: Communicator,
        domain: Domain,
        emulator: Emulator,
        runner: "TileRunner",
        publisher: Publisher,
        lag: int,
        mode: str,
    ) -> None:
        self._comm, self._emulator, self._runner, self._publisher, self._lag = comm, emulator, runner, publisher, lag
        self.domain = domain
        self._shares = domain.shares if mode == "level" else None
        self._change = (
            HostChange.build(comm, domain.hosts, domain.placement, domain.shares) if mode == "change" else None
        )
        self.prior = PriorMap.build(emulator, domain, comm.rank) if emulator.unet.prior else None
        self.first: Float | None = None
        self.fields: YearFields | None = None
        self.last: int | None = None
        self.held: str | None = None
        self._report: YearReport | None = None
        self._ahead: InTheMaking | None = None

    @property
    def served(self) -> YearFields:
        """The fields of the year that is served; UsageError before the first."""
        if self.fields is None:
            raise UsageError("no year is served yet; call step or read_restart first")
        return self.fields

    @property
    def in_the_making(self) -> Float | None:
        """State (K, n) of the year whose fields are to come, if there is one."""
        return self._ahead.begun.state if self._ahead else None

    def advance(self, year: int, state: Float, watch: Stopwatch, take: Take) -> None:
        """Step to a year with its state (K, n). With `lag` it is refined while the host integrates. Collective.

        take: is given the fields that are to be served; what it raises fails the step.
        """
        with watch.paused():
            self.land()
        started: list[InTheMaking] = []
        ahead, served = None, (self.fields, self._report, self.first)
        with _given_up(started), self._comm.whole():
            if self._lag and self.fields is not None:
                ahead = self._prepared(self._begin(year, state, watch))
                started.append(ahead)
                take(self.fields)
            else:
                served = self._published(*self._tiled(self._begin(year, state, watch)))
                take(served[0])
            _start(started)
        (self.fields, self._report, self.first), self._ahead = served, ahead
        self.last, self.held = year, None

    def hold(self, year: int, why: str, watch: Stopwatch, take: Take) -> None:
        """Step to a year whose input was refused: serve the fields there are, and say so; see `advance`. Collective."""
        with watch.paused():
            self.land()
        with self._comm.whole():
            fields, report = self.served, self._report
            assert report is not None
            if self._comm.rank == 0:
                log.warning("step(%d): the fields of %d are held, the input was refused: %s", year, fields.year, why)
            with watch.stage("output"):
                self._publisher.write(self._comm, self.domain, fields, year, held=f"fields of {fields.year}: {why}")
            self._publisher.tell(self._comm, replace(report, year=year, seconds=watch.seconds, held=why), watch)
            take(fields)
        self.last, self.held = year, why

    def resume(self, read: Restart | None, path: str) -> None:
        """Take up the restart that rank 0 has read: its year is served, what was in the making is made. Collective."""
        comm, hosts, ahead, started = self._comm, self.domain.hosts, None, list[InTheMaking]()
        with _given_up(started), comm.whole():
            self._wait()
            year, last, made, more = comm.bcast(read and (read.year, read.last, read.digest, read.ahead is not None))
            first = None if self._change is None else hosts.scatter(comm, _or_nothing(read.first if read else None))
            nothing = np.empty((0, 0), np.uint8)
            whole = nothing if read is None or read.prior is None else read.prior
            maps = None if self.prior is None else self.prior.scatter(comm, whole)
            state = hosts.scatter(comm, _or_nothing(read.state if read else None))
            begun = self._begin(year, state, Stopwatch(), maps, first)
            fields, report = self._finish(*self._tiled(begun))
            if fields.digest != made and comm.rank == 0:
                log.warning(
                    "restart %s: the fields of %d differ in bits from those of the run that wrote it; processor, "
                    "precision, threads, versions or weights are not the same", path, year,
                )  # fmt: skip
            if more:
                state = hosts.scatter(comm, _or_nothing(read.ahead if read else None))
                maps = None if self.prior is None else self.prior.maps(fields.tiles)
                ahead = self._prepared(self._begin(last, state, Stopwatch(), maps, first))
                started.append(ahead)
            self._publisher.go_on(year if more else last)
            _start(started)
        self.fields, self._report, self.first, self._ahead = fields, report, first, ahead
        self.last, self.held = last, None
        if not self._lag:
            self.land()

    def land(self) -> None:
        """Serve the year in the making, if there is one; what its thread raised is raised on every rank. Collective.

        The year stays until it is served, for the step to be tried again: what a rank then has not refined it does.
        """
        if self._ahead is None:
            return
        begun, made, hidden = self._ahead.begun, self._ahead.made, self._ahead.hidden
        with self._comm.whole():
            begun.watch.resume()
            with begun.watch.stage("wait"):
                refined = self._comm.together(made.result)
            begun.watch.absorb(hidden)
            kept = replace(refined, drafts=list(refined.drafts))  # for another try
            settled = self._settled(begun, kept)
            served = self._published(settled, self._closed(settled, kept))
        (self.fields, self._report, self.first), self._ahead = served, None

    def drop(self) -> None:
        """Forget the year in the making, once its thread has ended. Local."""
        self._wait()
        self._ahead = None

    def _wait(self) -> None:
        if self._ahead is not None:
            self._ahead.made.wait()

    def _begin(
        self, year: int, state: Float, watch: Stopwatch, maps: list[Map] | None = None, first: Float | None = None
    ) -> Begun:
        """A year on the coarse grid. Collective.

        maps: of the year made before, on this rank's tiles, where that is not the one that is served; first: state of
        the run's first year, where that is not known yet.
        """
        place = self.domain.placement
        with watch.stage("exchange"):
            priors = None if self.prior is None else self._around(self.prior, maps)
        with watch.stage("exchange"):
            reaching = self.domain.hosts.to_tiles(self._comm, state)
        with watch.stage("regrid"):
            regridded = place.land.apply(reaching)
        with watch.stage("exchange"):
            if self._change is None:
                totals = place.totals(self._comm, regridded)
                return Begun(year, state, reaching, regridded, totals, watch, priors=priors)
            first = self.first if first is None else first
            first = state if first is None else first
            totals, cut = self._change(self._comm, state, first)
        return Begun(year, state, reaching, regridded, totals, watch, first, cut, priors)

    def _around(self, prior: PriorMap, maps: list[Map] | None) -> list[Map]:
        """The map of the year made before around each of this rank's tiles. Collective."""
        made = self.fields.tiles if self.fields else None
        return prior.windows(self._comm, self._comm.together(lambda: prior.maps(made)) if maps is None else maps)

    def _refined(self, begun: Begun) -> Made:
        domain, first = self.domain, self._comm.rank == 0
        with console.progress(str(begun.year), len(domain.own), first) as done:

            def one_more() -> None:
                done()
                self._comm.let_in()

            return self._comm.together(lambda: self._made(begun, begun.watch, one_more))

    def _made(self, begun: Begun, watch: Stopwatch, done: Callable[[], None]) -> Made:
        """Local, and free of MPI: it may run in a thread."""
        work = self.domain.work(begun.totals, self._change is not None, begun.priors)
        if self._shares is None:
            return Made(self._runner.run(work, watch, done), [])
        return Made(None, self._runner.draft(work, watch, done, once=not self._lag))

    def _settled(self, begun: Begun, made: Made) -> Begun:
        """The year with the totals that its tiles are to meet, which may follow from what the network says."""
        if self._shares is None:
            return begun
        comm, domain, watch = self._comm, self.domain, begun.watch
        with watch.stage("regrid"):
            means = domain.of_coarse([draft.means for draft in made.drafts], len(self._emulator.legend))
            ids = domain.hosts.own.cell_id
            regridded = self._shares(comm, ids, begun.state, begun.reaching, begun.regridded, means)
        with watch.stage("exchange"):
            totals = domain.placement.totals(comm, regridded)
        return replace(begun, regridded=regridded, totals=totals)

    def _closed(self, begun: Begun, made: Made) -> list[TileFields]:
        """The fields of this rank's tiles, which meet the year's totals. Drafts are used up."""
        if made.fields is not None:
            return made.fields
        work, runner = self.domain.work, self._runner
        return self._comm.together(lambda: runner.close(work(begun.totals), made.drafts, begun.watch))

    def _tiled(self, begun: Begun) -> tuple[Begun, list[TileFields]]:
        """A year and the fields of this rank's tiles; what it began with is dropped before those are made."""
        made = self._refined(begun)
        begun = self._settled(begun, made)
        return begun, self._closed(begun, made)

    def _finish(self, begun: Begun, tiles: list[TileFields]) -> tuple[YearFields, YearReport]:
        comm, domain = self._comm, self.domain
        with begun.watch.stage("exchange"):
            tallies = [tile.tally for tile in tiles if tile.tally is not None]
            columns, bits = host_columns(comm, domain, begun.state, tallies), digest(comm, tallies)
            fields = YearFields(
                begun.year, begun.state, begun.totals, begun.regridded, begun.cut, begun.priors, tuple(tiles),
                columns, bits,
            )  # fmt: skip
            return fields, report_of(comm, domain, self._emulator.legend, fields, tallies, begun.watch.seconds)

    def _published(self, begun: Begun, tiles: list[TileFields]) -> tuple[YearFields, YearReport, Float | None]:
        """A year as it is to be served, written and told of, and the state of the first year."""
        fields, report = self._finish(begun, tiles)
        with begun.watch.stage("output"):
            self._publisher.write(self._comm, self.domain, fields, fields.year)
        self._publisher.tell(self._comm, report, begun.watch)
        return fields, report, begun.first

    def _prepared(self, begun: Begun) -> InTheMaking:
        """A year whose tiles are to be refined while the host integrates."""
        hidden = Stopwatch()
        begun.watch.pause()
        return InTheMaking(begun, Ahead(lambda: self._made(begun, hidden, lambda: None)), hidden)


def _start(years: list[InTheMaking]) -> None:
    """Let a thread refine each; where there is no memory for one, that waits until it is asked for."""
    for ahead in years:
        ahead.made.start()


@contextmanager
def _given_up(started: list[InTheMaking]) -> Iterator[None]:
    """Wait for the threads of years that are not to be, where a rank has failed."""
    try:
        yield
    except BaseException:
        for ahead in started:
            ahead.made.wait()
        raise


def _or_nothing(values: Float | None) -> Float:
    """What rank 0 hands out, and nothing on the others."""
    return np.empty((0, 0)) if values is None else values
