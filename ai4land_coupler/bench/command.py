"""The order of a bench: prepare, run, cross, apply, take apart, report.

It starts MPI programs and runs none itself, so nothing here may import mpi4py.
"""

import functools
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ai4land_coupler import console
from ai4land_coupler.bench import hooks, page, report, runs
from ai4land_coupler.bench.figures import BARS, Figure
from ai4land_coupler.bench.session import Session
from ai4land_coupler.errors import CouplerError, UsageError
from ai4land_coupler.selfcheck import STARTED_BY, find_launcher

log = logging.getLogger("ai4land_coupler")

T = TypeVar("T")

FTORCH = 4.0
"""Times that ours should be faster than the same U-Net through FTorch."""


@dataclass(frozen=True)
class Size:
    """How much is measured: repeats of steps on one rank and more, empty and large calls, bytes of a large one, cells
    along an edge of the cubed sphere, rows of the target, repeats of an apply, coarse cells to close, starts."""

    steps: int
    other_steps: int
    empty_calls: int
    large_calls: int
    large_bytes: int
    sphere: int
    rows: int
    applies: int
    coarse_cells: int
    starts: int


FULL = Size(3, 2, 2500, 200, 2**23, 60, 360, 30, 4096, 3)
QUICK = Size(2, 1, 500, 30, 2**17, 12, 45, 5, 64, 2)


