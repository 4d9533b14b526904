"""The recorder by itself: what it writes is what is read, and nothing it meets reaches the host."""

import errno
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from ai4land_coupler.answer import Answer, columns_hash
from ai4land_coupler.comm import Communicator
from ai4land_coupler.config import Config
from ai4land_coupler.errors import OutputError
from ai4land_coupler.grids import HostGrid
from ai4land_coupler.record import PENDING, Recorder
from ai4land_coupler.recordfile import GRID, SLACK, Call, Put, Record, RecordedGrid, RecordWriter

LEGEND = ("forest", "barren")
ANSWER = Answer(2001, "d" * 64, "c" * 64, "why \u00e9")


def nothing() -> None:
    """The answer of a call that serves nothing."""


@pytest.fixture
def comm() -> Communicator:
    return Communicator(MPI.COMM_SELF)


def cells(n: int) -> HostGrid:
    west = 10.0 * np.arange(n)
    lon = np.stack([west, west + 10, west + 10, west], 1)
    return HostGrid(np.arange(n)[::-1] + 5, lon, np.tile([0.0, 0.0, 9.0, 9.0], (n, 1)), np.full(n, 0.5))


def begun(comm: Communicator, path: Path, n: int = 3) -> Recorder:
    recorder = Recorder.open(comm, path, Config(emulator="small"), LEGEND, {"precision": "float32"})
    recorder.grid(comm, cells(n), 0, "", nothing)
    return recorder


def test_every_bit_of_what_was_put_comes_back_in_order_of_id(comm: Communicator, tmp_path: Path) -> None:
    recorder = begun(comm, tmp_path / "r.nc")
    odd = np.array([0x7FF8000000000123, 0x8000000000000000, 1], dtype=np.uint64).view(np.float64)
    recorder.step(comm, -5, {"barren": odd}, -1, "held \0 because", lambda: ANSWER)
    recorder.close(comm)
    record = Record(tmp_path / "r.nc")
    put = record.put(1)
    assert put.values[1].view(np.uint64).tolist() == odd.view(np.uint64)[::-1].tolist()
    assert put.there.tolist() == [[0], [1]]
    call = record.calls[1]
    assert (call.year, call.status, call.message, call.answer) == (-5, -1, "held   because", ANSWER)
    assert record.intact(1)
    assert Config.parse(record.configuration, tmp_path) == Config(emulator="small")


def test_a_host_without_cells_or_grid_is_recorded(comm: Communicator, tmp_path: Path) -> None:
    recorder = Recorder.open(comm, tmp_path / "r.nc", Config(emulator="small"), LEGEND, {})
    recorder.step(comm, 1, {}, 1, "no grid", nothing)
    recorder.grid(comm, cells(0), 0, "", nothing)
    recorder.step(comm, 1, {}, 0, "", lambda: ANSWER)
    recorder.close(comm)
    record = Record(tmp_path / "r.nc")
    assert [call.name for call in record.calls] == ["step(1)", "set_grid()", "step(1)"]
    assert all(record.intact(i) for i in range(3))
    assert record.put(0) is None
    assert record.put(2).values.shape == (2, 0)
    assert record.grid()[0].cells.size == 0


def test_cells_that_were_refused_are_recorded(comm: Communicator, tmp_path: Path) -> None:
    recorder = Recorder.open(comm, tmp_path / "r.nc", Config(emulator="small"), LEGEND, {})
    recorder.grid(comm, cells(3), 4, "in radians", nothing)
    recorder.grid(comm, cells(0), 4, "none", nothing)
    recorder.grid(comm, None, 4, "no cells", nothing)
    recorder.grid(comm, cells(2), 0, "", nothing)
    recorder.close(comm)
    record = Record(tmp_path / "r.nc")
    assert [call.status for call in record.calls] == [4, 4, 4, 0]
    assert all(record.intact(i) for i in range(4))
    refused = record.refused_grid(0)
    assert refused["cell_id"].tolist() == [5, 6, 7]
    assert refused["position"].tolist() == [2, 1, 0]
    assert np.array_equal(refused["vertex_lon"], cells(3).vertex_lon[::-1])
    assert record.refused_grid(1)["cell_id"].size == 0
    assert record.refused_grid(2) is None
    assert record.grid()[0].cells.size == 2


def test_what_an_answer_raises_stops_the_record_alone(comm: Communicator, tmp_path: Path) -> None:
    def fails() -> Answer:
        raise MemoryError("no room to hash")

    recorder = begun(comm, tmp_path / "r.nc")
    recorder.step(comm, 1, {name: np.zeros(3) for name in LEGEND}, 0, "", fails)
    assert not recorder.recording
    assert len(Record(tmp_path / "r.nc").calls) == 1


