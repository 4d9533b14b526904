"""ESMF under mpirun: on any rank alone, on some ranks, or one over all of them; the same bits, and never a hang."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from mpi import mpirun

from ai4land_coupler.regrid import esmfmk

PROGRAM = Path(__file__).parent / "programs" / "esmf_ranks.py"

LACKS = "; ".join(problem.found for problem in esmfmk.preflight())
pytestmark = pytest.mark.skipif(bool(LACKS), reason=f"ESMF cannot be used here: {LACKS}")


def run(tmp_path: Path, ranks: int, mode: str, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The overlap, and what went wrong on each rank."""
    out, cwd = tmp_path / "overlap.npz", tmp_path / "cwd"
    cwd.mkdir()
    done = mpirun(ranks, sys.executable, PROGRAM, mode, out, seed, timeout=100, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert os.listdir(cwd) == [], "ESMF must not write log files"
    errors = {path.suffix: path.read_text() for path in tmp_path.glob("overlap.npz.*")}
    if not out.exists():
        return {}, errors
    with np.load(out) as file:
        return dict(file), errors


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What one rank of three makes by itself while the others sit in a barrier."""
    overlap, said = run(tmp_path_factory.mktemp("alone"), 3, "self")
    assert said == {}
    return overlap


def test_a_rank_alone_covers_the_targets(alone) -> None:
    area = np.bincount(alone["row"], alone["area"], minlength=14 * 36)
    ring = np.diff(np.sin(np.radians(np.arange(-60.0, 81.0, 10.0)))) * np.radians(10.0) * 6_371_000.0**2
    assert np.abs(area.reshape(14, 36) / ring[:, None] - 1).max() < 1e-2  # great circles are no parallels
    assert np.abs(area.reshape(14, 36) / area.reshape(14, 36)[:, :1] - 1).max() < 1e-11


@pytest.mark.parametrize(
    ("mode", "ranks", "seed"),
    [
        *(("collective", ranks, seed) for ranks, seed in ((1, 0), (2, 0), (3, 0), (3, 7))),
        ("subset", 4, 1),
        ("each", 4, 2),
    ],
)
def test_same_bits_for_any_deal(alone, tmp_path, mode, ranks, seed) -> None:
    """One ESMF over all ranks of a communicator, or one on each rank, where cells have five and six corners."""
    overlap, said = run(tmp_path, ranks, mode, seed)
    assert said == {}
    for name in ("row", "col", "area"):
        assert overlap[name].tobytes() == alone[name].tobytes(), name


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("bow-tie", ("GridError", "cell 6 ", "cross")),
        ("twice", ("GridError", "source cell 1 ", "more than once")),
        ("late", ("RegridError", "starts once in a process")),
    ],
)
def test_what_is_wrong_on_one_rank_fails_on_all(tmp_path, mode, words) -> None:
    overlap, said = run(tmp_path, 3, mode)
    assert overlap == {}
    assert sorted(said) == [".0", ".1", ".2"]
    for error in said.values():
        assert all(word in error for word in words), error
