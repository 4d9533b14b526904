"""What one call of a hook costs through the Fortran module."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.bench.figures import Figure, ratios
from ai4land_coupler.bench.runs import FIRST_YEAR, Programs
from ai4land_coupler.bench.session import Session

NO_HOST = "there is no Fortran host: build it with `make bench`, or give it with --host"
COLUMNS = ("put", "memcpy_of_put", "get", "memcpy_of_get", "size", "clock")
WARM = 0.1
"""Share of the calls that go before and are not counted."""
KEPT = 2000
NAMES = ("hook_us_median", "hook_us_p99", "put_get_ratio")


def measure(
    programs: Programs, model: Session, empty: int, large: int, bytes_each: int
) -> tuple[list[Figure], dict[str, Any]]:
    """Rows of the report, and a summary a hook: `empty` calls without values, `large` calls with `bytes_each`."""
    if programs.host is None:
        return [Figure(name, why=NO_HOST) for name in NAMES], {"why": NO_HOST}
    folder, found = programs.folder, {}
    for name, calls in (("empty", empty), ("crowd", large)):
        model.ask("open", folder / "ranks1.yaml", folder / f"{name}.bin")
        if name == "crowd":
            model.ask("step", FIRST_YEAR)
        model.ask("hooks", calls, folder / f"{name}.out")
        model.ask("close")
        took = np.fromfile(folder / f"{name}.out").reshape(-1, len(COLUMNS))
        found[name] = dict(zip(COLUMNS, took[int(WARM * calls) :].T, strict=True))
    put = tuple(1e6 * found["empty"]["put"][:KEPT])
    of = {way: ratios(found["crowd"][way], found["crowd"][f"memcpy_of_{way}"]) for way in ("put", "get")}
    worse = max(of, key=lambda way: float(np.median(of[way])))
    medians = {f"{way}_median": float(np.median(ratio)) for way, ratio in of.items()}
    return [
        Figure("hook_us_median", put),
        Figure("hook_us_p99", put, "p99"),
        Figure("put_get_ratio", tuple(of[worse]), detail={"worse": worse, "bytes": bytes_each, **medians}),
    ], {name: _summary(columns) for name, columns in found.items()}


def _summary(columns: dict[str, NDArray[np.float64]]) -> dict[str, dict[str, float]]:
    return {
        name: {"median_us": float(1e6 * np.median(took)), "p99_us": float(1e6 * np.percentile(took, 99))}
        for name, took in columns.items()
        if np.median(took) > 0
    }
