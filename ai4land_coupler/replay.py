"""`ai4land replay`: the calls of a record made again without the host, on any number of ranks, compared bit for bit."""

import functools
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ai4land_coupler import console, provenance
from ai4land_coupler.answer import Answer
from ai4land_coupler.comm import MPI, Communicator
from ai4land_coupler.component import Component
from ai4land_coupler.config import Config
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import CouplerError, EmulatorError, OutputError, Status
from ai4land_coupler.grids import HostGrid
from ai4land_coupler.record import Ask, Recorder, contents_hash
from ai4land_coupler.recordfile import ALL_RANKS, GRID, Call, Record

log = logging.getLogger(__package__)

DECISIVE = {"emulator_hash": "emulator", "weights_hash": "weights"}
"""Where these differ the fields cannot be the same, and nothing is run."""
TELLING = ("ai4land_coupler_version", "precision", "processor", "versions", "mpi")
"""Where these differ the bits may."""


@dataclass(frozen=True)
class Outcome:
    """What came of a call made again."""

    status: int
    message: str = ""
    answer: Answer | None = None
    contents: str = ""


@dataclass(frozen=True)
class Row:
    """A call of the record; verdict: "same", "differs" or why it was not run."""

    number: int
    call: Call
    verdict: str
    differences: tuple[str, ...] = ()


class Witness(Recorder):
    """Stands where a recorder does, and keeps what came of the last call."""

    def __init__(self) -> None:
        super().__init__(Path(), ())
        self._last: Outcome | None = None

    def take(self) -> Outcome | None:
        """What came of the last call; none where it was not heard of."""
        last, self._last = self._last, None
        return last

    def grid(self, comm: Communicator, own: HostGrid | None, status: int, message: str, answer: Ask) -> None:
        """The end of a set_grid."""
        self._last = Outcome(int(status), message)

    def step(
        self, comm: Communicator, year: int, put: Mapping[str, NDArray[np.float64]], status: int, message: str,
        answer: Ask,
    ) -> None:  # fmt: skip
        """The end of a step."""
        self._last = Outcome(int(status), message, answer())

    def restart_read(self, comm: Communicator, path: Path, status: int, message: str, answer: Ask) -> None:
        """The end of a read_restart."""
        self._last = Outcome(int(status), message, answer())

    def finalized(self, comm: Communicator, status: int, message: str, answer: Ask) -> None:
        """The end of a finalize."""
        self._last = Outcome(int(status), message, answer())

    def restart_written(self, comm: Communicator, path: Path, status: int, message: str) -> None:
        """The end of a write_restart."""
        good = comm.rank == 0 and int(status) <= 0
        contents = comm.together(lambda: contents_hash(path) if good else "")
        self._last = Outcome(int(status), message, contents=comm.bcast(contents))

    def missed(self, comm: Communicator, error: Exception) -> None:
        """What fails here fails the replay."""
        raise error

    def close(self, comm: Communicator) -> None:
        """Nothing is kept."""


def run(path: Path, config: Path | None = None) -> int:
    """Replay a record on the ranks of MPI_COMM_WORLD and print a table on rank 0; 1 where anything differs, else 0.

    config: a configuration in place of the recorded one, for an emulator or weights that lie elsewhere here. Raises
    OutputError for a file that is no record, and EmulatorError where emulator or weights are not those of the record.
    """
    comm = Communicator.of(MPI.COMM_WORLD)
    console.show_log(comm.rank)
    try:
        record = comm.together(lambda: Record(path))
        settings = comm.together(lambda: _settings(record, config))
        comm.together(lambda: _compare_makers(record, settings) if comm.rank == 0 else None)
        with tempfile.TemporaryDirectory(prefix="ai4land_replay_") as folder:
            rows = list(_Replay(comm, record, Path(folder)).rows(settings))
        whole = comm.bcast(comm.rank > 0 or record.head_intact)
        if comm.rank == 0:
            _print(record, rows, comm.size)
            if not whole:
                log.error("%s: configuration, provenance or legend of the record was altered", record.path)
        return int(not whole or any(row.differences for row in rows))
    finally:
        comm.free()


