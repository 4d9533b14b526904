"""Each status and its text, as a C host meets them; and a Python that does not start."""

import os
import sys
from pathlib import Path

import pytest
from building import Compile
from mpi import mpirun


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_refusal(compiled: Compile, config: Path, tmp_path: Path, ranks: int) -> None:
    """The same status on all ranks, a text that names the culprit, and a run that can go on."""
    done = mpirun(ranks, compiled("statuses.c"), config, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def no_such_python(folder: Path) -> str:
    """An interpreter that is not there."""
    return str(folder / "python")


def python_without_packages(folder: Path) -> str:
    """An interpreter of an environment with nothing in it."""
    (folder / "bin").mkdir()
    os.symlink(os.path.realpath(sys.executable), folder / "bin" / "python")
    home = os.path.dirname(os.path.realpath(sys.executable))
    (folder / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n")
    return str(folder / "bin" / "python")


@pytest.mark.parametrize("broken", [no_such_python, python_without_packages])
@pytest.mark.parametrize("everywhere", [True, False])
def test_python_does_not_start(
    compiled: Compile, config: Path, tmp_path: Path, broken: "type[no_such_python]", everywhere: bool
) -> None:
    """On all ranks or only on the last one: every rank returns PYTHON_START with the reason, none waits."""
    program = compiled("start_fails.c")
    python = broken(tmp_path)
    done = mpirun(3, program, config, "all" if everywhere else "last", python)
    assert done.returncode == 0, done.stderr


def test_broken_home(compiled: Compile, config: Path) -> None:
    """PYTHONHOME of another installation is answered, not died of."""
    done = mpirun(2, compiled("start_fails.c"), config, "none", "PYTHONHOME", env={"PYTHONHOME": "/nowhere"})
    assert done.returncode == 0, done.stderr
