"""Memory that runs out on one rank, at every line of a hook that may ask for some: all ranks get one status.

usage: no_memory.py EMULATOR FOLDER LAG EVERY HOOK...

A first call of each hook lists the lines of the plugin that it runs on each rank; then the hook is called again for
every EVERY-th of them, with a MemoryError raised there on that rank. It prints JSON: for each hook how many lines were
tried, how many calls failed alike and how many went well on all ranks, and those that did not end alike.
"""

import ast
import contextlib
import faulthandler
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from long_life import host, state
from mpi4py import MPI

import ai4land_coupler
from ai4land_coupler.component import Component
from ai4land_coupler.config import Config, OutputConfig
from ai4land_coupler.errors import CouplerError

COMM = MPI.COMM_WORLD
PACKAGE = str(Path(ai4land_coupler.__file__).parent)
AGREEMENTS = ("comm.py", "interrupts.py")
"""They make the agreement itself; what they allocate for a collective is asked for by the lines that call them."""
INTO = (
    "Communicator.of(",
    "self._alive()",
    "self._advance(",
    ".hook()",
    "self._noted(",
    "self._tell(",
    "self._give_back()",
    "self._recorder.close(",
    "comm.free()",
    "comm.apart(",
)
"""Lines that lead into the first agreement of a hook, or to the recorder after its last: none can hear of them."""
ASKING = (ast.Call, ast.BinOp, ast.ListComp, ast.DictComp, ast.SetComp, ast.JoinedStr, ast.Subscript)
BESIDE = ("body", "orelse", "finalbody", "annotation")
"""Fields of a statement that are no part of its first line, or cost nothing."""
ALONE = 100
"""What a rank gets that no other rank hears of."""
LIMIT = 90
"""Seconds after which a call hangs."""

NAMES = ("forest", "grassland", "cropland", "barren")
"""The legend of the emulator, which is not to be asked for while memory runs out."""

Line = tuple[str, int]


@functools.cache
def asking(path: str) -> frozenset[int]:
    """Lines of a file at which a statement begins that may ask for memory."""
    lines = set()
    for node in ast.walk(ast.parse(Path(path).read_text())):
        if isinstance(node, ast.stmt) and not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Try)):
            own = [child for name, child in ast.iter_fields(node) if name not in BESIDE]
            parts = [part for child in own for part in (child if isinstance(child, list) else [child])]
            found = (sub for part in parts if isinstance(part, ast.AST) for sub in ast.walk(part))
            header = " ".join(ast.unparse(part) for part in parts if isinstance(part, ast.AST))
            if any(isinstance(sub, ASKING) for sub in found) and not any(word in header for word in INTO):
                lines.add(node.lineno)
    return frozenset(lines)


@contextlib.contextmanager
def watching(seen: Callable[[Line], None]) -> Any:
    """Call `seen` at every line of the plugin that may ask for memory; what it raises is raised there."""

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line" and frame.f_lineno in asking(frame.f_code.co_filename):
            seen((frame.f_code.co_filename[len(PACKAGE) + 1 :], frame.f_lineno))
        return local

    def enter(frame: FrameType, *_: Any) -> Any:
        name = frame.f_code.co_filename
        return local if name.startswith(PACKAGE) and Path(name).name not in AGREEMENTS else None

    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(None)


