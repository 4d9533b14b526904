"""What `ai4land selfcheck` plans, how it deals and hashes cells, and how it judges."""

import numpy as np
import pytest
from mpi4py import MPI

from ai4land_coupler.comm import Communicator
from ai4land_coupler.config import Config
from ai4land_coupler.errors import GridError, MPIError, UsageError
from ai4land_coupler.gridfile import read_grid
from ai4land_coupler.selfcheck import Run, check, compare, plan
from ai4land_coupler.selfcheck_worker import DEALS, deal, hash_cells, state

GRID = read_grid("latlon:15").grid


@pytest.mark.parametrize("how", DEALS)
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_deal_gives_every_cell_to_one_rank(how: str, size: int) -> None:
    cells = [deal(how, GRID, rank, size) for rank in range(size)]
    assert np.array_equal(np.sort(np.concatenate(cells)), np.arange(GRID.size))
    if how == "random" and size > 2:
        assert cells[-1].size == 0
    if size == 2:
        assert all(np.abs(part.size - GRID.size / 2) < GRID.size / 4 for part in cells)


@pytest.mark.parametrize("of_cell", [False, True])
def test_made_up_states_are_fractions_that_change(of_cell: bool) -> None:
    names = ("a", "b", "c")
    one, next_one = (np.stack(list(state(names, GRID, year, of_cell).values())) for year in (2001, 2002))
    assert np.abs(one.sum(axis=0) - 1).max() < 1e-15
    assert (one >= 0).all()
    assert (one == 0).any()
    assert (one != next_one).any(axis=0).mean() > 0.8


def test_a_hash_of_cells_knows_every_bit_and_no_order() -> None:
    comm, rng = Communicator(MPI.COMM_SELF), np.random.default_rng(0)
    ids, values = np.arange(1.0, 1001.0), rng.random(1000)
    first, order = hash_cells(comm, ids, values), rng.permutation(1000)
    assert hash_cells(comm, ids[order], values[order]) == first
    swapped = values.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    assert hash_cells(comm, ids, swapped) != first
    for bit in range(64):
        other = values.copy()
        other[500:501] = (other[500:501].view(np.uint64) ^ np.uint64(1 << bit)).view(np.float64)
        assert hash_cells(comm, ids, other) != first
    comm.free()


def test_the_plan_has_every_deal_a_subset_and_restarts_on_other_ranks() -> None:
    runs = plan([1, 2, 3], [0, 1])
    assert {(run.ranks, run.deal) for run in runs if not run.resume and not run.lag} == {
        (1, "bands"), *((n, how) for n in (2, 3) for how in DEALS)
    }  # fmt: skip
    assert sum(run.leave_out for run in runs) == 1
    known: list[str] = []
    for run in runs:
        assert run.resume in ("", *known)
        assert run.label not in known
        known.append(run.label)
    assert [(run.ranks, run.lag) for run in runs if run.resume] == [(1, 0), (1, 1)]
    assert all(run.lag for run in plan([2], [1]))


def test_a_field_differs_where_one_run_has_another_hash_for_a_year() -> None:
    one, two, late = Run(1, "bands"), Run(2, "random"), Run(2, "bands", lag=1)
    found = {
        one: [(2001, {"forest": "a", "barren": "x"}), (2002, {"forest": "b", "barren": "y"})],
        two: [(2001, {"forest": "a", "barren": "x"}), (2002, {"forest": "c", "barren": "y"})],
        late: [(2001, {"forest": "a", "barren": "x"}), (2001, {"forest": "d", "barren": "x"})],
    }
    forest, barren = compare(found)
    assert forest.differing == ("2 ranks, random (2002)", "2 ranks, bands, lag 1 (2001)")
    assert barren.differing == ()
    assert barren.hash != forest.hash


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"ranks": [0]}, UsageError, "expected ranks from 1"),
        ({"years": 1}, UsageError, "years from 2"),
        ({"lags": [2]}, UsageError, "lags 0 or 1"),
        ({"grid": "none.nc"}, GridError, "none.nc"),
        ({"launcher": "/no/such/launcher {n}"}, UsageError, "--launcher"),
        ({"launcher": "sleep 30 #"}, MPIError, "sleep"),
        ({"launcher": "sh -c 'echo because; exit 7' {n}"}, MPIError, "ended with 7(.|\n)*because"),
        ({"launcher": "sh -c 'trap : TERM; sleep 60 & wait; wait' {n}", "limit": 0.5}, MPIError, "stopped after 0.5 s"),
    ],
)
def test_what_cannot_be_checked_is_an_error_that_says_why(tmp_path, monkeypatch, options, error, says) -> None:
    for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"):
        monkeypatch.delenv(name, raising=False)
    given = {"grid": "latlon:15", "ranks": [1], "config": Config(emulator="igbp-0p05"), "engines": ["auto"], "years": 2,
             "lags": [0], "launcher": "", "limit": 60.0, "folder": tmp_path}  # fmt: skip
    with pytest.raises(error, match=says):
        check(**{**given, **options})
    assert list(tmp_path.iterdir()) == []


def test_it_does_not_start_inside_an_mpi_job(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    with pytest.raises(UsageError, match="without mpirun"):
        check("latlon:15", [1], Config(emulator="igbp-0p05"), ["auto"], 2, [0], "", 60.0, tmp_path)
