"""What a rank holds and receives grows with its own tiles, not with the globe."""

import json
import sys
from pathlib import Path

import pytest
from mpi import mpirun

PROGRAM = Path(__file__).parent / "programs" / "traffic.py"
EMULATOR_COARSE_CELLS = 360 * 720


def measure(ranks: int) -> list[dict[str, int]]:
    done = mpirun(ranks, sys.executable, PROGRAM, "random", timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found() -> dict[int, list[dict[str, int]]]:
    return {ranks: measure(ranks) for ranks in (2, 6)}


@pytest.mark.parametrize("what", ["set_grid", "step", "held", "reaching"])
def test_three_times_the_ranks_leave_each_a_third(found, what) -> None:
    """With 1 degree cells on tiles of 12 degrees; rims of tiles make it somewhat more than a third."""
    few, many = (max(rank[what] for rank in found[ranks]) for ranks in (2, 6))
    print(f"{what}: at most {few:,} on 2 ranks, {many:,} on 6")
    assert many < 0.45 * few


@pytest.mark.parametrize("what", ["set_grid", "step", "held"])
def test_a_tile_costs_the_same_on_any_number_of_ranks(found, what) -> None:
    """Beside what tiles cost there are three bits of every coarse cell: reached, with a state, closed."""
    fixed = 3 * EMULATOR_COARSE_CELLS // 8 if what == "set_grid" else 0
    per_tile = [(rank[what] - fixed) / rank["tiles"] for ranks in (2, 6) for rank in found[ranks]]
    print(f"{what}: {min(per_tile):,.0f} to {max(per_tile):,.0f} bytes a tile")
    assert max(per_tile) < 1.4 * min(per_tile)


def test_every_tile_has_one_rank(found) -> None:
    assert {sum(rank["tiles"] for rank in ranks) for ranks in found.values()} == {323}
    assert len({sum(rank["fine"] for rank in ranks) for ranks in found.values()}) == 1
