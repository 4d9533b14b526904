"""One file from the tiles of all ranks; a failure anywhere is heard everywhere and leaves no file behind."""

import json
import sys
from pathlib import Path

import netCDF4
import numpy as np
import pytest
from mpi import mpirun

from ai4land_coupler.errors import Status

sys.path.insert(0, str(Path(__file__).parent / "programs"))

import write_year

FAILURES = {
    "no_folder": "ai4land_2001.nc could not be written",
    "full_disk": "MiB are free on that disk; make room",
    "fails_on_last_rank": "no room for a tile",
    "wrong_shape_on_last_rank": "uint8 (40, 40) is expected, got uint8 (39, 40)",
}
CASES = ("good", *FAILURES, "good_again")


@pytest.fixture(scope="module", params=[1, 2, 3, 4])
def written(request, tmp_path_factory):
    """The folder the cases were written into, one after the other in one run, and what every rank heard of each."""
    folder = tmp_path_factory.mktemp(f"on{request.param}")
    for case in CASES:
        if case != "no_folder":
            (folder / case).mkdir()
            (folder / case / "ai4land_2000.nc").write_bytes(b"whole")
    done = mpirun(request.param, sys.executable, Path(write_year.__file__), "netcdf", folder, *CASES)
    assert done.returncode == 0, done.stderr
    heard = json.loads(done.stdout)
    assert all(len(heard[case]) == request.param for case in CASES)
    return folder, heard


@pytest.mark.parametrize("case", ["good", "good_again"])
def test_the_file_holds_what_the_ranks_hold(written, case) -> None:
    folder, heard = written
    path = folder / case / "ai4land_2001.nc"
    assert set(heard[case]) == {str(path)}
    with netCDF4.Dataset(path) as file:
        file.set_auto_mask(False)
        for name, expected in write_year.fields(2001).items():
            assert np.array_equal(file[name][0], expected, equal_nan=expected.dtype == np.float64), name
        for name, expected in write_year.coarse().items():
            assert np.array_equal(file[name][:], expected, equal_nan=True), name
    assert sorted(left.name for left in path.parent.iterdir()) == ["ai4land_2000.nc", "ai4land_2001.nc"]


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_anywhere_is_an_error_everywhere(written, case) -> None:
    folder, heard = written
    for found in heard[case]:
        assert found.startswith(f"{int(Status.OUTPUT)} ")
        assert FAILURES[case] in found
    if case != "no_folder":
        assert [left.name for left in (folder / case).iterdir()] == ["ai4land_2000.nc"]
        assert (folder / case / "ai4land_2000.nc").read_bytes() == b"whole"
