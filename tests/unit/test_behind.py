"""Years written behind the step: by whom, how many at a time, and what is heard of those that fail."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import small_emulator
from mpi4py import MPI

from ai4land_coupler import behind
from ai4land_coupler.behind import Behind
from ai4land_coupler.comm import Communicator
from ai4land_coupler.component import Component
from ai4land_coupler.config import Config, OutputConfig
from ai4land_coupler.errors import OutputError
from ai4land_coupler.outfields import Writer
from ai4land_coupler.output import YearWriter
from ai4land_coupler.zarrout import ZarrWriter, read_year

PROGRAMS = Path(__file__).parents[1] / "parallel" / "programs"
sys.path.insert(0, str(PROGRAMS))

import deal  # noqa: E402
import write_year  # noqa: E402

LONG = 20.0
"""Seconds in which something must come about, on a busy machine."""


@pytest.fixture
def comm() -> Iterator[Communicator]:
    made = Communicator.of(MPI.COMM_SELF)
    yield made
    made.free()


@pytest.fixture
def queue() -> Iterator[Behind]:
    made = Behind(1)
    yield made
    made.close()


def hand_over(comm: Communicator, to: Behind | None, writer: Writer, year: int) -> Path:
    values, tiles = write_year.fields(year), write_year.TILES
    return writer.write(
        comm, year, tiles, [0] * len(tiles),
        lambda tile: {name: field[tile.rows, tile.cols] for name, field in values.items()},
        write_year.coarse(), begin=to and (lambda *args: to.open(writer, *args)),
    )  # fmt: skip


def netcdf(folder: Path) -> YearWriter:
    return YearWriter(folder, write_year.EMULATOR, {"emulator_hash": "abc"}, 1, "all")


def _write_and_settle(comm: Communicator, queue: Behind, writer: Writer, year: int) -> None:
    hand_over(comm, queue, writer, year)
    queue.settle()


def process(queue: Behind) -> int:
    """The process id of the writer."""
    assert queue._process is not None
    return queue._process.pid


def whole(path: Path) -> bool:
    with netCDF4.Dataset(path) as file:
        return all(variable[...].size > 0 for variable in file.variables.values())


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A writer that gets nothing done."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def full_disk(pid: int) -> Iterator[None]:
    """No file of a process grows beyond a few kB."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def children() -> list[str]:
    return Path("/proc/self/task", str(os.getpid()), "children").read_text().split()


def test_the_files_are_those_that_are_written_at_once(comm, queue, tmp_path) -> None:
    for folder in ("at_once", "behind"):
        (tmp_path / folder).mkdir()
    at_once = hand_over(comm, None, netcdf(tmp_path / "at_once"), 2001)
    later = hand_over(comm, queue, netcdf(tmp_path / "behind"), 2001)
    queue.settle()
    assert os.listdir(tmp_path / "behind") == ["ai4land_2001.nc"]
    with netCDF4.Dataset(at_once) as one, netCDF4.Dataset(later) as other:
        one.set_auto_mask(False)
        other.set_auto_mask(False)
        assert list(one.variables) == list(other.variables)
        for name, variable in one.variables.items():
            assert variable[...].tobytes() == other[name][...].tobytes()
            assert variable.filters() == other[name].filters()
            assert variable.ncattrs() == other[name].ncattrs()
        assert {*one.ncattrs()} == {*other.ncattrs()}


def test_a_store_is_the_one_that_is_written_at_once(comm, queue, tmp_path) -> None:
    names = ("class", "filled", *write_year.EMULATOR.legend, "target")
    found = []
    for to, folder in ((None, tmp_path / "at_once"), (queue, tmp_path / "behind")):
        folder.mkdir()
        writer = ZarrWriter(folder, write_year.EMULATOR, {"emulator_hash": "abc"}, 1, "all")
        for year in (2001, 2003):
            store = hand_over(comm, to, writer, year)
        if to is not None:
            to.settle()
        found.append([read_year(store, year, names)[0] for year in (2001, 2003)])
    for one, other in zip(*found, strict=True):
        assert all(one[name].tobytes() == other[name].tobytes() for name in names)


