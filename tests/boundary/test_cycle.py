"""A C host's whole run, on one to three ranks and on a part of them."""

from pathlib import Path

import pytest
from building import Compile
from mpi import mpirun


@pytest.mark.parametrize(("ranks", "first"), [(1, 0), (2, 0), (3, 0), (3, 1)])
def test_c_host(compiled: Compile, config: Path, tmp_path: Path, ranks: int, first: int) -> None:
    """Host cells equal to the coarse cells get back what they put; with first = 1, rank 0 never calls the plugin."""
    done = mpirun(ranks, compiled("cycle.c"), config, tmp_path, str(first))
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_host_finds_its_python(compiled: Compile, config: Path, tmp_path: Path) -> None:
    """Neither PATH nor the current folder decides which interpreter runs."""
    done = mpirun(1, compiled("cycle.c"), config, tmp_path, env={"PATH": "/usr/bin:/bin"}, cwd=Path("/"))
    assert done.returncode == 0, done.stderr
