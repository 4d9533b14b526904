"""Ranks that share devices: the same bits for any number of ranks and workers, a clear end where there is none."""

import sys
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import small_emulator
from mpi import mpirun
from test_deal import differences
from test_deal import run as run_on_processors

PROGRAM = Path(__file__).parent / "programs" / "on_device.py"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_emulator.build(tmp_path_factory.mktemp("emulator"))


def launch(emulator: Path, out: Path, ranks: int, per_device: int, devices: int, *options: object):
    words = per_device, devices, emulator, out, "random", "--precision", "float32"
    return mpirun(ranks, sys.executable, PROGRAM, *words, *options)


def run(emulator: Path, out: Path, ranks: int, per_device: int, *options: object) -> dict[str, np.ndarray]:
    done = launch(emulator, out, ranks, per_device, 2, *options)
    assert done.returncode == 0, done.stderr
    with np.load(out) as file:
        return dict(file)


def test_ranks_that_own_no_device_change_no_bit(emulator: Path, tmp_path: Path) -> None:
    """Two devices: one rank works alone, of three two work and the third holds host cells only."""
    kept, years = tmp_path / "restart.nc", tmp_path / "years"
    one = run(emulator, tmp_path / "one.npz", 1, 1, "--years", "2001")
    more = run(emulator, tmp_path / "more.npz", 3, 1, "--years", "2001", "--restart-to", kept, "--output", years)
    assert differences(one, more) == []
    ours = run_on_processors(emulator, tmp_path / "cpu.npz", 1, "bands", "--precision", "float32", "--years", "2001")
    for name in small_emulator.LEGEND:
        np.testing.assert_allclose(one[f"fine_{name}"], ours[f"fine_{name}"], rtol=0, atol=1e-4)
        np.testing.assert_allclose(one[f"host_{name}"], ours[f"host_{name}"], rtol=0, atol=1e-4)
    for path in (kept, *years.glob("*.nc")):
        with netCDF4.Dataset(path) as file:
            assert file.device == "cuda: a made-up GPU"


def test_fine_hosts_with_a_lag_are_served_the_same_bits(emulator: Path, tmp_path: Path) -> None:
    """Hosts of half a coarse cell, whose tiles are closed at once, while the host gets the year before."""
    options = "--grid", "latlon:3", "--lag", "1", "--years", "2001,2003,2004"
    one = run(emulator, tmp_path / "one.npz", 1, 1, *options)
    more = run(emulator, tmp_path / "more.npz", 3, 1, *options)
    assert differences(one, more) == []


def test_no_device_is_an_error_on_every_rank(emulator: Path, tmp_path: Path) -> None:
    done = launch(emulator, tmp_path / "out.npz", 2, 1, 0)
    assert done.returncode != 0
    assert done.stderr.count("DeviceError: device: cuda was asked for, and 2 of 2 ranks see no CUDA device") == 2
