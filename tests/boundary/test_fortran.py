"""The Fortran module: kinds, ranks, layouts, communicators; and its constants."""

import re
from pathlib import Path

import pytest
from building import HOSTS, Compile, run
from mpi import ROOT, mpirun

from ai4land_coupler.errors import Status

HELP = str(HOSTS / "check_host.f90")


@pytest.mark.parametrize("ranks", [1, 3])
def test_kinds_ranks_and_layouts(compiled: Compile, config: Path, ranks: int) -> None:
    """What is put as any kind of array comes back to the same cells in the same order."""
    done = mpirun(ranks, compiled("kinds.f90", before=(HELP,)), config)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_statuses_are_those_of_python() -> None:
    """The parameters of the module have the names and numbers of errors.Status."""
    text = (ROOT / "fortran_shim/src/ai4land_coupler.f90").read_text()
    found = re.findall(r"integer, parameter, public :: AI4LAND_(\w+) = (-?\d+)", text)
    assert {name: int(number) for name, number in found} == {status.name: status.value for status in Status}


def test_builds_without_mpi_f08(tmp_path: Path) -> None:
    """Where the MPI has no mpi_f08, the module builds from the other file and `use mpi` communicators still go in."""
    sources = [
        ROOT / "fortran_shim/src" / f"{name}.f90"
        for name in ("ai4land_mpi_none", "ai4land_coupler_c", "ai4land_coupler")
    ]
    host = tmp_path / "host.f90"
    host.write_text(
        "program host\n use ai4land_coupler\n type(ai4land_component) :: land\n integer :: ierr\n"
        " call land%init('x.yaml', 0, ierr)\n print '(i0)', ierr\nend program\n"
    )
    run("gfortran", "-std=f2008", "-Wall", "-Wextra", "-Werror", f"-J{tmp_path}", "-c", *sources, host, cwd=tmp_path)
