"""Bad geometry on one rank is named on all of them within seconds."""

import json
import sys
from pathlib import Path

import pytest
import small_emulator
from mpi import mpirun

from ai4land_coupler.errors import Status
from ai4land_coupler.regrid import esmf

PROGRAM = Path(__file__).parent / "programs" / "bad_grid.py"

EXPECTED = {
    "good/any": (Status.OK, ""),
    "good/global": (Status.OK, ""),
    "bow_tie/any": (Status.GRID, "host cell {spoilt}"),
    "degenerate/any": (Status.GRID, "host cell {spoilt} has no area"),
    "off_the_sphere/any": (Status.GRID, "host cell {spoilt} has a latitude beyond 90 degrees"),
    "infinite/any": (Status.GRID, "host cell {spoilt} has a corner that is not finite"),
    "radians/any": (Status.GRID, "look like radians"),
    "radians_here_alone/any": (Status.GRID, "overlap"),
    "other_corners_than_the_neighbours/any": (Status.GRID, "overlap"),
    "a_neighbours_cell/any": (Status.GRID, "host cells 6 and {spoilt} overlap"),
    "missing/any": (Status.OK, ""),
    "missing/global": (Status.GRID, "host cells leave"),
}


@pytest.fixture(
    scope="module",
    params=[
        "yac",
        pytest.param("esmf", marks=pytest.mark.skipif(esmf.lacks() is not None, reason=f"no ESMF: {esmf.lacks()}")),
    ],
)
def found(request, tmp_path_factory: pytest.TempPathFactory) -> dict:
    emulator = small_emulator.build(tmp_path_factory.mktemp("bad") / "emulator")
    done = mpirun(3, sys.executable, PROGRAM, emulator, request.param)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", EXPECTED)
def test_every_rank_hears_the_same_within_seconds(found: dict, case: str) -> None:
    status, text = EXPECTED[case]
    answers = found["found"][case]
    assert len(answers) == 3
    assert {(got, said) for got, said, _ in answers} == {(status, answers[0][1])}
    assert text.format(**found) in answers[0][1]
    assert max(seconds for *_, seconds in answers) < 20


def test_every_case_was_tried(found: dict) -> None:
    assert set(found["found"]) == set(EXPECTED)
