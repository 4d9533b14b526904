"""`ai4land run` through two hundred years into a zarr store: neither memory nor the seconds of a year grow."""

import json
import re
import subprocess
import sys
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import small_emulator
from mpi import environment

from ai4land_coupler.zarrout import stored_years

LEGEND = small_emulator.LEGEND
FIRST, YEARS = 1801, 200
PAGE = 4096


def states(path: Path) -> None:
    """Two states on a 10 degree grid, from one to the other in YEARS."""
    rng = np.random.default_rng(0)
    with netCDF4.Dataset(path, "w") as file:
        for name, values in (("lat", -85.0 + 10 * np.arange(18)), ("lon", -175.0 + 10 * np.arange(36))):
            file.createDimension(name, values.size)
            file.createVariable(name, "f8", (name,))[:] = values
        file.createDimension("time", None)
        time = file.createVariable("time", "f8", ("time",))
        time.setncatts({"units": "years since 1-01-01", "calendar": "noleap"})
        time[:] = np.array([FIRST, FIRST + YEARS - 1]) - 1
        parts = rng.random((len(LEGEND), 2, 18, 36))
        for name, values in zip(LEGEND, parts / parts.sum(axis=0), strict=True):
            file.createVariable(name, "f8", ("time", "lat", "lon"))[:] = values


@pytest.mark.long
def test_two_hundred_years_do_not_grow(tmp_path: Path) -> None:
    small_emulator.build(tmp_path / "emulator", coarse=(8, 16))
    states(tmp_path / "states.nc")
    (tmp_path / "run.yaml").write_text("emulator: ./emulator\noutput: {folder: out, format: zarr}\n")
    command = (sys.executable, "-m", "ai4land_coupler", "run", "run.yaml", "states.nc", "--interpolate")
    command += ("--restart", "r.nc", "--restart-every", "10")
    resident: list[int] = []
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if re.match(r"ai4land: \d{4}  ", line):
                resident.append(int(Path(f"/proc/{run.pid}/statm").read_text().split()[1]) * PAGE)
    assert run.returncode == 0
    assert len(resident) == YEARS
    assert stored_years(tmp_path / "out" / "ai4land.zarr") == tuple(range(FIRST, FIRST + YEARS))
    entries = json.loads((tmp_path / "out" / "report.json").read_text())["years"]
    seconds = [entry["seconds"]["total"] for entry in entries]
    assert len(seconds) == YEARS
    quarter = YEARS // 4
    second, last = slice(quarter, 2 * quarter), slice(-quarter, None)
    a_year = (np.median(resident[last]) - np.median(resident[second])) / (2.5 * quarter)
    took = np.median(seconds[second]), np.median(seconds[last])
    print(f"{a_year:.0f} bytes a year; {took[0]:.4f} s a year in the second quarter, {took[1]:.4f} s in the last")
    assert a_year < 32768, "a year's entry of the report is kept, 10 kB, and nothing else"
    assert took[1] < 1.5 * took[0] + 0.02
