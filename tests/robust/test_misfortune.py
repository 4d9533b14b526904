"""What goes wrong on one rank, in a disk or in memory ends in one status on all ranks, and the run goes on."""

import json
import sys
from pathlib import Path

import pytest
import small_emulator
from mpi import mpirun

from ai4land_coupler.errors import Status

PROGRAM = Path(__file__).parent / "programs" / "misfortune.py"
OTHER = 100
"""What a rank gets that was interrupted itself: its own exception, not an error of the plugin."""

CASES = {
    "python": (Status.INTERNAL, Status.INTERNAL),
    "memory": (Status.INTERNAL, Status.INTERNAL),
    "torch memory": (Status.INTERNAL, Status.INTERNAL),
    "device memory": (Status.DEVICE, Status.DEVICE),
    "device": (Status.DEVICE, Status.DEVICE),
    "interrupt": (Status.INTERNAL, OTHER),
    "exit": (Status.INTERNAL, OTHER),
    "limit": (Status.INTERNAL, Status.INTERNAL),
    "full": (Status.OUTPUT, Status.OUTPUT),
    "lost": (Status.OUTPUT, Status.OUTPUT),
}

ONE_HEAP = {"limit": {"MALLOC_ARENA_MAX": "1"}}

MANY, ALIKE = pytest.mark.long, ("memory", "torch memory", "device", "exit")
"""Cases that take the same way as another one."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An emulator of eight tiles."""
    return small_emulator.build(tmp_path_factory.mktemp("tiny"), coarse=(8, 16))


@pytest.mark.parametrize("what", [pytest.param(what, marks=MANY if what in ALIKE else ()) for what in CASES])
def test_lag_0_hears_at_once(tiny: Path, tmp_path: Path, what: str) -> None:
    """The year fails on both ranks; every file is whole; taken up from the last restart it ends with the same bits."""
    done = mpirun(2, sys.executable, PROGRAM, tiny, tmp_path, what, "0", timeout=60, env=ONE_HEAP.get(what))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["got"]["step"] == list(CASES[what]), result
    if what in ("full", "lost"):
        assert result["got"]["restart"] == [Status.OUTPUT] * 2
    assert result["same"]


@pytest.mark.parametrize("what", ["full behind", "lost behind"])
def test_what_fails_behind_the_step_is_heard_at_the_next_call(tiny: Path, tmp_path: Path, what: str) -> None:
    """On both ranks, and once, by the step or the restart after it; the run goes on from its last restart.

    Where the folder is lost a restart fails for that alone.
    """
    done = mpirun(2, sys.executable, PROGRAM, tiny, tmp_path, what, "0", timeout=60)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    told = [result["got"][hook] for hook in ("step", "restart")]
    by_step, by_restart = [[Status.OUTPUT] * 2, [0, 0]], [[0, 0], [Status.OUTPUT] * 2]
    if what == "lost behind":
        by_step[1] = [Status.OUTPUT] * 2
    assert told in (by_step, by_restart), result
    assert result["same"]


@pytest.mark.parametrize("what", ["python", pytest.param("device memory", marks=MANY), "full"])
def test_lag_1_hears_a_year_later(tiny: Path, tmp_path: Path, what: str) -> None:
    """What fails in the thread is told by the next step; what fails in writing by the step that writes."""
    done = mpirun(2, sys.executable, PROGRAM, tiny, tmp_path, what, "1", timeout=60)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    told = result["got"]["step" if what == "full" else "next"]
    assert told == list(CASES[what]), result
    assert result["same"]
