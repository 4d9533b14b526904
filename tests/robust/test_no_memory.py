"""Memory that runs out on one rank, wherever that is in a hook, is one status on all ranks, and the run goes on."""

import json
import sys
from pathlib import Path

import pytest
import small_emulator
from mpi import mpirun

PROGRAM = Path(__file__).parent / "programs" / "no_memory.py"
HOOKS = ("init", "set_grid", "step", "write_restart", "read_restart", "finalize")


@pytest.mark.parametrize(
    ("lag", "every"),
    [(0, 25), pytest.param(1, 25, marks=pytest.mark.long), pytest.param(0, 1, marks=pytest.mark.long)],
)
def test_every_line_that_asks_for_memory(tmp_path: Path, lag: int, every: int) -> None:
    """On two ranks, with output and record: no rank waits for one that failed, and none goes on without it."""
    emulator = small_emulator.build(tmp_path / "tiny", coarse=(8, 16))
    done = mpirun(
        2, sys.executable, PROGRAM, emulator, tmp_path, str(lag), str(every), *HOOKS, timeout=300 * 25 / every
    )
    assert done.returncode == 0, (tmp_path / "at").read_text() + done.stderr[-4000:]
    result = json.loads(done.stdout)
    for hook, found in result["hooks"].items():
        print(f"{hook}, lag {lag}: {found['tried']} of {found['lines']} lines tried, {found['failed']} failed alike, "
              f"{found['well']} went well on both")  # fmt: skip
        assert found["odd"] == []
        assert found["failed"] + found["well"] == found["tried"]
        assert hook == "finalize" or found["failed"] > 0.5 * found["tried"]  # whose record may fail, and it goes well
    assert result["same"]