class _Replay:
    """One run through a record."""

    def __init__(self, comm: Communicator, record: Record, folder: Path) -> None:
        self._comm = comm
        self._record = record
        self._folder = folder
        self._witness = Witness()
        self._mine: NDArray[np.int64] = np.empty(0, np.int64)
        self._held_by: NDArray[np.int64] = np.empty(0, np.int64)
        self._grid_set = False

    def rows(self, config: Config) -> Iterator[Row]:
        """Every call of the record, made again in order. Collective."""
        with Component.init(config, MPI.COMM_WORLD) as land:
            land._recorder = self._witness
            for i, call in enumerate(self._record.calls):
                intact = self._comm.together(functools.partial(self._intact, i))
                row = self._again(land, i, call)
                if not self._comm.bcast(intact):
                    altered = "what the record holds of this call was altered"
                    row = replace(row, verdict="differs", differences=(altered, *row.differences))
                if self._comm.rank == 0:
                    log.info("%d of %d: %s: %s", row.number, len(self._record.calls), call.name, row.verdict)
                yield row

    def _intact(self, i: int) -> bool:
        record = self._record
        if self._comm.rank:
            return True
        call = record.calls[i]
        return record.intact(i) and (call.hook != "set_grid" or call.status != Status.OK or record.grid()[1])

    def _again(self, land: Component, i: int, call: Call) -> Row:
        why = self._cannot(i, call)
        if why:
            return Row(i + 1, call, f"not run: {why}")
        made = self._made(land, i, call)
        found = tuple(differences(call, made))
        return Row(i + 1, call, "differs" if found else "same", found)

    def _refused(self, i: int) -> bool:
        """Whether the record holds the cells that call i was refused with."""
        return self._record.refused_grid(i) is not None

    def _cannot(self, i: int, call: Call) -> str:
        """Why a call is not made again; empty where it is."""
        if call.rank != ALL_RANKS:
            return f"failed on rank {call.rank} alone, with status {call.status}"
        if call.status == Status.OUTPUT:
            return "the host could not write, and nothing is written here"
        if call.status == Status.USAGE and call.hook in ("step", "set_grid") and self._grid_set:
            return "the call itself was wrong"
        if call.hook == "set_grid" and call.status != Status.OK and not self._comm.bcast(self._refused(i)):
            return "a rank gave what cannot be cells"
        return ""

    def _made(self, land: Component, i: int, call: Call) -> Outcome:
        try:
            self._make(land, i, call)
        except CouplerError as error:
            return self._witness.take() or Outcome(int(error.status), str(error))
        return self._witness.take() or Outcome(0)

    def _make(self, land: Component, i: int, call: Call) -> None:
        path = self._folder / f"restart_{i}.nc"
        if call.hook == "set_grid":
            land.set_grid(lambda: self._deal() if call.status == Status.OK else self._deal_refused(i))
        elif call.hook == "step":
            self._comm.together(lambda: self._put(land, i))
            land.step(call.year)
        elif call.hook == "write_restart":
            land.write_restart(path)
        elif call.hook == "read_restart":
            self._comm.together(lambda: self._lay_out(path, i))
            land.read_restart(path)
        elif call.hook == "finalize":
            land.finalize()
        else:
            raise OutputError(f"record {self._record.path}: call {i + 1} is {call.hook!r}, which no host makes")

    def _deal(self) -> HostGrid:
        """This rank's cells: the host's own deal on as many ranks, else a band of ids."""
        grid, _ = self._record.grid()
        self._held_by = grid.rank
        if self._comm.size == self._record.ranks:
            mine = np.flatnonzero(grid.rank == self._comm.rank)
            self._mine = mine[np.argsort(grid.position[mine])]
        else:
            self._mine = np.array_split(np.arange(grid.cells.size), self._comm.size)[self._comm.rank]
        self._grid_set = True
        return grid.cells.take(self._mine)

    def _deal_refused(self, i: int) -> HostGrid:
        """This rank's part of cells that were refused."""
        part = self._record.refused_grid(i) or {}
        if self._comm.size == self._record.ranks:
            mine = np.flatnonzero(part["rank_of_cell"] == self._comm.rank)
            mine = mine[np.argsort(part["position"][mine])]
        else:
            mine = np.array_split(np.arange(part["cell_id"].size), self._comm.size)[self._comm.rank]
        return HostGrid(*(part[name][mine] for name in GRID[:4]))

    def _put(self, land: Component, i: int) -> None:
        """Every class that all the ranks had put who held the cells of this one."""
        put = self._record.put(i)
        if put is None:
            return
        same = self._comm.size == self._record.ranks
        holders = np.array([self._comm.rank]) if same else np.unique(self._held_by[self._mine])
        for k, name in enumerate(self._record.legend):
            if put.there[k, holders].all():
                land.put(name, put.values[k, self._mine])

    def _lay_out(self, path: Path, i: int) -> None:
        restart = self._record.restart(i) if self._comm.rank == 0 else None
        if restart is not None:
            path.write_bytes(restart)


