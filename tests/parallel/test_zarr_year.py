"""One year of the store from the tiles of all ranks: the same bytes on any deal; a failure anywhere shows no year."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from mpi import mpirun
from mpi4py import MPI

from ai4land_coupler.comm import Communicator
from ai4land_coupler.errors import Status
from ai4land_coupler.zarrout import ZarrWriter, read_year, stored_years

sys.path.insert(0, str(Path(__file__).parent / "programs"))

import write_year

FAILURES = {
    "no_folder": "ai4land.zarr could not be written",
    "full_disk": "MiB are free on that disk; make room",
    "fails_on_last_rank": "no room for a tile",
    "wrong_shape_on_last_rank": "uint8 (40, 40) is expected, got uint8 (39, 40)",
}
RANKS = (1, 2, 3)


def files(folder: Path) -> dict[str, bytes]:
    """What the store's files hold, but for those with the hour in them."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path != folder / "ai4land.zarr" / "zarr.json"
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """For each number of ranks the folder the cases were written into, and what every rank heard of each."""
    found = {}
    comm = Communicator.of(MPI.COMM_SELF)
    for ranks in RANKS:
        folder = tmp_path_factory.mktemp(f"on{ranks}")
        for case in ("good", *FAILURES):
            if case != "no_folder":
                (folder / case).mkdir()
                values = write_year.fields(2000)
                ZarrWriter(folder / case, write_year.EMULATOR, {"note": "a test"}, 1, "all").write(
                    comm, 2000, write_year.TILES, [0] * len(write_year.TILES),
                    lambda tile, values=values: {name: field[tile.rows, tile.cols] for name, field in values.items()},
                    write_year.coarse(),
                )  # fmt: skip
        done = mpirun(ranks, sys.executable, Path(write_year.__file__), "zarr", folder, "good", *FAILURES)
        assert done.returncode == 0, done.stderr
        found[ranks] = folder, json.loads(done.stdout)
    comm.free()
    return found


@pytest.mark.parametrize("ranks", RANKS)
def test_the_store_holds_what_the_ranks_hold(written, ranks) -> None:
    folder, heard = written[ranks]
    store = folder / "good" / "ai4land.zarr"
    assert heard["good"] == [str(store)] * ranks
    assert stored_years(store) == (2000, 2001)
    for year in (2000, 2001):
        expected = write_year.fields(year) | write_year.coarse()
        found, legend = read_year(store, year, list(expected))
        assert legend == write_year.EMULATOR.legend
        for name, values in expected.items():
            assert found[name].dtype == values.dtype
            assert np.array_equal(found[name], values, equal_nan=values.dtype == np.float64), name


def test_its_bytes_do_not_depend_on_the_deal(written) -> None:
    first = files(written[1][0] / "good")
    assert len(first) > 20
    for ranks in RANKS[1:]:
        assert files(written[ranks][0] / "good") == first


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_anywhere_is_an_error_everywhere_and_shows_no_year(written, ranks, case) -> None:
    folder, heard = written[ranks]
    assert len(heard[case]) == ranks
    for found in heard[case]:
        assert found.startswith(f"{int(Status.OUTPUT)} ")
        assert FAILURES[case] in found
    if case == "no_folder":
        assert not (folder / case).exists()
    else:
        assert stored_years(folder / case / "ai4land.zarr") == (2000,)
        assert not [name for name in files(folder / case) if "/c/1" in name]
