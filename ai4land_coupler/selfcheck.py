"""`ai4land selfcheck`: proof that ranks, deals of cells, restarts and `lag` change no bit on this machine.

It starts MPI programs and runs none itself, so nothing here may import mpi4py.
"""

import hashlib
import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ai4land_coupler import console
from ai4land_coupler.config import Config
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import MPIError, UsageError
from ai4land_coupler.gridfile import read_grid

log = logging.getLogger(__package__)

FIRST_YEAR = 2001
STARTED_BY = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
"""Variables of a process that mpirun or srun has started."""


@dataclass(frozen=True)
class Run:
    """A run of the plan: `resume` is the label of the run whose restart of the middle year it goes on from."""

    ranks: int
    deal: str
    lag: int = 0
    leave_out: bool = False
    resume: str = ""

    @property
    def label(self) -> str:
        """What a user reads."""
        ranks = f"{self.ranks} of {self.ranks + 1} ranks" if self.leave_out else f"{self.ranks} ranks"
        after = f", after a restart of {self.resume}" if self.resume else ""
        return f"{ranks.replace('1 ranks', '1 rank')}, {self.deal}{', lag 1' if self.lag else ''}{after}"


Found = Sequence[tuple[int, Mapping[str, str]]]
"""What a run found, in order: of a year, {field: hash}."""


@dataclass(frozen=True)
class Verdict:
    """One field: the hash of all its years, and the runs (with the year) that differ from the first that had it."""

    field: str
    hash: str
    differing: tuple[str, ...]


def plan(ranks: Sequence[int], lags: Sequence[int]) -> list[Run]:
    """The runs, each after the one it resumes."""
    most, other = max(ranks), min(ranks) if len(ranks) > 1 else ranks[0]
    runs: list[Run] = []
    if 0 in lags:
        runs += [Run(n, deal) for n in ranks for deal in ("bands", *(("blocks", "random") if n > 1 else ()))]
        runs.append(Run(most, "random", leave_out=True))
        runs.append(Run(other, "random", resume=Run(most, "bands").label))
    if 1 in lags:
        runs.append(Run(most, "bands", lag=1))
        runs.append(Run(other, "random", lag=1, resume=Run(most, "bands", lag=1).label))
    return runs


def compare(found: Mapping[Run, Found]) -> list[Verdict]:
    """A verdict a field: for every year each run, however often it served that year, must have had the same hash."""
    entries: dict[str, dict[int, str]] = {}
    differing: dict[str, list[str]] = {}
    for run, hashes in found.items():
        for year, of_year in hashes:
            for field, value in of_year.items():
                first = entries.setdefault(field, {}).setdefault(year, value)
                differing.setdefault(field, [])
                if value != first:
                    differing[field].append(f"{run.label} ({year})")
    return [
        Verdict(field, hashlib.sha256(json.dumps(sorted(years.items())).encode()).hexdigest(), tuple(differing[field]))
        for field, years in entries.items()
    ]


def check(
    grid: str, ranks: Sequence[int], config: Config, engines: Sequence[str], years: int, lags: Sequence[int],
    launcher: str, limit: float, folder: Path,
) -> int:  # fmt: skip
    """Make every run of the plan with every engine, print a table of fields; 1 where two runs differ, else 0.

    years: how many; launcher: command with {n} for the ranks, mpirun's where empty; limit: seconds a run may take;
    folder: where a temporary folder is made that all ranks see. Raises UsageError for what cannot be checked, and
    MPIError for a run that did not end well.
    """
    console.show_log(0)
    if set(STARTED_BY) & set(os.environ):
        raise UsageError("selfcheck starts its ranks itself: call it once, without mpirun or srun; see --launcher")
    if not ranks or min(ranks) < 1 or years < 2 or not lags or not set(lags) <= {0, 1}:
        raise UsageError(f"selfcheck: expected ranks from 1, years from 2 and lags 0 or 1, got {list(ranks)}, {years} "
                         f"and {list(lags)}")  # fmt: skip
    cells, start = read_grid(grid).grid.size, launcher or find_launcher()
    runs = plan(sorted(set(ranks)), lags)
    log.info("selfcheck: %d cells of %s, emulator %s, %d runs of %d years for each engine (%s)", cells, grid,
             Emulator.load(config.emulator).name, len(runs), years, ", ".join(engines))  # fmt: skip
    differing = 0
    for engine in engines:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="ai4land_selfcheck_", dir=folder) as room:
            found = dict(_all(runs, _Room(Path(room).resolve(), grid, _alone(config, engine), years, start, limit)))
        verdicts = compare(found)
        differing += sum(bool(verdict.differing) for verdict in verdicts)
        _print(verdicts, f"engine {engine}: {len(runs)} runs, {time.monotonic() - began:.0f} s")
    return int(differing > 0)


