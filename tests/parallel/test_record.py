"""A run is recorded without a trace in its results, and replayed bit for bit without its host."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import small_emulator
from mpi import environment, mpirun

from ai4land_coupler.recordfile import Record, head_checksum

PROGRAM = Path(__file__).parent / "programs" / "recorded_host.py"
STATUSES = [1, 4, 0, 0, 0, 5, 0, 1, 5, 6, 0, 0, 0, 0, 10, 0, 0]
"""Of the calls of recorded_host.py in a record of three ranks: the eighth is a put that failed on one."""


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_emulator.build(tmp_path_factory.mktemp("emulator"), coarse=(8, 16))


def host(folder: Path, emulator: Path, ranks: int, record: str, *options: str, more: str = "") -> tuple[str, str, int]:
    """stdout, stderr and exit code of recorded_host.py."""
    folder.mkdir(exist_ok=True)
    config = folder / "ai4land.yaml"
    config.write_text(f"emulator: {emulator}\n{more}" + (f"record: {record}\n" if record else ""))
    done = mpirun(ranks, sys.executable, PROGRAM, config, folder, *options)
    return done.stdout, done.stderr, done.returncode


def replay(record: Path, ranks: int, *options: str | Path) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "ai4land_coupler", "replay", record, *options)
    if ranks > 1:
        return mpirun(ranks, *command, env={"COLUMNS": "300"})
    return subprocess.run(
        [*map(str, command)], env=environment(COLUMNS="300"), capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def recorded(emulator: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A record of three ranks, and what the host printed."""
    folder = tmp_path_factory.mktemp("recorded")
    out, err, code = host(folder, emulator, 3, "record.nc")
    assert code == 0, err
    return folder / "record.nc", out


def test_what_was_put_and_came_of_it_is_in_the_record(recorded: tuple[Path, str]) -> None:
    record = Record(recorded[0])
    assert [call.status for call in record.calls] == STATUSES
    assert record.finalized
    assert all(record.intact(i) for i in range(len(record.calls)))
    grid, intact = record.grid()
    assert intact
    assert (np.diff(grid.cells.cell_id) > 0).all()
    bad = record.put(5)
    last = np.flatnonzero(grid.rank == 2)[np.argsort(grid.position[grid.rank == 2])]
    forest, barren = (bad.values[record.legend.index(name)] for name in ("forest", "barren"))
    assert forest[last[0]] == np.inf
    assert forest[last[1:2]].view(np.uint64)[0] == 0x7FF0DEADBEEF0001
    assert np.signbit(barren[last[1]])
    some = record.put(8)
    assert some.there[record.legend.index("cropland")].tolist() == [1, 1, 0]
    assert record.calls[7].rank == 2
    assert "forset" in record.calls[7].message
    assert record.restart(13) == (recorded[0].parent / "kept.nc").read_bytes()


