"""The yearly file as its readers see it, and the report."""

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr
from mpi4py import MPI

from ai4land_coupler.comm import Communicator
from ai4land_coupler.errors import OutputError
from ai4land_coupler.output import YearWriter, write_report

sys.path.insert(0, str(Path(__file__).parents[1] / "parallel" / "programs"))

import write_year

CFTIME = xr.coders.CFDatetimeCoder(use_cftime=True)


@pytest.fixture
def comm():
    made = Communicator.of(MPI.COMM_SELF)
    yield made
    made.free()


def write(comm, folder: Path, year: int = 2001, fractions="all") -> Path:
    values = write_year.fields(year)

    def local(tile):
        return {name: field[tile.rows, tile.cols] for name, field in values.items()}

    writer = YearWriter(
        folder, write_year.EMULATOR, {"emulator_hash": "abc", "configuration": "emulator: small\n"}, 1, fractions
    )
    owner = [0] * len(write_year.TILES)
    return writer.write(comm, year, write_year.TILES, owner, local, write_year.coarse())


def test_xarray_reads_it_without_a_warning(comm, tmp_path) -> None:
    path = write(comm, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xr.open_dataset(path) as data:
            data.load()
    assert data["class"].dims == ("time", "lat", "lon")
    assert data["class"].dtype == np.uint8
    assert data["target"].dims == data["residual"].dims == ("class", "coarse_lat", "coarse_lon")
    assert str(data.time.values[0]) == "2001-01-01 00:00:00"
    assert data.time.values[0].calendar == "noleap"
    assert data.attrs["Conventions"] == "CF-1.11"
    assert data.attrs["configuration"] == "emulator: small\n"
    names = data["class"].attrs["flag_meanings"].split()
    assert dict(zip(names, data["class"].attrs["flag_values"], strict=True)) == {
        "none": 0, "forest": 1, "grassland": 2, "cropland": 3,
    }  # fmt: skip
    assert float(data.lat[0]) == -90 + 180 / 80 / 2
    assert float(data.lon[-1]) == 180 - 360 / 160 / 2
    assert data.lat_bnds.values.tolist()[-1] == [87.75, 90.0]


def test_years_before_1850_and_after_keep_their_date(comm, tmp_path) -> None:
    for year in (850, 1849, 1850, 2000, 2300):
        with xr.open_dataset(write(comm, tmp_path, year, "none"), decode_times=CFTIME) as data:
            assert (data.time.values[0].year, data.time.values[0].dayofyr) == (year, 1)


@pytest.mark.skipif(shutil.which("cdo") is None, reason="cdo is not installed")
def test_cdo_reads_it_without_a_warning(comm, tmp_path) -> None:
    path = write(comm, tmp_path)
    for operator in ("sinfo", "infon"):
        done = subprocess.run(["cdo", "-s", operator, path], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        assert "2001-01-01 00:00:00" in done.stdout
    values = write_year.fields(2001)
    done = subprocess.run(
        ["cdo", "-s", "outputf,%.17g", "-fldmean", "-setgrid,r160x80", "-selname,forest", path],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert np.nanmin(values["forest"]) <= float(done.stdout) <= np.nanmax(values["forest"])


def test_fractions_are_there_in_the_years_asked_for_only(comm, tmp_path) -> None:
    for year, fractions, there in (
        (2001, "none", False),
        (2001, (2002,), False),
        (2002, (2002,), True),
        (1, "all", True),
    ):
        with netCDF4.Dataset(write(comm, tmp_path, year, fractions)) as file:
            assert ("forest" in file.variables) == there
            assert "class" in file.variables


def test_a_second_write_replaces_the_first(comm, tmp_path) -> None:
    path = write(comm, tmp_path)
    path.write_bytes(b"")
    assert write(comm, tmp_path) == path
    with netCDF4.Dataset(path) as file:
        assert file["class"].shape == (1, 80, 160)


def test_a_folder_that_cannot_be_is_refused_early(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/sub.*choose another folder"):
        YearWriter(tmp_path / "file" / "sub", write_year.EMULATOR, {}).check_writable()
    YearWriter(tmp_path / "new" / "sub", write_year.EMULATOR, {}).check_writable()
    assert list((tmp_path / "new" / "sub").iterdir()) == []


def test_the_report_is_strict_json_and_replaced_whole(tmp_path) -> None:
    write_report(tmp_path, {"years": [{"year": 2001, "largest_residual": 1e-14}]})
    with pytest.raises(OutputError, match=r"report\.json"):
        write_report(tmp_path, {"years": [{"year": 2002, "largest_residual": float("nan")}]})
    assert json.loads((tmp_path / "report.json").read_text())["years"][0]["year"] == 2001
    assert [left.name for left in tmp_path.iterdir()] == ["report.json"]
