"""Nodes whose processors have unlike instructions: one precision for all ranks, or the tiles of some would differ."""

import sys
from pathlib import Path

import pytest
import small_emulator
from mpi import mpirun

PROGRAM = Path(__file__).parent / "programs" / "unlike_nodes.py"


@pytest.mark.parametrize(("ranks", "auto"), [(1, "bfloat16"), (3, "float32")])
def test_auto_is_what_every_rank_has(tmp_path: Path, ranks: int, auto: str) -> None:
    done = mpirun(ranks, sys.executable, PROGRAM, small_emulator.build(tmp_path / "emulator"))
    assert done.returncode == 0, done.stderr
    expected = [["auto", *[auto] * ranks], ["bfloat16", *["bfloat16"] * ranks]]
    assert [line.split() for line in done.stdout.splitlines()] == expected