def test_recording_changes_nothing(recorded: tuple[Path, str], emulator: Path, tmp_path: Path) -> None:
    assert host(tmp_path, emulator, 3, "")[0] == recorded[1]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_record_replays_bit_for_bit(recorded: tuple[Path, str], ranks: int) -> None:
    done = replay(recorded[0], ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("same") == len(STATUSES) - 1
    assert "failed on rank 2 alone" in done.stdout


def one_bit_of_a_value(file: netCDF4.Dataset) -> None:
    value = file["put"][4, 0, 7:8]
    file["put"][4, 0, 7:8] = (value.view(np.uint64) ^ np.uint64(1)).view(np.float64)


def an_answer(file: netCDF4.Dataset) -> None:
    digest = file["digest"][6]
    file["digest"][6] = ("0" if digest[0] != "0" else "1") + digest[1:]


def a_status(file: netCDF4.Dataset) -> None:
    file["status"][10] = 7


def what_was_not_put(file: netCDF4.Dataset) -> None:
    file["was_put"][8, 0, 0] = 0


def a_restart(file: netCDF4.Dataset) -> None:
    file["restart_13"][5000] ^= 1


def a_refused_cell(file: netCDF4.Dataset) -> None:
    file["vertex_lat_1"][3, 1] += 1e-9


ALTERATIONS = {
    1: a_refused_cell, 4: one_bit_of_a_value, 6: an_answer, 8: what_was_not_put, 10: a_status, 13: a_restart,
}  # fmt: skip


def altered(record: Path, copy: Path, *alterations: Callable[[netCDF4.Dataset], None]) -> Path:
    shutil.copy(record, copy)
    with netCDF4.Dataset(copy, "a") as file:
        file.set_auto_maskandscale(False)
        for alter in alterations:
            alter(file)
    return copy


@pytest.mark.parametrize(("call", "alter"), ALTERATIONS.items())
def test_a_call_that_was_altered_is_known_by_itself(
    recorded: tuple[Path, str], tmp_path: Path, call: int, alter: Callable[[netCDF4.Dataset], None]
) -> None:
    record = Record(altered(recorded[0], tmp_path / "altered.nc", alter))
    assert [i for i in range(len(record.calls)) if not record.intact(i)] == [call]


def test_a_grid_that_was_altered_is_known(recorded: tuple[Path, str], tmp_path: Path) -> None:
    def a_corner(file: netCDF4.Dataset) -> None:
        file["vertex_lon"][5, 0] = np.nextafter(file["vertex_lon"][5, 0], 1000)

    assert not Record(altered(recorded[0], tmp_path / "altered.nc", a_corner)).grid()[1]


def test_the_replay_names_every_call_that_was_altered(recorded: tuple[Path, str], tmp_path: Path) -> None:
    done = replay(altered(recorded[0], tmp_path / "altered.nc", *ALTERATIONS.values()), 1)
    assert done.returncode == 1
    assert done.stdout.count("what the record holds of this call was altered") == len(ALTERATIONS)
    assert "fine fields: recorded" in done.stdout
    assert "status: recorded 7" in done.stdout
    assert "call 2, set_grid(): what the record holds of this call was altered" in done.stderr


def test_a_killed_host_leaves_a_record_of_the_calls_it_finished(emulator: Path, tmp_path: Path) -> None:
    _, _, code = host(tmp_path, emulator, 3, "record.nc", "--kill")
    assert code != 0
    done = replay(tmp_path / "record.nc", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("same") == 5
    assert "did not finalize" in done.stderr


@pytest.mark.parametrize("more", ["on_bad_input: hold\n", "lag: 1\non_bad_input: hold\n"])
def test_held_years_and_years_in_the_making_replay(emulator: Path, tmp_path: Path, more: str) -> None:
    _, err, code = host(tmp_path, emulator, 2, "record.nc", more=more)
    assert code == 0, err
    record = Record(tmp_path / "record.nc")
    assert -1 in record._numbers["status"]
    assert record.calls[-1].hook == "finalize"
    assert (record.calls[-1].answer.year, record.calls[-2].answer.year) == (
        (2006, 2002) if "lag" in more else (2006, 2006)
    )
    done = replay(tmp_path / "record.nc", 1)
    assert done.returncode == 0, done.stdout + done.stderr


def test_other_weights_are_refused_with_both_sides_named(recorded: tuple[Path, str], tmp_path: Path) -> None:
    small_emulator.build(tmp_path / "other", seed=2, coarse=(8, 16))
    config = tmp_path / "other.yaml"
    config.write_text("emulator: ./other\n")
    done = replay(recorded[0], 1, "--config", config)
    assert done.returncode == 3
    here = Record(recorded[0]).attributes["emulator_hash"]
    assert here in done.stderr
    assert done.stderr.count("small 0 ") == 2


def test_another_version_is_a_warning_that_names_both(recorded: tuple[Path, str], tmp_path: Path) -> None:
    copy = shutil.copy(recorded[0], tmp_path / "older.nc")
    with netCDF4.Dataset(copy, "a") as file:
        file.ai4land_coupler_version = "0.0.1"
        attributes = {name: file.getncattr(name) for name in file.ncattrs()}
        file.head_checksum = head_checksum(attributes, [str(name) for name in file["class_name"][:]])
    done = replay(copy, 1)
    assert done.returncode == 0, done.stderr
    assert "ai4land_coupler_version: recorded 0.0.1, here 0.1.0; bits may differ" in done.stderr


@pytest.mark.parametrize("name", ["configuration", "processor"])
def test_an_altered_configuration_or_provenance_is_told(recorded: tuple[Path, str], tmp_path: Path, name: str) -> None:
    copy = shutil.copy(recorded[0], tmp_path / "altered.nc")
    with netCDF4.Dataset(copy, "a") as file:
        file.setncattr(name, file.getncattr(name) + " ")
    assert Record(recorded[0]).head_intact
    assert not Record(copy).head_intact
    if name == "processor":
        done = replay(copy, 1)
        assert done.returncode == 1
        assert "configuration, provenance or legend of the record was altered" in done.stderr


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.nc").write_text("not netCDF")
    for name in ("text.nc", "none.nc"):
        done = replay(tmp_path / name, 1)
        assert done.returncode == 9
        assert name in done.stderr
        assert "Traceback" not in done.stderr


def test_a_record_that_cannot_be_made_is_one_warning(
    recorded: tuple[Path, str], emulator: Path, tmp_path: Path
) -> None:
    out, err, code = host(tmp_path, emulator, 3, "missing/record.nc")
    assert code == 0, err
    assert out == recorded[1]
    assert err.count("recording stops, the run goes on") == 1


def test_a_full_disk_stops_the_record_and_not_the_run(
    recorded: tuple[Path, str], emulator: Path, tmp_path: Path
) -> None:
    """A limit on the size of files, 250 kB, stands for the disk: what it holds by then is whole."""
    out, err, code = host(tmp_path, emulator, 3, "record.nc", "--limit", "250000")
    assert code == 0, err
    assert out == recorded[1]
    assert err.count("recording stops, the run goes on") == 1
    record, whole = Record(tmp_path / "record.nc"), Record(recorded[0])
    assert 3 < len(record.calls) < len(whole.calls)
    assert not record.finalized
    assert all(record.intact(i) for i in range(len(record.calls)))
    assert [call.answer for call in record.calls] == [call.answer for call in whole.calls[: len(record.calls)]]
    assert not (tmp_path / "record.nc.room").exists()


def test_an_older_record_is_kept_beside_the_new_one(emulator: Path, tmp_path: Path) -> None:
    for _ in range(2):
        host(tmp_path, emulator, 1, "record.nc", "--kill")
    older, newer = Record(tmp_path / "record.nc.1"), Record(tmp_path / "record.nc")
    assert len(older.calls) == 5
    assert [call.answer for call in older.calls] == [call.answer for call in newer.calls]
