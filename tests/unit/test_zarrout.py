"""The zarr store as its readers see it, year after year."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from mpi4py import MPI

from ai4land_coupler.comm import Communicator
from ai4land_coupler.errors import OutputError
from ai4land_coupler.zarrout import ZarrWriter, read_year, stored_years

sys.path.insert(0, str(Path(__file__).parents[1] / "parallel" / "programs"))

import write_year

CFTIME = xr.coders.CFDatetimeCoder(use_cftime=True)
PROVENANCE = {"emulator_hash": "abc", "configuration": "emulator: small\n"}


@pytest.fixture
def comm():
    made = Communicator.of(MPI.COMM_SELF)
    yield made
    made.free()


def writer(folder: Path, **options) -> ZarrWriter:
    return ZarrWriter(folder, write_year.EMULATOR, PROVENANCE, **{"fractions": "all", **options})


def write(comm, to: ZarrWriter, *years: int, held: str = "") -> Path:
    for year in years:
        values = write_year.fields(year)

        def local(tile, values=values):
            return {name: field[tile.rows, tile.cols] for name, field in values.items()}

        store = to.write(
            comm, year, write_year.TILES, [0] * len(write_year.TILES), local, write_year.coarse(), held
        )  # fmt: skip
    return store


def chunks(store: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in store.rglob("*") if path.is_file() and path.name != "zarr.json"}


def test_xarray_reads_it_as_cf_without_a_warning(comm, tmp_path) -> None:
    store = write(comm, writer(tmp_path), 850, 1850, 2300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xr.open_zarr(store, decode_times=CFTIME) as data:
            data.load()
    assert data["class"].dims == ("time", "lat", "lon")
    assert data["class"].dtype == np.uint8
    assert data["target"].dims == ("time", "class", "coarse_lat", "coarse_lon")
    assert data.year.values.tolist() == [850, 1850, 2300]
    assert [(time.year, time.dayofyr, time.calendar) for time in data.time.values] == [
        (year, 1, "noleap") for year in (850, 1850, 2300)
    ]
    assert data.attrs["Conventions"] == "CF-1.11"
    assert data.attrs["configuration"] == "emulator: small\n"
    assert data["class"].attrs["flag_meanings"] == "none forest grassland cropland"
    assert data["class"].attrs["flag_values"] == [0, 1, 2, 3]
    assert float(data.lat[0]) == -90 + 180 / 80 / 2
    assert data.lat_bnds.values.tolist()[-1] == [87.75, 90.0]
    for at, year in enumerate((850, 1850, 2300)):
        for name, values in write_year.fields(year).items():
            assert np.array_equal(data[name][at], values, equal_nan=values.dtype == np.float64), name
    for name, values in write_year.coarse().items():
        assert np.array_equal(data[name][2], values, equal_nan=True), name


def test_fractions_are_there_in_the_years_asked_for_only(comm, tmp_path) -> None:
    store = write(comm, writer(tmp_path, fractions=(2001,)), 2000, 2001)
    assert np.isnan(read_year(store, 2000, ["forest"])[0]["forest"]).all()
    assert np.array_equal(read_year(store, 2001, ["forest"])[0]["forest"], write_year.fields(2001)["forest"], True)
    (tmp_path / "bare").mkdir()
    bare = write(comm, writer(tmp_path / "bare", fractions="none"), 2000)
    assert "forest" not in zarr.open_group(bare, mode="r")


def test_a_held_year_says_so(comm, tmp_path) -> None:
    store = write(comm, writer(tmp_path), 2000)
    write(comm, writer(tmp_path), 2001, held="fields of 2000: bad input")
    assert zarr.open_group(store, mode="r")["held"][:].tolist() == [0, 1]


@pytest.mark.parametrize(("backward", "years"), [(False, (1700, 1850, 1990)), (True, (1990, 1850, 1700))])
def test_a_year_that_comes_again_takes_the_later_ones_with_it(comm, tmp_path, backward, years) -> None:
    to = writer(tmp_path, backward=backward)
    store = write(comm, to, *years)
    assert stored_years(store) == years
    once = chunks(store)
    assert len(once) > 30
    write(comm, to, years[1])
    assert stored_years(store) == years[:2]
    assert not list(store.glob("class/c/2"))
    write(comm, to, years[2])
    assert chunks(store) == once
    between = write(comm, to, 1750 if backward else 1950)
    assert stored_years(between) == (*years[:2], 1750 if backward else 1950)
    for name in ("class", "time", "target"):
        assert zarr.open_array(store / name, mode="r").shape[0] == 3


def test_an_interrupted_year_is_not_seen_and_made_again(comm, tmp_path) -> None:
    to = writer(tmp_path)
    store = write(comm, to, 2000)
    begun = to.open(2001, write_year.TILES, "")
    for tile in write_year.TILES:
        begun.put(tile, {name: field[tile.rows, tile.cols] for name, field in write_year.fields(7).items()})
    assert (store / "forest" / "c" / "1").exists()
    assert stored_years(store) == (2000,)
    with xr.open_zarr(store) as data:
        assert data.sizes["time"] == 1
    write(comm, to, 2001)
    found = read_year(store, 2001, list(write_year.fields(2001)))[0]
    for name, values in write_year.fields(2001).items():
        assert np.array_equal(found[name], values, equal_nan=values.dtype == np.float64), name


def test_a_reader_sees_whole_years_whenever_it_looks(comm, tmp_path) -> None:
    """A program writes the same years over and over and is killed; what is read meanwhile and afterwards is whole."""
    store = write(comm, writer(tmp_path), 2000)
    program = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(write_year.__file__).parent)]!r}
import test_zarrout as t
from pathlib import Path
comm = t.Communicator.of(t.MPI.COMM_SELF)
while True:
    t.write(comm, t.writer(Path({str(tmp_path)!r})), 2001, 2002)
"""
    child = subprocess.Popen([sys.executable, "-c", program])
    lengths = set()
    try:
        until = time.monotonic() + 60
        while (len(lengths) < 3 or time.monotonic() < until - 56) and time.monotonic() < until:
            assert child.poll() is None
            tree = json.loads((store / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
            lengths.add(tree["class"]["shape"][0])
            assert len({node["shape"][0] for node in tree.values() if node["dimension_names"][0] == "time"}) == 1
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert lengths == {1, 2, 3}
    for year in stored_years(store):
        assert np.array_equal(read_year(store, year, ["class"])[0]["class"], write_year.fields(year)["class"])
    write(comm, writer(tmp_path), 2001, 2002)
    assert stored_years(store) == (2000, 2001, 2002)
    for year in (2000, 2001, 2002):
        assert np.array_equal(read_year(store, year, ["class"])[0]["class"], write_year.fields(year)["class"])


def test_another_store_is_refused_with_both_sides(comm, tmp_path) -> None:
    to = writer(tmp_path, fractions="none")
    write(comm, to, 2000, 2001)
    with pytest.raises(OutputError, match="another emulator: it has abc, this run has xyz"):
        write(comm, replace(to, provenance={"emulator_hash": "xyz"}), 2002)
    with pytest.raises(OutputError, match=r"goes from 2000 to 2001, this run has time: backward"):
        write(comm, replace(to, backward=True), 1999)
    with pytest.raises(OutputError, match=r"output\.fractions: none"):
        write(comm, replace(to, fractions="all"), 2002)
    (tmp_path / "other" / "ai4land.zarr").mkdir(parents=True)
    (tmp_path / "other" / "ai4land.zarr" / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="is no store of ai4land_coupler"):
        write(comm, writer(tmp_path / "other"), 2002)
    assert (tmp_path / "other" / "ai4land.zarr" / "mine.txt").exists()
