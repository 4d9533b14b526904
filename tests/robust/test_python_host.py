"""A Python host's process is left as it was by every hook: random states, modes, handlers, environment."""

import sys
from pathlib import Path

import pytest
import small_emulator
from mpi import mpirun

PROGRAM = Path(__file__).parent / "programs" / "python_host.py"


@pytest.mark.parametrize(("ranks", "lag"), [(1, 0), (2, 1)])
def test_python_host_is_left_as_found(tmp_path: Path, ranks: int, lag: int) -> None:
    """With errors of numpy and warnings turned into exceptions, failing hooks included."""
    emulator = small_emulator.build(tmp_path / "tiny", coarse=(8, 16))
    done = mpirun(ranks, sys.executable, PROGRAM, emulator, tmp_path, str(lag))
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
