"""The example hosts in Fortran, C and Python, compiled as the Makefile does and run on the small emulator."""

import re
import sys
from pathlib import Path

import netCDF4
import numpy as np
import pytest
from building import run
from mpi import ROOT, environment, mpirun

from ai4land_coupler import buildinfo

EXAMPLES = ROOT / "examples"
MODULES = ("errors", "grid", "land_use", "history", "checks")
YEARS = 2


@pytest.fixture(scope="module")
def folder(emulator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What prepare_demo.py makes for two years on the small emulator."""
    out = tmp_path_factory.mktemp("demo")
    script = EXAMPLES / "prepare_demo.py"
    run(sys.executable, script, out, "--emulator", emulator, "--years", str(YEARS), env=environment())
    return out


@pytest.fixture(scope="module")
def fortran_host(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Fortran host."""
    out = tmp_path_factory.mktemp("fortran_host")
    sources = [EXAMPLES / "fortran_host" / f"host_{name}.f90" for name in MODULES]
    ours = [*buildinfo.flags(fflags=True, prefix=prefix).split(), *run("nf-config", "--fflags").split()]
    libs = [*buildinfo.flags(libs=True, prefix=prefix).split(), *run("nf-config", "--flibs").split()]
    strict = ["-Wall", "-Wextra", "-Werror", "-std=f2008", "-fall-intrinsics"]
    main = EXAMPLES / "fortran_host" / "host.f90"
    run("mpifort", "-O1", "-fopenmp", *strict, f"-J{out}", *ours, *sources, main, *libs, "-o", out / "host")
    return out / "host"


@pytest.fixture(scope="module")
def c_host(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C host."""
    out = tmp_path_factory.mktemp("c_host") / "host"
    ours = [*buildinfo.flags(cflags=True, prefix=prefix).split(), *run("nc-config", "--cflags").split()]
    libs = [*buildinfo.flags(libs=True, prefix=prefix).split(), *run("nc-config", "--libs").split()]
    run("mpicc", "-std=c11", "-Wall", "-Wextra", "-Werror", *ours, EXAMPLES / "c_host" / "host.c", *libs, "-o", out)
    return out


def forest(lines: str) -> list[float]:
    """Fine forest in million km2 of each year, from what a host printed."""
    return [
        float(value) for value in re.findall(r"(?:fine +|: )(\d+\.\d{3})(?:, grassland| million km2 of fine)", lines)
    ]


def test_the_scenario_clears_what_lumip_prescribes(folder: Path) -> None:
    with netCDF4.Dataset(folder / "start.nc") as start:
        start.set_auto_mask(False)
        lon, lat = np.radians(start["vertex_lon"][:]), np.radians(start["vertex_lat"][:])
        land, loss, state = start["land_fraction"][:], start["forest_loss"][:], start["state"][:]
    area = 6371.0**2 * np.ptp(lon, axis=1) * (np.sin(lat.max(1)) - np.sin(lat.min(1)))
    assert area.sum() == pytest.approx(4 * np.pi * 6371.0**2, rel=1e-12)
    assert (loss * land * area).sum() == pytest.approx(400_000.0, rel=1e-12)
    assert np.allclose(state.sum(0), land > 0, rtol=0, atol=1e-14)
    # at most 30 % of the land cells are cleared, and no other land cell has more forest than one of them
    cleared = loss > 0
    assert cleared.sum() <= round(0.3 * (land > 0).sum())
    assert state[0, cleared].min() >= state[0, (land > 0) & ~cleared].max()
    share = loss[cleared] / state[0, cleared]
    assert np.ptp(share) < 1e-12


def test_the_hosts_agree_and_the_deal_of_cells_does_not_matter(folder: Path, fortran_host: Path, c_host: Path) -> None:
    history = {}
    for ranks in (1, 3):
        done = mpirun(ranks, fortran_host, folder / "host.nml", timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        history[ranks] = (folder / "host_history.nc").read_bytes()
    assert history[1] == history[3]
    expected = forest(done.stdout)
    assert len(expected) == YEARS
    assert expected == sorted(expected, reverse=True)

    settings = [folder / "start.nc", folder / "ai4land.yaml", "2020", str(YEARS)]
    for host in ([c_host], [sys.executable, EXAMPLES / "python_host.py"]):
        done = mpirun(2, *host, *settings, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        assert forest(done.stdout) == expected

    measured = run(sys.executable, EXAMPLES / "check_demo.py", folder, env=environment())
    assert "PASSED" not in measured
    assert (folder / "restart.nc").exists()
    assert list(folder.glob("*.png"))


def test_a_host_ends_with_the_text_of_the_plugin(folder: Path, fortran_host: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "ai4land.yaml"
    wrong.write_text("emulator: there-is-no-such-emulator\n")
    namelist = tmp_path / "host.nml"
    namelist.write_text((folder / "host.nml").read_text().replace(f"{folder}/ai4land.yaml", str(wrong)))
    done = mpirun(2, fortran_host, namelist, timeout=120)
    assert done.returncode != 0
    assert "there-is-no-such-emulator" in done.stderr