def find_launcher() -> str:
    """mpirun as a command with {n}; raises UsageError where there is none."""
    program = shutil.which("mpirun") or shutil.which("mpiexec")
    if program is None:
        raise UsageError("there is no mpirun on the path; name a launcher, as in --launcher 'srun -n {n}'")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    open_mpi = "Open MPI" in said or "open-mpi" in said
    return f"{shlex.quote(program)}{' --oversubscribe --bind-to none' if open_mpi else ''} -n {{n}}"


@dataclass(frozen=True)
class _Room:
    """What all runs with an engine have in common."""

    folder: Path
    grid: str
    config: Config
    years: int
    launcher: str
    limit: float

    def of(self, label: str) -> Path:
        """The folder of a run."""
        return self.folder / "".join(c if c.isalnum() else "_" for c in label)

    def all_years(self, run: Run) -> list[int]:
        """The years of a whole run; one more with `lag: 1`, which serves a year late."""
        sign = 1 if self.config.time == "forward" else -1
        return [FIRST_YEAR + sign * i for i in range(self.years + run.lag)]

    def middle(self, run: Run) -> int:
        """How many steps come before the restart of the middle; with `lag: 1` that has a year in the making."""
        return self.years // 2 + run.lag

    def words(self, run: Run) -> dict[str, object]:
        """The job of a run."""
        years, folder, resume = self.all_years(run), self.of(run.label), ""
        if run.resume:
            resume = str(self.of(run.resume) / f"restart_{years[self.middle(run) - 1]}.nc")
            years = years[self.middle(run) :]
        return {
            "config": self.config.model_copy(update={"lag": run.lag}).text(), "grid": self.grid, "deal": run.deal,
            "leave_out": run.leave_out, "years": years, "resume": resume, "folder": str(folder),
            "out": str(folder / "found.json"),
        }  # fmt: skip


def _all(runs: Sequence[Run], room: _Room) -> Iterator[tuple[Run, Found]]:
    terminal = sys.stderr is not None and sys.stderr.isatty()
    with console.progress(f"selfcheck, engine {room.config.regrid.engine}", len(runs), True) as done:
        for i, run in enumerate(runs):
            began = time.monotonic()
            yield run, _one(run, room)
            done()
            if not terminal:
                log.info("%d of %d: %s: %.0f s", i + 1, len(runs), run.label, time.monotonic() - began)


def _one(run: Run, room: _Room) -> Found:
    """Start a run and wait for what it found."""
    folder = room.of(run.label)
    folder.mkdir()
    job, out, said = folder / "job.json", folder / "found.json", folder / "said.txt"
    job.write_text(json.dumps(room.words(run)))
    start = shlex.split(room.launcher.replace("{n}", str(run.ranks + run.leave_out)))
    command = [*start, sys.executable, "-m", "ai4land_coupler.selfcheck_worker", str(job)]
    ended = _ended(command, said, room.limit)
    if ended != 0 or not out.exists():
        why = f"ended with {ended}" if ended is not None else f"was stopped after {room.limit:g} s (--limit)"
        text = said.read_text(errors="replace").strip()[-2000:]
        raise MPIError(f"the run on {run.label} {why}; it was started by {shlex.join(command)} and said:\n{text}")
    found = json.loads(out.read_text())
    return [(int(year), hashes) for year, hashes in (*found["fields"], *found["restarts"])]


def _ended(command: Sequence[str], said: Path, limit: float) -> int | None:
    """The exit code of a command whose output goes to a file; none where it took longer than `limit` seconds."""
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with said.open("wb") as output:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
                                       start_new_session=True)  # fmt: skip
        except OSError as error:
            raise UsageError(f"the launcher {command[0]!r} cannot be started: {error}; see --launcher") from error
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                _kill_after(process, 10)


def _kill_after(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Wait for a process that was asked to end; end it where it does not."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _alone(config: Config, engine: str) -> Config:
    """The configuration of a check: nothing written, overlaps made anew, paths that any folder can read."""
    regrid = config.regrid.model_copy(update={"engine": engine, "cache": None})
    emulator = str(Emulator.load(config.emulator).path)
    alone = config.model_copy(update={"emulator": emulator, "output": None, "record": None, "regrid": regrid})
    return Config.parse(alone.text(), Path())


def _print(verdicts: Sequence[Verdict], title: str) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("field", "hash", "runs"):
        table.add_column(column, overflow="fold")
    for verdict in verdicts:
        table.add_row(verdict.field, verdict.hash[:16], "; ".join(verdict.differing) or "ok")
    Console().print(table)
