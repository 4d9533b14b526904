"""`ai4land bench --quick`, with the Fortran host compiled as the Makefile does: its report and page."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from building import run
from mpi import ROOT, environment

from ai4land_coupler import buildinfo
from ai4land_coupler.bench.figures import BARS

SOURCE = ROOT / "examples" / "bench_host" / "bench_host.f90"


@pytest.fixture(scope="module")
def host(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Fortran host of the bench."""
    out = tmp_path_factory.mktemp("bench_host")
    ours = buildinfo.flags(fflags=True, prefix=prefix).split()
    libs = buildinfo.flags(libs=True, prefix=prefix).split()
    strict = ["-Wall", "-Wextra", "-Werror", "-std=f2008", "-Wno-compare-reals"]
    run("mpifort", "-O2", *strict, f"-J{out}", *ours, SOURCE, *libs, "-o", out / "host")
    return out / "host"


@pytest.fixture(scope="module")
def folder(host: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command leaves."""
    out = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-m", "ai4land_coupler", "bench", "--quick", "--host", host, "--out", out]
    done = subprocess.run(
        command, env=environment(COLUMNS="200"), capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(name in done.stdout for name in BARS)
    return out


def test_every_figure_is_measured_and_follows_from_its_samples(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    assert list(report["figures"]) == list(BARS)
    statistic = {"median": np.median, "p99": lambda raw: np.percentile(raw, 99), "max": np.max}
    for name, entry in report["figures"].items():
        assert entry["why"] == "", name
        assert entry["value"] == pytest.approx(statistic[entry["statistic"]](entry["raw"]), rel=1e-12), name
        assert entry["repeats"] == len(entry["raw"]) >= 1
        assert entry["value"] > 0, name
        assert entry["bar"] == BARS[name][1]
    assert report["figures"]["hook_us_p99"]["value"] >= report["figures"]["hook_us_median"]["value"]
    assert report["cores"] == len(os.sched_getaffinity(0))
    assert len(report["load_average"]) == 3
    assert report["versions"]["torch"] not in ("", "not installed")
    assert report["ftorch"]["why"].startswith("not measured")


def test_the_runs_hold_what_the_figures_are_made_of(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    one, two = report["layouts"]
    assert (one["ranks"], two["ranks"]) == (1, 2)
    assert one["network_calls"] > two["network_calls"] > 0  # rank 0 of two runs the network on some of the tiles
    share = [
        (wall - sum(stages[name] for name in ("features", "unet", "constraint", "output"))) / alone
        for wall, stages, alone in zip(one["step_s"], one["stages_s"], one["unet_alone_s"], strict=True)
    ]
    assert report["figures"]["step_overhead"]["raw"] == pytest.approx(share)
    for layout in (one, two):
        for wall, stages in zip(layout["step_s"], layout["stages_s"], strict=True):
            assert 0 < stages["unet"] < stages["total"] <= wall + 2e-3  # the log has whole milliseconds
    for part in report["parts"]["parts"].values():
        assert part["seconds"] > 0
        assert part["bound_s"] > 0


def test_the_page_says_the_same(folder: Path) -> None:
    page = (folder / "index.html").read_text()
    report = json.loads((folder / "report.json").read_text())
    assert all(f"<td>{name}</td>" in page for name in BARS)
    assert f"{report['figures']['peak_gb']['value']:.4g} GB" in page
    assert "data:image/png;base64," in page