def test_a_slow_writer_is_waited_for_only_where_the_queue_is_full(comm, queue, tmp_path) -> None:
    queue.start()
    hand_over(comm, queue, netcdf(tmp_path), 2001)
    queue.settle()
    with stopped(process(queue)):
        hand_over(comm, queue, netcdf(tmp_path), 2002)
        assert not (tmp_path / "ai4land_2002.nc").exists()
        second = threading.Thread(target=hand_over, args=(comm, queue, netcdf(tmp_path), 2003))
        second.start()
        second.join(0.5)
        assert second.is_alive(), "one year may be unfinished, not two"
    second.join(LONG)
    assert (tmp_path / "ai4land_2002.nc").exists()
    queue.settle()
    assert whole(tmp_path / "ai4land_2003.nc")


def test_the_memory_of_what_waits_is_bounded(comm, queue, tmp_path, monkeypatch) -> None:
    """A year has 7 tiles of 41 kB and 3 coarse fields of 3 kB."""
    monkeypatch.setattr(behind, "LARGEST", 40_000)
    monkeypatch.setattr(behind, "ROOM", 150_000)
    hand_over(comm, queue, netcdf(tmp_path), 2001)
    queue.settle()
    running = queue._process
    assert running is not None
    with stopped(running.pid):
        year = threading.Thread(target=hand_over, args=(comm, queue, netcdf(tmp_path), 2002))
        year.start()
        year.join(0.5)
        assert year.is_alive()
        assert 80_000 < running.sent - running.page["taken"] <= 150_000
    year.join(LONG)
    queue.settle()
    assert whole(tmp_path / "ai4land_2002.nc")


@pytest.mark.parametrize("form", [YearWriter, ZarrWriter])
def test_a_full_disk_is_heard_of_once_and_the_next_year_is_written(comm, queue, tmp_path, form) -> None:
    writer = form(tmp_path, write_year.EMULATOR, {"emulator_hash": "abc"}, 0, "all")
    hand_over(comm, queue, writer, 2001)
    queue.settle()
    with full_disk(process(queue)):
        with pytest.raises(OutputError, match=r"ai4land.*could not be written.*MiB are free") as told:
            _write_and_settle(comm, queue, writer, 2002)
        queue.settle()
        queue.heed()
    assert "2002" in str(told.value) or form is ZarrWriter
    path = hand_over(comm, queue, writer, 2003)
    queue.report(
        tmp_path, {"years": [], "files": [str(tmp_path / f"ai4land_{year}.nc") for year in (2001, 2002, 2003)]}
    )
    queue.settle()
    assert [name for name in os.listdir(tmp_path) if name.endswith((".part", ".new"))] == []
    if form is YearWriter:
        assert whole(path)
        assert sorted(os.listdir(tmp_path)) == ["ai4land_2001.nc", "ai4land_2003.nc", "report.json"]
        files = json.loads((tmp_path / "report.json").read_text())["files"]
        assert [Path(name).name for name in files] == ["ai4land_2001.nc", "ai4land_2003.nc"]
    else:
        assert read_year(path, 2003, ("class",))[0]["class"].tobytes() == write_year.fields(2003)["class"].tobytes()


def test_a_year_that_fails_with_the_next_one_in_the_queue_is_heard_of(comm, tmp_path) -> None:
    queue = Behind(2)
    hand_over(comm, queue, netcdf(tmp_path), 2001)
    queue.settle()
    (tmp_path / "ai4land_2002.nc").mkdir()  # which no file can replace
    with stopped(process(queue)):
        hand_over(comm, queue, netcdf(tmp_path), 2002)
        hand_over(comm, queue, netcdf(tmp_path), 2003)
    with pytest.raises(OutputError, match="ai4land_2002"):
        queue.settle()
    queue.settle()
    assert whole(tmp_path / "ai4land_2003.nc")
    queue.close()


def test_a_writer_that_is_killed_is_heard_of_and_replaced(comm, queue, tmp_path) -> None:
    hand_over(comm, queue, netcdf(tmp_path), 2001)
    queue.settle()
    with stopped(process(queue)):
        hand_over(comm, queue, netcdf(tmp_path), 2002)
        os.kill(process(queue), signal.SIGKILL)
    with pytest.raises(OutputError, match="signal 9"):
        queue.settle()
    queue.heed()
    hand_over(comm, queue, netcdf(tmp_path), 2003)
    queue.settle()
    assert sorted(path.name for path in tmp_path.glob("*.nc") if whole(path)) == ["ai4land_2001.nc", "ai4land_2003.nc"]