def bench(
    quick: bool, emulator: str, host: Path | None, out: Path, steps: int | None = None, precision: str = "auto",
    ftorch: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure, write report.json and a page into `out`, print the table and return the report.

    quick: a small made-up emulator in place of `emulator`, and few repeats; only to see that everything runs. host: the
    Fortran host, or None; steps: how many are measured on one rank, one less on two; precision: of the network; ftorch:
    the host that runs it through FTorch, or None.
    Raises UsageError under mpirun, MPIError where a program fails, OutputError.
    """
    console.show_log(0)
    if set(STARTED_BY) & set(os.environ):
        raise UsageError("bench starts its ranks itself: call it once, without mpirun or srun")
    if host is not None and not os.access(host, os.X_OK):
        raise UsageError(f"--host {host}: expected a program; `make bench` builds one")
    if ftorch is not None and not os.access(ftorch, os.X_OK):
        raise UsageError(f"--ftorch {ftorch}: expected a program; `make bench FTORCH=...` builds one")
    about, began = report.machine(), time.monotonic()
    size, cores = QUICK if quick else FULL, about["cores"]
    if steps is not None:
        size = replace(size, steps=steps, other_steps=max(steps - 1, 1))
    layouts = [(1, 1), (2, 1)] if quick else [(1, cores), (2, max(cores // 2, 1))]
    with tempfile.TemporaryDirectory(prefix="ai4land_bench_") as room:
        programs = runs.Programs(find_launcher(), sys.executable, host and host.resolve(), Path(room))
        found = _measure(programs, size, layouts, "" if quick else emulator, precision, ftorch and ftorch.resolve())
        if not quick:
            found.growth["ranks"] = found.attempt((), lambda: _ranks(programs)) or {}
    said = found.emulator
    what = "quick, the bars are for the shipped emulator" if quick else said["emulator"]
    made = report.document(found.all_figures(), about, {
        "about": f"{what}, {said['precision']}; steps by {programs.what}; {time.monotonic() - began:.0f} s",
        "load_average_after": list(os.getloadavg()),
        "quick": quick, "emulator": said, "layouts": [layout.entry() for layout in found.layouts],
        "hooks": found.hooks, **found.sections, "growth": found.growth, "failures": found.failures,
        "ftorch": {"bar": FTORCH, **found.ftorch},
    })  # fmt: skip
    report.write(out / "report.json", made)
    page.write(out, made)
    report.show(made)
    return made


@dataclass
class Found:
    """What was measured so far. failures: what could not be, and why; the rest is measured all the same."""

    emulator: dict[str, Any] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    layouts: list[runs.Layout] = field(default_factory=list)
    hooks: dict[str, Any] = field(default_factory=dict)
    sections: dict[str, Any] = field(default_factory=dict)
    growth: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    ftorch: dict[str, Any] = field(default_factory=dict)

    def attempt(self, names: Sequence[str], function: Callable[[], T]) -> T | None:
        """What a function gives; where it cannot, the figures `names` have its error as the reason."""
        try:
            return function()
        except CouplerError as error:
            log.warning("bench: not measured: %s: %s", ", ".join(names) or "growth", error)
            self.failures |= dict.fromkeys(names or ("growth",), str(error))
            return None

    def all_figures(self) -> list[Figure]:
        """Every figure once, those that are missing with the reason."""
        there = {figure.name for figure in self.figures}
        missing = [Figure(name, why=self.failures.get(name, "not tried")) for name in BARS if name not in there]
        return [*self.figures, *missing]


def _measure(
    programs: runs.Programs, size: Size, layouts: list[tuple[int, int]], emulator: str, precision: str,
    ftorch: Path | None,
) -> Found:  # fmt: skip
    """Everything, one after another."""
    found, folder = Found(), programs.folder
    job = {"emulator": emulator, "layouts": layouts, "bytes": size.large_bytes, "precision": precision}
    waited: list[float] = []
    with programs.worker("worker1", *layouts[0]) as worker, programs.model("model1", *layouts[0]) as model:
        found.emulator = said = _do(worker, "prepare", folder, job)
        log.info("bench: start and output")
        begin = functools.partial(runs.starts, programs, layouts[0], model, size.starts)
        if begun := found.attempt(("first_step_s", "peak_gb"), begin):
            found.figures += begun[0]
            waited = begun[1]
        _layout(found, programs, layouts[0], size.steps, model, worker)
        log.info("bench: hooks")
        calls = size.empty_calls, size.large_calls, size.large_bytes
        if crossed := found.attempt(hooks.NAMES, lambda: hooks.measure(programs, model, *calls)):
            found.figures += crossed[0]
            found.hooks = crossed[1]
        _sections(found, size, lambda name, job: _do(worker, name, folder, {**job, "emulator": said["path"]}))
        found.ftorch = {"value": None, "why": "not measured: no host was given; make bench FTORCH=... builds one"}
        if ftorch is not None:
            network = {"emulator": said["path"], "precision": said["precision"], "threads": layouts[0][1]}
            given = {**network, "host": str(ftorch), "repeats": size.other_steps * 4}
            made = found.attempt(("ftorch",), lambda: _do(worker, "ftorch", folder, given))
            found.ftorch = {"why": "", **made} if made else {"value": None, "why": found.failures["ftorch"]}
    with programs.worker("worker2", *layouts[1]) as worker, programs.model("model2", *layouts[1]) as model:
        _layout(found, programs, layouts[1], size.other_steps, model, worker)
    if found.layouts:
        found.figures += runs.figures(found.layouts, programs.what)
        found.growth["tiles"] = found.layouts[0].growth
    if waited and "parts" in found.sections:
        parts = found.sections["parts"]["parts"]
        parts["output"] = _output(waited, parts.pop("compression"))
    return found


def _sections(found: Found, size: Size, do: Callable[[str, dict[str, Any]], dict[str, Any]]) -> None:
    """What needs no model."""
    if made := found.attempt((), lambda: do("parts", {"cells": size.coarse_cells, "repeats": 5})):
        found.growth["classes"] = made.pop("classes")
        found.sections["parts"] = made
    job = {"n": size.sphere, "nlat": size.rows, "classes": 8, "repeats": size.applies}
    if regrid := found.attempt(("apply_ratio",), lambda: do("apply", job)):
        found.growth["cells"] = regrid.pop("cells")
        found.sections["apply"] = regrid
        found.figures.append(_apply(regrid))
    if balance := found.attempt(("balance_1024",), lambda: do("balance", {"workers": 1024})):
        found.sections["balance"] = balance
        found.figures.append(Figure("balance_1024", (balance["largest"] / balance["mean"],), "max", detail=balance))


def _layout(
    found: Found, programs: runs.Programs, layout: tuple[int, int], repeats: int, model: Session, worker: Session
) -> None:
    """Steps and the U-Net alone; without those on one rank there are no figures of steps."""
    log.info("bench: %d steps on %d rank(s) of %d thread(s), and the U-Net alone", repeats, *layout)
    stepping, folder = model if programs.host else worker, programs.folder
    names = runs.NAMES if layout[0] == 1 else ()
    if made := found.attempt(names, lambda: runs.measure(folder, *layout, repeats, stepping, worker)):
        found.layouts.append(made)


def _ranks(programs: runs.Programs) -> dict[str, Any]:
    """How regrid and exchange grow with the ranks, on the small emulator."""
    log.info("bench: more ranks")
    folder = programs.folder / "small"
    folder.mkdir()
    with programs.worker("small", 1, 1) as worker:
        _do(worker, "prepare", folder, {"emulator": "", "layouts": [(1, 1)], "bytes": 0, "precision": "auto"})
    return runs.ranks(programs, folder, (1, 2, 4))


def _do(worker: Session, section: str, folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Run a section in the worker."""
    log.info("bench: %s", section)
    asked, answered = folder / f"{section}.json", folder / f"{section}.answer.json"
    asked.write_text(json.dumps({"folder": str(folder), **job}))
    worker.ask("do", section, asked, answered)
    return dict(json.loads(answered.read_text()))


def _apply(found: dict[str, Any]) -> Figure:
    """Ours over the fastest way of ESMF, or of SciPy where there is no ESMF."""
    seconds = found["seconds"]
    for library in ("esmf", "scipy"):
        ways = [name for name in seconds if name.startswith(library)]
        if ways:
            best = min(ways, key=lambda name: float(np.median(seconds[name])))
            raw = [a / b for a, b in zip(seconds["ours"], seconds[best], strict=True)]
            medians = {name: 1e3 * float(np.median(took)) for name, took in seconds.items()}
            return Figure("apply_ratio", tuple(raw), detail={"against": best, "median_ms": medians, **found["why"]})
    return Figure("apply_ratio", why="; ".join(found["why"].values()))


def _output(waited: list[float], packing: dict[str, Any]) -> dict[str, Any]:
    """What a step waits for output, beside the packing of its two maps on one thread."""
    median = float(np.median(waited))
    return {
        "seconds": median, "raw": waited, "bound_s": packing["seconds"], "times_bound": median / packing["seconds"],
        "bound_by": "zlib of the two maps",
    }  # fmt: skip