def test_local_failures_come_before_the_next_collective_call_and_do_not_pile_up(
    comm: Communicator, tmp_path: Path
) -> None:
    recorder = begun(comm, tmp_path / "r.nc")
    for i in range(PENDING + 10):
        recorder.local("get", f"fine {i}\n\udcff", 1, "unknown name")
    assert len(recorder._pending) == PENDING
    recorder._pending = recorder._pending[:2]
    recorder.restart_read(comm, tmp_path / "none.nc", 10, "is missing", nothing)
    record = Record(tmp_path / "r.nc")
    assert [call.hook for call in record.calls] == ["set_grid", "get", "get", "read_restart"]
    assert record.calls[2].arguments == "fine 1\n?"
    assert record.restart(3) is None
    assert all(record.intact(i) for i in range(4))


def test_a_full_disk_leaves_the_calls_before_it(
    comm: Communicator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = begun(comm, tmp_path / "r.nc")
    good = {"forest": np.ones(3), "barren": np.zeros(3)}
    recorder.step(comm, 1, good, 0, "", lambda: ANSWER)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(logging.getLogger("ai4land_coupler"), "propagate", True)
    for year in (2, 3):
        recorder.step(comm, year, good, 0, "", lambda: ANSWER)
    recorder.local("put", "x", 1, "")
    recorder.close(comm)
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "No space left on device" in caplog.text
    record = Record(tmp_path / "r.nc")
    assert [call.year for call in record.calls] == [0, 1]
    assert record.intact(1)
    assert not record.finalized
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.nc"]


def test_no_call_takes_more_than_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 tears a file whose disk becomes full in a write, so all that one may need is asked for before it."""
    path, most, spare = tmp_path / "r.nc", 0, []
    need = RecordWriter._need

    def asked(self: RecordWriter, before: int, size: int) -> None:
        nonlocal most
        spare.append(most - (path.stat().st_size if path.exists() else 0))
        most = before + size + size // 64 + SLACK
        need(self, before, size)

    monkeypatch.setattr(RecordWriter, "_need", asked)
    rng, ranks = np.random.default_rng(0), 300
    writer = RecordWriter(path, ranks, LEGEND, "x" * 50_000, {"versions": "y" * 100_000})
    refused = {name: rng.random((5000, 4) if name.startswith("vertex") else 5000) for name in GRID}
    writer.append(Call("set_grid", status=4, message="z" * 16_000), grid=refused)
    grid = RecordedGrid(cells(40), np.zeros(40, np.int64), np.arange(40))
    writer.grid(grid)
    writer.append(Call("set_grid"))
    for size in (0, 70_000, 3_000_001):
        writer.append(Call("read_restart"), restart=rng.bytes(size))
    for year in range(70):
        put = Put(rng.random((2, 40)), np.ones((2, ranks), np.uint8))
        writer.append(Call("step", year, message="m" * (1000 if year % 50 else 60_000), answer=ANSWER), put)
    writer.close(whole=True)
    spare.append(most - path.stat().st_size)
    assert len(spare) == 79
    assert min(spare[1:]) > SLACK // 8, min(spare[1:])
    record = Record(path)
    assert all(record.intact(i) for i in range(len(record.calls)))


def test_a_record_that_is_read_is_not_open(comm: Communicator, tmp_path: Path) -> None:
    """Opening a file with text in it while it is open ends in a segmentation fault after some times."""
    recorder = begun(comm, tmp_path / "r.nc")
    recorder.restart_read(comm, tmp_path / "none.nc", 10, "is missing", nothing)
    recorder.close(comm)
    records = [Record(tmp_path / "r.nc") for _ in range(40)]
    for record in records:
        record.grid()
        record.intact(1)
    links = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert [link for link in links if os.path.realpath(link) == str(tmp_path / "r.nc")] == []


def test_a_hash_of_columns_knows_every_cell_and_no_order(comm: Communicator) -> None:
    rng = np.random.default_rng(0)
    ids, columns, order = np.arange(50), rng.random((3, 50)), rng.permutation(50)
    first = columns_hash(comm, ids, columns)
    assert columns_hash(comm, ids[order], np.ascontiguousarray(columns[:, order])) == first
    for i in (0, 49):
        other = columns.copy()
        other[1, i] = np.nextafter(other[1, i], 2)
        assert columns_hash(comm, ids, other) != first
    assert columns_hash(comm, ids + 1, columns) != first


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6, 0.99])
def test_a_torn_record_is_an_error_that_names_the_file(comm: Communicator, tmp_path: Path, keep: float) -> None:
    recorder = begun(comm, tmp_path / "r.nc")
    recorder.step(comm, 1, {name: np.zeros(3) for name in LEGEND}, 0, "", lambda: ANSWER)
    recorder.close(comm)
    content = (tmp_path / "r.nc").read_bytes()
    (tmp_path / "torn.nc").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(OutputError, match=r"torn\.nc"):
        Record(tmp_path / "torn.nc")
