"""`ai4land run --resume`: a run killed on the way ends with the files of one left alone; another run is refused."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import small_emulator
from mpi import environment, launcher, mpirun

from ai4land_coupler import driver
from ai4land_coupler.config import Config
from ai4land_coupler.errors import RestartError, Status
from ai4land_coupler.resume import last_whole, origin, refuse_another_run

LEGEND = small_emulator.LEGEND
YEARS = (1700, 1750, 1800, 1850, 1900, 1920, *range(1950, 2000, 10))
RUN = (sys.executable, "-m", "ai4land_coupler", "run")
RESTARTS = ("--restart-to", "r.nc", "--restart-every", "3", "--resume")


def states(path: Path, seed: int = 0) -> None:
    """States of YEARS on a 10 degree grid, all land."""
    rng = np.random.default_rng(seed)
    with netCDF4.Dataset(path, "w") as file:
        for name, values in (("lat", -85.0 + 10 * np.arange(18)), ("lon", -175.0 + 10 * np.arange(36))):
            file.createDimension(name, values.size)
            file.createVariable(name, "f8", (name,))[:] = values
        file.createDimension("time", None)
        time = file.createVariable("time", "f8", ("time",))
        time.setncatts({"units": "years since 850-01-01 0:0:0", "calendar": "noleap"})
        time[:] = np.array(YEARS) - 850
        parts = rng.random((len(LEGEND), len(YEARS), 18, 36))
        for name, values in zip(LEGEND, parts / parts.sum(axis=0), strict=True):
            file.createVariable(name, "f8", ("time", "lat", "lon"))[:] = values


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    small_emulator.build(folder / "emulator", coarse=(8, 16))
    states(folder / "states.nc")
    return folder


def configure(folder: Path, name: str, text: str = "") -> str:
    where = f"output: {{folder: {name}, fractions: [1700, 1990]}}\n"
    (folder / f"{name}.yaml").write_text("emulator: ./emulator\ntime: backward\n" + where + text)
    return f"{name}.yaml"


def contents(folder: Path) -> dict[str, dict[str, bytes]]:
    """Every variable and attribute of every yearly file but when and by how many it was written."""
    found = {}
    for path in sorted(folder.glob("ai4land_*.nc")):
        with netCDF4.Dataset(path) as file:
            file.set_auto_mask(False)
            found[path.name] = {name: variable[...].tobytes() for name, variable in file.variables.items()}
            for name in set(file.ncattrs()) - {"history", "configuration"}:
                found[path.name][name] = str(file.getncattr(name)).encode()
    return found


def killed_at(folder: Path, ranks: int, out: Path, year: int, *arguments: str) -> None:
    """Start a run and end every process of it by SIGKILL once the file of a year is there."""
    command = [*launcher(), "-n", str(ranks), *RUN, *arguments]
    run = subprocess.Popen(command, env=environment(), cwd=folder, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        until = time.monotonic() + 120
        while not (out / f"ai4land_{year}.nc").exists() and time.monotonic() < until:
            assert run.poll() is None, "the run ended before it could be killed"
            time.sleep(0.002)
    finally:
        children = [int(pid) for pid in _children(run.pid)]
        for pid in (run.pid, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        run.wait(60)


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.fixture(scope="module")
def ended(folder: Path) -> tuple[str, ...]:
    """The arguments of a run that was killed twice and has come to its end, beside one left alone."""
    alone = mpirun(2, *RUN, configure(folder, "alone"), "states.nc", cwd=folder)
    assert alone.returncode == 0, alone.stderr
    arguments = (configure(folder, "killed"), "states.nc", *RESTARTS)
    out = folder / "killed"
    killed_at(folder, 2, out, 1950, *arguments)
    assert len(contents(out)) < len(YEARS)
    (out / "ai4land_1990.nc").rename(folder / "kept.nc")
    killed_at(folder, 1, out, 1850, *arguments)
    last = mpirun(3, *RUN, *arguments, cwd=folder)
    assert last.returncode == 0, last.stderr
    assert not (out / "ai4land_1990.nc").exists(), "a year before the restart was made again"
    (folder / "kept.nc").rename(out / "ai4land_1990.nc")
    return arguments


def test_a_run_killed_twice_ends_with_the_files_of_one_left_alone(folder: Path, ended: tuple[str, ...]) -> None:
    alone, killed = folder / "alone", folder / "killed"
    assert contents(killed) == contents(alone)
    assert sorted(path.name for path in killed.iterdir()) == sorted(path.name for path in alone.iterdir())
    reports = [json.loads((out / "report.json").read_text()) for out in (alone, killed)]
    for entry in (*reports[0]["years"], *reports[1]["years"]):
        del entry["seconds"], entry["share_not_unet"]
    assert reports[0]["years"] == reports[1]["years"]
    assert [entry["year"] for entry in reports[0]["years"]] == list(YEARS[::-1])
    assert [Path(path).name for path in reports[1]["files"]] == [f"ai4land_{year}.nc" for year in YEARS[::-1]]


def test_a_finished_run_is_left_as_it_is(folder: Path, ended: tuple[str, ...]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "killed").iterdir()}
    again = mpirun(1, *RUN, *ended, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert f"{len(YEARS)} of {len(YEARS)} years are done" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in (folder / "killed").iterdir()} == before


def test_a_damaged_restart_gives_way_to_the_one_before(folder: Path, ended: tuple[str, ...]) -> None:
    worn, older = folder / "worn.nc", folder / "worn.nc.1"
    worn.write_bytes((folder / "r.nc").read_bytes()[:500])
    with pytest.raises(RestartError, match=r"worn\.nc cannot be read"):
        last_whole(worn)
    shutil.copy(folder / "r.nc.1", older)
    assert last_whole(worn) == older
    assert last_whole(folder / "r.nc") == folder / "r.nc"
    assert last_whole(folder / "none.nc") is None


def test_another_configuration_is_refused_with_both_sides(folder: Path, ended: tuple[str, ...]) -> None:
    def run(text: str = "", interpolate: bool = False) -> None:
        config = driver._with_file_tolerance(Config.load(folder / configure(folder, "killed", text)))
        refuse_another_run(folder / "r.nc", config, origin(folder / "states.nc", interpolate))

    run()
    run("lag: 1\nrestart: {allow_other_weights: true}\n")
    with pytest.raises(RestartError, match=r"written with state\.tolerance: 0\.0002, this run has .*: 0\.001"):
        run("state: {tolerance: 0.001}\n")
    with pytest.raises(RestartError, match=r"those of the file; this run takes every year"):
        run(interpolate=True)


def test_other_states_are_refused_with_both_sides(folder: Path, ended: tuple[str, ...]) -> None:
    states(folder / "others.nc", seed=1)
    other = mpirun(2, *RUN, ended[0], "others.nc", *RESTARTS, cwd=folder)
    assert other.returncode == Status.RESTART
    assert "r.nc is of other states: in 1700 it has" in other.stderr
    assert "the file has" in other.stderr