def differences(call: Call, made: Outcome) -> Iterator[str]:
    """What came of a call that is not what the record says."""
    if call.status != made.status:
        yield _both("status", f"{call.status} {call.message}".strip(), f"{made.status} {made.message}".strip())
        return
    if (call.answer is None) != (made.answer is None):
        yield _both(
            "fields served", "none" if call.answer is None else "some", "none" if made.answer is None else "some"
        )
    elif call.answer is not None and made.answer is not None:
        for what, name in (("year served", "year"), ("fine fields", "digest"), ("host columns", "columns")):
            before, here = getattr(call.answer, name), getattr(made.answer, name)
            if before != here:
                yield _both(what, before, here)
    if call.contents != made.contents:
        yield _both("restart written", call.contents, made.contents)


def _both(what: str, before: object, here: object) -> str:
    return f"{what}: recorded {before}, here {here}"


def _settings(record: Record, config: Path | None) -> Config:
    """The configuration to replay with: no output, no record, no cache, and the precision of the record."""
    loaded = Config.parse(record.configuration, Path(), str(record.path)) if config is None else Config.load(config)
    precision = record.attributes.get("precision", loaded.precision)
    alone = {"output": None, "record": None, "precision": precision,
             "regrid": loaded.regrid.model_copy(update={"cache": None})}  # fmt: skip
    return loaded.model_copy(update=alone)


def _compare_makers(record: Record, config: Config) -> None:
    """Raise EmulatorError where the fields cannot be the same here; warn where their bits may differ."""
    recorded, here = record.attributes, provenance.collect(Emulator.load(config.emulator), config, config.precision)
    for key, what in DECISIVE.items():
        if recorded.get(key) != here[key]:
            raise EmulatorError(
                f"record {record.path} was made with other {what}: it has {recorded.get('emulator')} "
                f"{recorded.get(key)}, here is {here['emulator']} {here[key]}; name a configuration with its "
                "emulator by --config"
            )
    for key in TELLING:
        if recorded.get(key) != here[key]:
            log.warning("%s: recorded %s, here %s; bits may differ", key, recorded.get(key), here[key])


def _print(record: Record, rows: Sequence[Row], ranks: int) -> None:
    table = Table(title=f"{record.path} of {record.ranks} ranks, on {ranks}", title_justify="left")
    for column in ("call", "hook", "status", "fine fields", "replayed"):
        table.add_column(column, overflow="fold")
    for row in rows:
        answer = row.call.answer
        verdict = "\n".join(row.differences) or row.verdict
        table.add_row(
            str(row.number), row.call.name, str(row.call.status), answer.digest[:16] if answer else "", verdict
        )
    Console().print(table)
    for row in [row for row in rows if row.differences][:1]:
        log.error("call %d, %s: %s", row.number, row.call.name, row.differences[0])
    if not record.finalized:
        log.warning("the host did not finalize; the record ends with the last call that it finished")
