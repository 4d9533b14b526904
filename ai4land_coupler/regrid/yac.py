"""Overlaps with host cells of any shape, through YAC in a process of its own.

Edges of cells are great circles, as in ESMF. A process is started once a call, however many pairs of grids it is for.
"""

import importlib.metadata
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ai4land_coupler.errors import RegridError
from ai4land_coupler.regrid import child
from ai4land_coupler.regrid.greatcircle import GreatCircleEngine, Shares, Task

LIMIT = 300.0
"""Seconds after which YAC is stopped, for any number of cells,"""

LIMIT_PER_CELL = 2e-3
"""and for each cell of every grid."""

_MEND = "install it with `pip install yac` in that environment, or give a weight file with regrid.file"


def engine() -> GreatCircleEngine:
    """The engine; whether YAC can be used shows when it is first asked for overlaps."""
    return GreatCircleEngine(f"yac {_version()}", shares)


def shares(tasks: Sequence[Task]) -> list[Shares]:
    """First-order conservative shares for each (source, target), in one process; RegridError where it fails."""
    grids = {grid: i for i, grid in enumerate(dict.fromkeys(grid for pair in tasks for grid in pair))}
    arrays: dict[str, Any] = {"tasks": np.array([[grids[grid] for grid in pair] for pair in tasks])}
    for grid, i in grids.items():
        used = np.arange(grid.lon.shape[1]) < grid.count[:, None]
        arrays |= {
            f"lon_{i}": grid.lon[used], f"lat_{i}": grid.lat[used], f"count_{i}": grid.count.astype(np.intc)
        }  # fmt: skip
    limit = LIMIT + LIMIT_PER_CELL * sum(grid.count.size for grid in grids)
    with tempfile.TemporaryDirectory(prefix="ai4land_yac_") as folder:
        given, result, log = Path(folder, "polygons.npz"), Path(folder, "shares.npz"), Path(folder, "log")
        np.savez(given, **arrays)
        _run(given, result, log, limit)
        with np.load(result) as found:
            return [Shares(*(found[f"{part}_{t}"] for part in ("row", "col", "share"))) for t in range(len(tasks))]


def _run(given: Path, result: Path, log: Path, limit: float) -> None:
    python = child.interpreter()
    try:
        status = child.run_module("ai4land_coupler.regrid.yac_worker", [str(given), str(result)], log, limit)
    except TimeoutError as reason:
        raise RegridError(
            f"YAC ({python}) was stopped: {reason} ({_said(log)}); give a weight file with regrid.file"
        ) from reason
    except OSError as reason:
        raise RegridError(f"{python} could not be started for YAC: {reason}; set AI4LAND_PYTHON") from reason
    if status == 0 and result.exists():
        return
    if status == child.NO_LIBRARY:
        raise RegridError(f"host cells of this shape need YAC, which {python} lacks: {_said(log)}; {_MEND}")
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    raise RegridError(f"YAC failed with {how} under {python}: {_said(log)}; {_MEND}")


def _said(log: Path) -> str:
    """The end of what the process wrote."""
    text = log.read_text(errors="replace").strip()[-2000:] if log.exists() else ""
    return text or "it said nothing"


def _version() -> str:
    try:
        return importlib.metadata.version("yac")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"
