"""Random calls of the C interface: no crash, no hang, no wrong success, whatever is called with whatever."""

import json
import sys
from pathlib import Path

import pytest
import small_emulator
from mpi import mpirun

PROGRAM = Path(__file__).parent / "programs" / "bad_calls.py"
LATE = ("lag: 1", "on_bad_input: hold")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An emulator of eight tiles, so that a year takes little."""
    return small_emulator.build(tmp_path_factory.mktemp("tiny"), coarse=(8, 16))


@pytest.mark.parametrize(
    ("ranks", "calls", "seed", "more"),
    [
        (1, 1200, 1, ()),
        (1, 1200, 2, LATE),
        (2, 600, 3, ()),
        pytest.param(1, 10_000, 4, (), marks=pytest.mark.long),
        pytest.param(1, 5_000, 5, LATE, marks=pytest.mark.long),
        pytest.param(2, 5_000, 6, LATE, marks=pytest.mark.long),
    ],
)
def test_bad_calls_end_in_their_status(
    prefix: Path, tiny: Path, tmp_path: Path, ranks: int, calls: int, seed: int, more: tuple[str, ...]
) -> None:
    """Every status is one that a model of the interface predicts; nothing is written where nothing may be."""
    library = prefix / "lib" / "libai4land_coupler.so"
    what = (library, tiny, tmp_path, str(seed), str(calls), *more)
    done = mpirun(ranks, sys.executable, PROGRAM, *what, timeout=60 + calls)
    last = (tmp_path / "calls.0").read_text().splitlines()[-4:]
    assert done.returncode == 0, "\n".join([done.stderr[-4000:], *last])
    result = json.loads(done.stdout)
    print(f"{ranks} ranks: {sum(result['calls'].values())} calls a rank, {result['bad']} bad ones, {result}")
    assert result["bad"] >= calls * 0.7 * ranks
    met = {"0", "1", "2", "3", "4", "5", "6", "9", "10", "12"} | ({"-1"} if more else set())
    assert set(result["statuses"]) >= met or ranks > 1
    assert result["descriptors"][1] <= result["descriptors"][0] + 1
