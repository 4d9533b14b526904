"""The order of a bench: prepare, run, cross, apply, take apart, report.

It starts MPI programs and runs none itself, so nothing here may import mpi4py.
"""

import json
import logging
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ai4land_coupler import console
from ai4land_coupler.bench import hooks, page, report, runs
from ai4land_coupler.bench.figures import Figure
from ai4land_coupler.bench.session import Session
from ai4land_coupler.errors import UsageError
from ai4land_coupler.selfcheck import STARTED_BY, find_launcher

log = logging.getLogger("ai4land_coupler")

FTORCH = 4.0


@dataclass(frozen=True)
class Size:
    """How much is measured: repeats of steps on one rank and more, empty and large calls, bytes of a large one, cells
    along an edge of the cubed sphere, rows of the target, repeats of an apply, coarse cells to close."""

    steps: int
    other_steps: int
    empty_calls: int
    large_calls: int
    large_bytes: int
    sphere: int
    rows: int
    applies: int
    coarse_cells: int


FULL = Size(4, 3, 2500, 200, 2**23, 60, 360, 30, 4096)
QUICK = Size(2, 1, 500, 30, 2**17, 12, 45, 5, 64)


def bench(quick: bool, emulator: str, host: Path | None, out: Path) -> dict[str, Any]:
    """Measure, write report.json and a page into `out`, print the table and return the report.

    quick: a small made-up emulator in place of `emulator`, and few repeats; only to see that everything runs. host: the
    Fortran host, or None. Raises UsageError under mpirun, MPIError where a program fails, OutputError.
    """
    console.show_log(0)
    if set(STARTED_BY) & set(os.environ):
        raise UsageError("bench starts its ranks itself: call it once, without mpirun or srun")
    if host is not None and not os.access(host, os.X_OK):
        raise UsageError(f"--host {host}: expected a program; `make bench` builds one")
    about, began = report.machine(), time.monotonic()
    size, cores = QUICK if quick else FULL, about["cores"]
    layouts = [(1, 1), (2, 1)] if quick else [(1, cores), (2, max(cores // 2, 1))]
    with tempfile.TemporaryDirectory(prefix="ai4land_bench_") as room:
        programs = runs.Programs(find_launcher(), sys.executable, host and host.resolve(), Path(room))
        job = {"emulator": "" if quick else emulator, "layouts": layouts, "bytes": size.large_bytes}
        with programs.worker("worker1", *layouts[0]) as worker, programs.model("model1", *layouts[0]) as model:
            said = _do(worker, "prepare", programs.folder, job)
            log.info("bench: start and output")
            begun, waited = runs.start(programs.folder, model)
            measured = [_layout(programs, layouts[0], size.steps, model, worker)]
            log.info("bench: hooks")
            crossing, calls = hooks.measure(programs, model, size.empty_calls, size.large_calls, size.large_bytes)
            sections = {name: _do(worker, name, programs.folder, {**job, "emulator": said["path"]})
                        for name, job in _jobs(size).items()}  # fmt: skip
        with programs.worker("worker2", *layouts[1]) as worker, programs.model("model2", *layouts[1]) as model:
            measured.append(_layout(programs, layouts[1], size.other_steps, model, worker))
        growing = {} if quick else {"ranks": _ranks(programs)}
    parts, regrid, balance = (sections[name] for name in ("parts", "apply", "balance"))
    figures = [*runs.figures(measured, programs.what), *begun, *crossing, _apply(regrid), _balance(balance)]
    parts["parts"]["output"] = _output(waited, parts["parts"].pop("compression"))
    made = report.document(figures, about, {
        "about": f"{said['emulator']}, steps by {programs.what}, {time.monotonic() - began:.0f} s",
        "quick": quick, "emulator": said, "layouts": [layout.entry() for layout in measured], "hooks": calls,
        "apply": regrid, "parts": parts, "balance": balance, "growth": growing | {
            "tiles": measured[0].growth, "cells": regrid.pop("cells"), "classes": parts.pop("classes"),
        }, "ftorch": _ftorch(),
    })  # fmt: skip
    report.write(out / "report.json", made)
    page.write(out, made)
    report.show(made)
    return made


def _jobs(size: Size) -> dict[str, dict[str, Any]]:
    """The sections that need no model, and what each is given."""
    return {
        "parts": {"cells": size.coarse_cells, "repeats": 5},
        "apply": {"n": size.sphere, "nlat": size.rows, "classes": 8, "repeats": size.applies},
        "balance": {"workers": 1024},
    }


def _layout(
    programs: runs.Programs, layout: tuple[int, int], repeats: int, model: Session, worker: Session
) -> runs.Layout:
    log.info("bench: %d steps on %d rank(s) of %d thread(s), and the U-Net alone", repeats, *layout)
    return runs.measure(programs.folder, *layout, repeats, model if programs.host else worker, worker)


def _ranks(programs: runs.Programs) -> dict[str, Any]:
    """How regrid and exchange grow with the ranks, on the small emulator."""
    log.info("bench: more ranks")
    folder = programs.folder / "small"
    folder.mkdir()
    with programs.worker("small", 1, 1) as worker:
        _do(worker, "prepare", folder, {"emulator": "", "layouts": [(1, 1)], "bytes": 0})
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


def _balance(found: dict[str, Any]) -> Figure:
    return Figure("balance_1024", (found["largest"] / found["mean"],), "max", detail=found)


def _output(waited: list[float], packing: dict[str, Any]) -> dict[str, Any]:
    """What a step waits for output, beside the packing of its two maps on one thread."""
    median = float(np.median(waited))
    return {
        "seconds": median, "raw": waited, "bound_s": packing["seconds"], "times_bound": median / packing["seconds"],
        "bound_by": "zlib of the two maps",
    }  # fmt: skip


def _ftorch() -> dict[str, Any]:
    """The row of the U-Net through FTorch, which is asked for where bf16 AMX is."""
    why = "FTorch is not part of this package's environment" if report.has_amx() else "the processor has no AMX bf16"
    return {"value": None, "bar": FTORCH, "why": f"not measured: {why}"}
