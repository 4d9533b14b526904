"""A rank is killed with SIGKILL at random moments of a coupled run; started again, the run ends as if left alone."""

import contextlib
import os
import random
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

PROGRAM = Path(__file__).parent / "programs" / "coupled.py"
LIMIT = 120.0


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_emulator.build(tmp_path_factory.mktemp("emulator"))


@pytest.fixture(scope="module", params=[0, 1], ids=["lag 0", "lag 1"])
def left_alone(request, emulator, tmp_path_factory) -> tuple[int, dict[str, np.ndarray], float]:
    """lag, final fields of a run nobody kills, and for how long it integrated."""
    folder = tmp_path_factory.mktemp("alone")
    done = mpirun(2, sys.executable, PROGRAM, emulator, folder, request.param, "bands")
    assert done.returncode == 0, done.stderr
    seconds = (folder / "final.npz").stat().st_mtime - (folder / "pid.0").stat().st_mtime
    return request.param, final(folder), seconds


def final(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "final.npz") as file:
        return dict(file)


def interrupted(
    emulator: Path,
    folder: Path,
    lag: int,
    ranks: int,
    how: str,
    delay: float,
    chance: random.Random,
    by: signal.Signals,
    *handler: str | Path,
) -> bool:
    """Start the run and end one rank `delay` seconds after it integrates; whether that came before its own end."""
    for pid in folder.glob("pid.*"):
        pid.unlink()
    command = [*launcher(), "-n", str(ranks), sys.executable, PROGRAM, emulator, folder, str(lag), how, *handler]
    run = subprocess.Popen(
        list(map(str, command)), env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        until = time.monotonic() + LIMIT
        while len(list(folder.glob("pid.*"))) < ranks and run.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(delay)
        killed = run.poll() is None and not (folder / "final.npz").exists()
        if killed:
            victim = int((folder / f"pid.{chance.randrange(ranks)}").read_text())
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, by)
        _, said = run.communicate(timeout=LIMIT)
        assert killed or run.returncode == 0, said
        return killed
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)


def whole(folder: Path) -> int:
    """Years whose files can be read; a file under its final name must be whole."""
    for path in [*folder.glob("ai4land_*.nc"), *folder.glob("restart.nc"), *folder.glob("restart.nc.1")]:
        with netCDF4.Dataset(path) as file:
            assert file.variables
            for variable in file.variables.values():
                variable[...]
    return len(list(folder.glob("ai4land_*.nc")))


def kill_often(
    kills: int, emulator: Path, alone, tmp_path: Path, seed: int, by: signal.Signals = signal.SIGKILL,
    handler: tuple[str | Path, ...] = (),
) -> None:  # fmt: skip
    lag, expected, seconds = alone
    chance, done, runs = random.Random(seed), 0, 0
    while done < kills:
        folder = tmp_path / f"run{runs}"
        folder.mkdir()
        while not (folder / "final.npz").exists():
            delay = chance.uniform(0, seconds) if done < kills else LIMIT
            ranks, how = chance.choice([(1, "bands"), (2, "random"), (3, "last")])
            done += interrupted(emulator, folder, lag, ranks, how, delay, chance, by, *handler)
            whole(folder)
        runs += 1
        found = final(folder)
        assert [name for name in expected if expected[name].tobytes() != found[name].tobytes()] == []
    print(f"lag {lag}: {done} kills in {runs} runs of {seconds:.1f} s, final fields the same in each")


def test_a_killed_run_ends_as_if_left_alone(emulator, left_alone, tmp_path) -> None:
    kill_often(3, emulator, left_alone, tmp_path, seed=1)


def test_a_run_ended_by_the_scheduler_too(emulator, left_alone, tmp_path) -> None:
    """SIGTERM, which the plugin leaves to the host: one without a handler of its own ends."""
    kill_often(1, emulator, left_alone, tmp_path, seed=3, by=signal.SIGTERM)


def test_a_host_that_exits_by_its_own_handler(emulator, left_alone, tmp_path) -> None:
    """SIGTERM on one rank, whose Python handler raises SystemExit in the middle of a step or between two."""
    kill_often(1, emulator, left_alone, tmp_path, seed=4, by=signal.SIGTERM, handler=("exits",))


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The host's handler in C, as a library."""
    library = tmp_path_factory.mktemp("handler") / "counting.so"
    source = PROGRAM.parent / "counting_handler.c"
    subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    return library


def test_a_host_that_stops_by_a_flag_of_its_handler_in_c(emulator, left_alone, counting, tmp_path) -> None:
    """SIGTERM on one rank, which ends system calls early and is only counted: all ranks stop after the year."""
    kill_often(2, emulator, left_alone, tmp_path, seed=5, by=signal.SIGTERM, handler=("stops", counting))


@pytest.mark.parametrize("handler", ["goes on", "in C"])
def test_a_host_whose_handler_goes_on(emulator, left_alone, counting, tmp_path, handler: str) -> None:
    """Signals all the time, on every rank: the handler runs, and every step ends with its fields."""
    lag, expected, _ = left_alone
    library = (counting,) if handler == "in C" else ()
    command = [
        *launcher(), "-n", "2", sys.executable, PROGRAM, emulator, tmp_path, str(lag), "random", handler, *library,
    ]  # fmt: skip
    run = subprocess.Popen(
        list(map(str, command)), env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        sent, until = 0, time.monotonic() + LIMIT
        while run.poll() is None and time.monotonic() < until:
            for pid in (path.read_text() for path in tmp_path.glob("pid.*")):
                with contextlib.suppress(ProcessLookupError, ValueError):
                    if not (tmp_path / "final.npz").exists():
                        os.kill(int(pid), signal.SIGTERM)
                        sent += 1
            time.sleep(0.02)
        _, said = run.communicate(timeout=1)
        assert run.returncode == 0, said
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
    found = final(tmp_path)
    assert [name for name in expected if expected[name].tobytes() != found[name].tobytes()] == []
    handled = [int(path.read_text()) for path in sorted(tmp_path.glob("handled.*"))]
    print(f"lag {lag}: {sent} signals, handled by rank: {handled}")
    assert sent > 10
    assert min(handled) > 3


@pytest.mark.long
def test_fifty_kills(emulator, left_alone, tmp_path) -> None:
    kill_often(25, emulator, left_alone, tmp_path, seed=2)
