"""Many years and many components in one process: memory, files, threads and communicators do not grow."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import small_emulator
from mpi import mpirun

PROGRAM = Path(__file__).parent / "programs" / "long_life.py"
LONG = pytest.mark.long


def growth(resident: list[float]) -> float:
    """Bytes from one entry to the next, by the medians of the third and the last quarter."""
    quarter = len(resident) // 4
    return float((np.median(resident[-quarter:]) - np.median(resident[-2 * quarter : -quarter])) / quarter)


@pytest.mark.parametrize(
    ("ranks", "steps", "cycles", "lag", "a_step", "a_cycle"),
    [
        (1, 600, 100, 0, 8192, 65536),
        pytest.param(1, 1000, 200, 0, 4096, 32768, marks=LONG),
        pytest.param(1, 1000, 200, 1, 4096, 32768, marks=LONG),
        pytest.param(2, 1000, 200, 1, 4096, 32768, marks=LONG),
    ],
)
def test_nothing_grows(
    tmp_path: Path, ranks: int, steps: int, cycles: int, lag: int, a_step: float, a_cycle: float
) -> None:
    """In the second half, when everything has been used; a year's fields are 30 kB, a component 10 MB."""
    emulator = small_emulator.build(tmp_path / "tiny", coarse=(8, 16))
    more = (str(number) for number in (steps, cycles, lag))
    done = mpirun(ranks, sys.executable, PROGRAM, emulator, tmp_path, *more, timeout=120 + steps)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    step = growth([entry["resident"] for entry in found["steps"]]) / 10
    cycle = growth([entry["resident"] for entry in found["cycles"]])
    print(f"{ranks} ranks, lag {lag}: {step:.0f} bytes a step over {steps}, {cycle:.0f} a cycle over {cycles}")
    for what, entries in found.items():
        kept = entries[len(entries) // 2 :]
        for name in ("files", "tasks", "threads", "communicator"):
            assert len({entry[name] for entry in kept}) == 1, (what, name, kept)
    assert step < a_step
    assert cycle < a_cycle