class Run:
    """A component and the hooks that are called again and again; each makes ready what it needs before."""

    def __init__(self, emulator: str, folder: Path, lag: int) -> None:
        self.config = Config(
            emulator=emulator, lag=lag, output=OutputConfig(folder=folder / "out", fractions="all"),
            record=folder / "record.nc",
        )  # fmt: skip
        self.kept = folder / "kept.nc"
        self.cells = host()
        self.land: Component | None = None
        self.year = 2000

    def call(self, hook: str) -> None:
        if hook == "init":
            self.land = Component.init(self.config, COMM)
            return
        land = self.land
        assert land is not None
        if hook == "set_grid":
            land.set_grid(self.cells)
        elif hook == "step":
            self.year = 2001 if land.last is None else land.last + 1  # whatever became of the last one
            land.step(self.year, state(self.cells.cell_id.size, NAMES, self.year))
        elif hook in ("write_restart", "read_restart"):
            getattr(land, hook)(self.kept)
        else:
            land.finalize()

    def ready(self, hook: str) -> None:
        """What has to be there before the hook."""
        if hook == "init":
            if self.land is not None:
                self.land.finalize()
                self.land = None
            return
        if self.land is None or self.land._comm is None or (hook == "set_grid" and self.land._years is not None):
            if self.land is not None:
                self.land.finalize()
            self.call("init")
            self.year = 2000
        if hook != "set_grid":
            if self.land._years is None:
                self.call("set_grid")
            while self.land._years.last is None or (hook == "finalize" and self.year < 2002):
                self.call("step")
            if hook == "read_restart" and COMM.bcast(not self.kept.exists()):
                self.call("write_restart")


def attempt(run: Run, hook: str) -> int:
    try:
        run.call(hook)
    except CouplerError as error:
        return int(error.status)
    except MemoryError:
        return ALONE
    return 0


def served(run: Run) -> tuple[Any, ...]:
    """What must be alike on all ranks after a call."""
    land = run.land
    years = land._years if land is not None else None
    year = years.fields.year if years is not None and years.fields is not None else None
    return (land is None, land is not None and land._comm is None, years is None, year, years and years.last,
            years is not None and years.in_the_making is not None)  # fmt: skip


def try_all(run: Run, hook: str, every: int) -> dict[str, Any]:
    lines: dict[Line, None] = {}
    run.ready(hook)
    with watching(lambda line: lines.setdefault(line)):
        assert attempt(run, hook) == 0
    all_lines = COMM.allgather(list(lines))
    tried, failed, well, odd = 0, 0, 0, []
    for rank, of_rank in enumerate(all_lines):
        for line in of_rank[rank::every]:
            run.ready(hook)
            before = served(run)
            armed = [True]

            def seen(at: Line, line: Line = line, armed: list[bool] = armed) -> None:
                if armed and at == line:
                    armed.clear()
                    raise MemoryError(f"made up at {at}")

            faulthandler.dump_traceback_later(LIMIT, exit=True)
            if COMM.rank == 0:
                run.kept.with_name("at").write_text(f"{hook} rank {rank} {line}")
            with watching(seen) if rank == COMM.rank else contextlib.nullcontext():
                got = attempt(run, hook)
            told = COMM.allgather((got, served(run)))
            faulthandler.cancel_dump_traceback_later()
            tried += 1
            statuses = {status for status, _ in told}
            alike = len(statuses) == 1 and len({after for _, after in told}) == 1
            if hook in ("set_grid", "write_restart", "read_restart") and got:
                alike = alike and COMM.allreduce(served(run) == before, op=MPI.LAND)
            if hook == "step" and got:  # with lag: 1 the year before may be served by then
                alike = alike and COMM.allreduce(served(run)[4] == before[4], op=MPI.LAND)
            failed += alike and got != 0
            well += alike and got == 0
            if not alike:
                odd.append([rank, *line, told])
    return {"lines": sum(map(len, all_lines)), "tried": tried, "failed": failed, "well": well, "odd": odd}


def main() -> None:
    emulator, folder, lag, every, hooks = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:5]), sys.argv[5:]
    run = Run(emulator, folder, lag)
    found = {hook: try_all(run, hook, every) for hook in hooks}
    run.ready("step")
    run.call("step")
    last, fields = run.year, [run.land.get("fine", name) for name in run.land.legend]
    run.land.finalize()
    with Component.init(Config(emulator=emulator, lag=lag), COMM) as alone:
        alone.set_grid(run.cells)
        for year in (last - 1, last):
            alone.step(year, state(run.cells.size, alone.legend, year))
        same = all(np.array_equal(of, alone.get("fine", name)) for name, of in zip(alone.legend, fields, strict=True))
    same = COMM.allreduce(same, op=MPI.LAND)
    if COMM.rank == 0:
        print(json.dumps({"hooks": found, "same": same}))


if __name__ == "__main__":
    main()
