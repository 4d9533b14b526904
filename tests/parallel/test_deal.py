"""The same bits for every deal of host cells over ranks, on a subset of ranks, and after a restart."""

import sys
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import small_emulator
from mpi import mpirun

PROGRAM = Path(__file__).parent / "programs" / "deal.py"
LEGEND = small_emulator.LEGEND


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_emulator.build(tmp_path_factory.mktemp("emulator"))


def run(emulator: Path, out: Path, ranks: int, deal: str, *options: object) -> dict[str, np.ndarray]:
    done = mpirun(ranks, sys.executable, PROGRAM, emulator, out, deal, *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", "the plugin must not write to stdout"
    with np.load(out) as file:
        return dict(file)


@pytest.fixture(scope="module")
def reference(emulator: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return run(emulator, tmp_path_factory.mktemp("one") / "one.npz", 1, "bands")


def differences(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> list[str]:
    assert set(a) == set(b)
    return [name for name in a if a[name].tobytes() != b[name].tobytes()]


@pytest.mark.parametrize(
    ("ranks", "deal", "options"),
    [
        (2, "random", []),
        (3, "bands", []),
        (4, "last", []),
        (4, "blocks", []),
        (7, "random", []),
        (3, "bands", ["--subset"]),
    ],
)
def test_same_bits(emulator, reference, tmp_path, ranks, deal, options) -> None:
    assert differences(reference, run(emulator, tmp_path / "out.npz", ranks, deal, *options)) == []


def test_restarts_of_any_deal_have_the_same_content(emulator, tmp_path) -> None:
    checksums = []
    for ranks, deal in ((1, "bands"), (3, "blocks")):
        kept = tmp_path / f"{ranks}.nc"
        run(emulator, tmp_path / "out.npz", ranks, deal, "--restart-to", kept)
        with netCDF4.Dataset(kept) as file:
            checksums.append((file.checksum, file.digest, file["state"][:].tobytes()))
    assert checksums[0] == checksums[1]


def test_fine_fields_close_on_the_regridded_state(reference) -> None:
    fractions = np.stack([reference[f"fine_{name}"] for name in LEGEND])
    assert np.abs(fractions.sum(axis=0) - 1).max() <= 1e-15 * len(LEGEND)
    assert ((fractions >= 0) & (fractions <= 1)).all()
    columns = np.stack([reference[f"host_{name}"] for name in LEGEND])
    land = reference["host_land_fraction"] > 0
    assert np.abs(columns.sum(axis=0) - 1)[land].max() <= 1e-13
    assert (columns[:, ~land] == 0).all()


def test_restart_goes_on_bit_for_bit_on_other_ranks(emulator, reference, tmp_path) -> None:
    kept = tmp_path / "restart.nc"
    first = run(emulator, tmp_path / "first.npz", 3, "bands", "--years", "2001", "--restart-to", kept)
    served = run(emulator, tmp_path / "served.npz", 2, "random", "--years", "", "--restart-from", kept)
    assert differences(first, served) == []
    assert served["year"] == 2001
    resumed = run(emulator, tmp_path / "on.npz", 2, "last", "--years", "2003", "--restart-from", kept)
    assert differences(reference, resumed) == []
