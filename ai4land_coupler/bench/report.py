"""The report of a bench: what was measured, on what, and as a table on the terminal."""

import json
import os
import subprocess
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ai4land_coupler import __version__
from ai4land_coupler.bench.figures import BARS, Figure
from ai4land_coupler.errors import OutputError, UsageError

LIBRARIES = ("numpy", "torch", "scipy", "mpi4py", "netCDF4", "esmpy")


def machine() -> dict[str, Any]:
    """Commit, processor, versions, cores and load average."""
    return {
        "commit": _commit(), "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "processor": _processor("model name"), "amx_bf16": has_amx(), "cores": len(os.sched_getaffinity(0)),
        "load_average": list(os.getloadavg()),
        "versions": {"ai4land_coupler": __version__, **{name: _version(name) for name in LIBRARIES}},
    }  # fmt: skip


def has_amx() -> bool:
    """Whether the processor has AMX tiles for bfloat16."""
    return "amx_bf16" in _processor("flags").split()


def document(figures: Sequence[Figure], about: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """The report: `figures` in the order of BARS, each once; then machine, and what else was measured."""
    by_name = {figure.name: figure for figure in figures}
    if len(by_name) != len(figures) or set(by_name) != set(BARS):
        raise UsageError(f"bench: expected every figure of {list(BARS)} once, got {[f.name for f in figures]}")
    return {"figures": {name: by_name[name].entry() for name in BARS}, **about, **more}


def write(path: Path, report: dict[str, Any]) -> None:
    """As JSON. Raises OutputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}; choose another folder with --out") from error


def rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Name, value, spread, bar, verdict (none for a quick run) and meaning of each figure, as text."""
    out: list[tuple[str, ...]] = []
    for name, entry in report["figures"].items():
        unit = "" if entry["unit"] == "1" else f" {entry['unit']}"
        if entry["value"] is None:
            out.append((name, "not measured", "", f"{entry['bar']:g}{unit}", "", entry["why"]))
            continue
        met = "" if report["quick"] else "met" if entry["value"] <= entry["bar"] else "missed"
        spread = f"{entry['spread']:.2g} ({entry['repeats']})"
        out.append((name, f"{entry['value']:.4g}{unit}", spread, f"{entry['bar']:g}{unit}", met, entry["meaning"]))
    return out


HEADINGS = ("figure", "value", "spread (samples)", "at most", "", "what")


def show(report: dict[str, Any]) -> None:
    """Print the figures."""
    load = report["load_average"][0]
    title = f"{report['processor']}, {report['cores']} cores, load {load:.1f}, commit {report['commit']}"
    table = Table(title=title, title_justify="left", caption=report["about"], caption_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for row in rows(report):
        table.add_row(*row)
    Console().print(table)


def _commit() -> str:
    """Of the checkout this package lies in, with + where files differ from it; empty where it is no checkout."""
    folder = Path(__file__).parent
    try:
        said = [
            subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, check=True).stdout
            for command in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--untracked-files=no", "."))
        ]
    except (OSError, subprocess.CalledProcessError):
        return ""
    return said[0].strip() + ("+" if said[1].strip() else "")


def _processor(key: str) -> str:
    """An entry of /proc/cpuinfo; empty where the system has none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == key), "")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
