"""The page of a report: the table, and plots where matplotlib is installed."""

import base64
import html
import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ai4land_coupler.bench.report import HEADINGS, rows
from ai4land_coupler.errors import OutputError

NO_PLOTS = "No plots: matplotlib is not installed (pip install 'ai4land_coupler[plot]')."
STYLE = (
    "body{font:15px sans-serif;max-width:70em;margin:2em auto;padding:0 1em}td,th{text-align:left;padding:.2em .7em;"
    "border-bottom:1px solid #ccc}table{border-collapse:collapse}.missed{color:#a00}img{max-width:100%}"
)


def _ftorch(found: Mapping[str, Any]) -> str:
    """What FTorch takes for a tile."""
    if found["value"] is None:
        return f"FTorch: {found['why']}"
    seconds = found["seconds"]
    return (
        f"The same U-Net from Fortran through FTorch, float32 TorchScript: {1e3 * seconds['ftorch']:.0f} ms a tile, "
        f"{found['value']:.1f} times as long as ours ({1e3 * seconds['ours']:.0f} ms); the bar is {found['bar']:g} "
        "where the processor has AMX bf16"
    )


def write(folder: Path, report: dict[str, Any]) -> None:
    """index.html, plots within. Raises OutputError."""
    lines = "".join(
        f"<tr class='{row[4]}'>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows(report)
    )
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in HEADINGS)
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    about = (
        f"{report['about']}. Commit {report['commit']}, {report['processor']}, {report['cores']} cores, load average "
        f"{', '.join(f'{load:.1f}' for load in report['load_average'])}; {versions}. {report['written']}"
    )
    text = (
        f"<!doctype html><meta charset=utf-8><title>ai4land bench</title><style>{STYLE}</style><h1>ai4land bench</h1>"
        f"<p>{html.escape(about)}</p><table><tr>{head}</tr>{lines}</table>{_plots(report)}"
        f"<p>{html.escape(_ftorch(report['ftorch']))}</p><p>Samples: <a href=report.json>report.json</a></p>\n"
    )
    try:
        (folder / "index.html").write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error}; choose another folder with --out") from error


def _plots(report: dict[str, Any]) -> str:
    if importlib.util.find_spec("matplotlib") is None:
        return f"<p>{NO_PLOTS}</p>"
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8.5), layout="constrained")
    axes = figure.subplots(2, 2)
    _bars(axes[0, 0], report)
    if report["layouts"]:
        _stages(axes[0, 1], report)
    if "apply" in report:
        _ways(axes[1, 0], report)
    _growth(axes[1, 1], report)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return f"<p><img alt='plots' src='data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}'></p>"


def _bars(axis: Any, report: dict[str, Any]) -> None:
    known = {name: entry for name, entry in report["figures"].items() if entry["value"] is not None}
    share = [max(entry["value"] / entry["bar"], 1e-3) for entry in known.values()]
    axis.barh(list(known), share, color=["#4a7" if s <= 1 else "#c55" for s in share])
    axis.axvline(1.0, color="k", lw=1)
    axis.set(xscale="log", title="value / bar")
    axis.invert_yaxis()


def _stages(axis: Any, report: dict[str, Any]) -> None:
    names = [name for name in report["layouts"][0]["stages_s"][0] if name not in ("total", "hidden")]
    labels = [f"{layout['ranks']} x {layout['threads']}" for layout in report["layouts"]]
    bottom = np.zeros(len(labels))
    for name in names:
        height = [float(np.median([s[name] for s in layout["stages_s"]])) for layout in report["layouts"]]
        axis.bar(labels, height, bottom=bottom, label=name)
        bottom += height
    axis.legend(fontsize=7)
    axis.set(title="a step, by stage", ylabel="seconds", xlabel="ranks x threads")


def _ways(axis: Any, report: dict[str, Any]) -> None:
    found = report["apply"]
    names = list(found["seconds"])
    axis.boxplot(
        [1e3 * np.array(found["seconds"][name]) for name in names],
        orientation="horizontal",
        showfliers=False,
        tick_labels=names,
    )
    axis.set(title=f"apply of {found['classes']} classes, {found['entries']} entries", xlabel="milliseconds")


def _growth(axis: Any, report: dict[str, Any]) -> None:
    for name, found in report["growth"].items():
        if found and found.get("exponent") is not None:
            axis.loglog(found["size"], found["seconds"], "o-", label=f"{name}: power {found['exponent']:.2f}")
    axis.legend()
    axis.set(title="cost as it grows", xlabel="number", ylabel="seconds")