def test_signals_that_the_whole_job_gets_do_not_end_it(comm, queue, tmp_path) -> None:
    queue.start()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU):
        os.kill(process(queue), number)
    hand_over(comm, queue, netcdf(tmp_path), 2001)
    queue.settle()
    assert whole(tmp_path / "ai4land_2001.nc")


def test_a_fork_of_the_host_does_not_end_it(comm, queue, tmp_path) -> None:
    queue.start()
    assert queue._process is not None
    fork = os.fork()
    if fork == 0:
        queue._process.end()
        os._exit(0)
    os.waitpid(fork, 0)
    hand_over(comm, queue, netcdf(tmp_path), 2001)
    queue.settle()
    assert whole(tmp_path / "ai4land_2001.nc")


@pytest.mark.parametrize("python", ["/bin/false", "/nowhere/python3"])
def test_where_no_process_can_be_had_years_are_written_at_once(comm, queue, tmp_path, python, monkeypatch) -> None:
    monkeypatch.setenv("AI4LAND_PYTHON", python)
    hand_over(comm, queue, netcdf(tmp_path), 2001)
    assert whole(tmp_path / "ai4land_2001.nc")
    assert not queue.report(tmp_path, {})


def test_nothing_is_left_of_it(comm, tmp_path) -> None:
    before = len(os.listdir("/proc/self/fd")), threading.active_count(), children()
    queue = Behind(1)
    for year in (2001, 2002):
        hand_over(comm, queue, netcdf(tmp_path), year)
    assert threading.active_count() == before[1], "the host's process gets no thread"
    queue.close()
    assert (len(os.listdir("/proc/self/fd")), threading.active_count(), children()) == before
    assert whole(tmp_path / "ai4land_2002.nc")


def test_it_ends_with_a_host_that_is_killed_and_leaves_whole_files(tmp_path) -> None:
    """The host hands years over until it is killed."""
    code = (
        "import itertools, sys\n"
        f"sys.path[:0] = [{str(PROGRAMS)!r}, {str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]\n"
        "import test_behind as t\n"
        "comm, queue = t.Communicator.of(t.MPI.COMM_SELF), t.Behind(1)\n"
        "queue.start()\n"
        "print(t.process(queue), flush=True)\n"
        "for year in itertools.count(2001):\n"
        f"    t.hand_over(comm, queue, t.netcdf(t.Path({str(tmp_path)!r})), year)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        writer = Path("/proc", host.stdout.readline().strip())
        until = time.monotonic() + LONG
        while len(list(tmp_path.glob("*.nc"))) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        host.kill()
    until = time.monotonic() + LONG
    while writer.exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert not writer.exists()
    files = list(tmp_path.glob("*.nc"))
    assert len(files) >= 3
    assert all(whole(path) for path in files)


def test_finalize_tells_of_the_last_year_and_gives_everything_back(tmp_path) -> None:
    emulator = small_emulator.build(tmp_path / "tiny")
    before = threading.active_count(), children()
    land = Component.init(Config(emulator=str(emulator), output=OutputConfig(folder=tmp_path / "out")), MPI.COMM_SELF)
    grid = deal.cells()
    land.set_grid(grid)
    land.step(2001, deal.state(grid.cell_id, land.legend, 2001))
    land.write_restart(tmp_path / "restart.nc")
    assert whole(tmp_path / "out" / "ai4land_2001.nc"), "a restart says that the output up to its year is there"
    queue = land._publisher._behind
    assert queue is not None
    resource.prlimit(process(queue), resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    with stopped(process(queue)):
        land.step(2002, deal.state(grid.cell_id, land.legend, 2002))
        assert np.array_equal(land.get("fine", "year"), [2002.0])
    with pytest.raises(OutputError, match="ai4land_2002"):
        land.finalize()
    assert (threading.active_count(), children()) == before
    assert os.listdir(tmp_path / "out") != []
    assert not list((tmp_path / "out").glob("*.part"))
