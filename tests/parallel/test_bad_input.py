"""What is bad on one rank is a status on all, nothing hangs, and the run goes on."""

import json
import sys
from pathlib import Path

import pytest
import small_emulator
from mpi import mpirun

from ai4land_coupler.errors import Status

PROGRAM = Path(__file__).parent / "programs" / "bad_input.py"

EVERYWHERE = {
    "emulator_missing": (Status.EMULATOR, "neither a folder nor shipped"),
    "output_unwritable": (Status.OUTPUT, "file-not-folder"),
    "step_before_set_grid": (Status.USAGE, "call set_grid first"),
    "grid_repeated_id": (Status.GRID, "is given more than once"),
    "grid_not_finite": (Status.GRID, "corner that is not finite"),
    "grid_overlap": (Status.GRID, "overlap"),
    "set_grid": (Status.OK, ""),
    "set_grid_again": (Status.USAGE, "already called"),
    "get_before_step": (Status.USAGE, "no year is served yet"),
    "restart_before_step": (Status.USAGE, "no year is served yet"),
    "put_unknown": (Status.USAGE, "unknown class 'foreset'"),
    "put_length": (Status.USAGE, "one a host cell of this rank"),
    "class_missing": (Status.BAD_INPUT, "'forest' was not put since the last step"),
    "years_differ": (Status.USAGE, "expected one year on all ranks, got 2001 on some and 2002 on others"),
    "nan": (Status.BAD_INPUT, "expected a finite fraction, got nan"),
    "negative": (Status.BAD_INPUT, "a fraction of at least 0, got -0.1"),
    "above_one": (Status.BAD_INPUT, "at most 1 of the land, got 1.5"),
    "sum": (Status.BAD_INPUT, "must sum to 1 within 1e-05"),
    "good": (Status.OK, ""),
    "year_repeated": (Status.TIME_ORDER, "expected a year after 2001"),
    "year_back": (Status.TIME_ORDER, "expected a year after 2001"),
    "restart_unwritable": (Status.OUTPUT, "cannot be written"),
    "restart": (Status.OK, ""),
    "restart_missing": (Status.RESTART, "cannot be read"),
    "restart_damaged": (Status.RESTART, "cannot be read"),
    "get_unknown": (Status.USAGE, "unknown name 'foreset'"),
    "grid_unknown": (Status.USAGE, "grids are 'fine' and 'host'"),
    "goes_on": (Status.OK, ""),
    "finalize": (Status.OK, ""),
    "finalize_again": (Status.OK, ""),
    "use_after_finalize": (Status.USAGE, "was finalized"),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    folder = tmp_path_factory.mktemp("bad")
    done = mpirun(3, sys.executable, PROGRAM, small_emulator.build(folder / "emulator"), folder)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["served"] > 0
    return result["found"]


def test_every_case_was_tried(found: dict[str, list]) -> None:
    assert set(found) == set(EVERYWHERE)


@pytest.mark.parametrize("name", EVERYWHERE)
def test_all_ranks_agree(found: dict[str, list], name: str) -> None:
    status, says = EVERYWHERE[name]
    assert [got[0] for got in found[name]] == [status] * 3, found[name]
    assert all(says in got[1] for got in found[name]), found[name]
