"""ESMF in this process: shares derived by hand, the same alone and in company, and nothing left behind."""

import ctypes
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from mpi import environment
from regrid_hosts import boxes, cubed_sphere, hexagons, host, lattice

from ai4land_coupler.errors import RegridError
from ai4land_coupler.regrid import esmf, esmfmk
from ai4land_coupler.regrid.polygons import Polygons

LACKS = esmf.lacks()
pytestmark = pytest.mark.skipif(LACKS is not None, reason=f"ESMF cannot be used here: {LACKS}")


def polygons(grid):
    return Polygons.of(grid.vertex_lon, grid.vertex_lat)


def dense(found, n_row, n_col):
    out = np.zeros((n_row, n_col))
    np.add.at(out, (found.row, found.col), found.share)
    return out


def test_octant_and_its_thirds() -> None:
    """A lune of 30 degrees is a third of the triangle between the equator and two meridians.

    The great circle through (0 E, 45 N) and (90 E, 45 N) and the pole make a triangle of angles 90 degrees at the pole
    and acos(1/sqrt 3) at each foot, whose excess is its area; a triangle south of the equator has no share.
    """
    octant = host([[0.0, 90.0, 0.0]], [[0.0, 0.0, 90.0]])
    thirds = host([[west, west + 30.0, west] for west in (0.0, 30.0, 60.0)], [[0.0, 0.0, 90.0]] * 3)
    cap = host([[0.0, 90.0, 0.0], [0.0, 90.0, 120.0]], [[45.0, 45.0, 90.0], [0.0, 0.0, -40.0]])
    into_octant, into_thirds, from_cap = esmf.shares(
        [(polygons(thirds), polygons(octant)), (polygons(octant), polygons(thirds)), (polygons(cap), polygons(octant))]
    )
    assert np.abs(dense(into_octant, 1, 3) - 1 / 3).max() < 1e-14
    assert np.abs(dense(into_thirds, 3, 1) - 1).max() < 1e-14
    part = (np.pi / 2 + 2 * np.arccos(1 / np.sqrt(3)) - np.pi) / (np.pi / 2)
    assert np.abs(dense(from_cap, 1, 2) - [[part, 0.0]]).max() < 1e-14


def test_partly_covered_cells_say_how_much() -> None:
    """A share is of the whole target cell, also where no source covers the rest; targets out of reach have no row."""
    source = boxes([(0.0, 1.0, -1.0, 1.0)])
    target = boxes([(0.5, 1.5, -1.0, 1.0), (10.0, 11.0, -1.0, 1.0), (0.25, 0.75, -1.0, 1.0), (-1.0, 3.0, -1.0, 1.0)])
    (found,) = esmf.shares([(polygons(source), polygons(target))])
    assert found.row.tolist() == [0, 2, 3]
    assert found.col.tolist() == [0, 0, 0]
    assert np.abs(found.share - [0.5, 1.0, 0.25]).max() < 1e-4  # edges are great circles


def test_pairs_come_once_and_sorted() -> None:
    """Hexagons are cut into triangles inside ESMF; what comes out is one share for each pair, the area of both."""
    source, target = polygons(hexagons(3)), polygons(cubed_sphere(5))
    there, back = esmf.shares([(source, target), (target, source)])
    key = there.row * source.count.size + there.col
    assert (np.diff(key) > 0).all()
    area = dense(there, 150, 92) * target.area[:, None]
    assert np.abs(area - dense(back, 92, 150).T * source.area).max() < 1e-14
    assert np.abs(area.sum(1) / target.area - 1).max() < 1e-12
    assert np.abs(area.sum(0) / source.area - 1).max() < 1e-12


def test_same_bits_alone_and_in_company() -> None:
    """A task gives the same whatever was asked before it or with it, and as one part of its targets or another."""
    source = polygons(hexagons(4))
    globe = lattice(np.arange(-90.0, 91.0, 15.0), np.arange(-180.0, 181.0, 15.0))
    parts = [np.flatnonzero(np.arange(globe.size) % 7 == number) for number in range(7)]
    (whole,) = esmf.shares([(source, polygons(globe))])
    tasks = [(source, polygons(globe.take(part))) for part in parts]
    together, alone = esmf.shares(tasks), [esmf.shares([task])[0] for task in reversed(tasks)][::-1]
    for part, one, other in zip(parts, together, alone, strict=True):
        for name in ("row", "col", "share"):
            assert getattr(one, name).tobytes() == getattr(other, name).tobytes()
        mine = np.isin(whole.row, part)
        assert one.share.tobytes() == whole.share[mine].tobytes()
        assert (part[one.row] == whole.row[mine]).all()


def test_no_cells() -> None:
    one, none = polygons(boxes([(0.0, 1.0, 0.0, 1.0)])), polygons(boxes(np.zeros((0, 4))))
    for found in esmf.shares([(one, none), (none, one), (none, none)]):
        assert found.row.size == found.col.size == found.share.size == 0


def test_memory_is_given_back() -> None:
    """300 tasks of 576 target cells: ESMF itself keeps 40 kB of each, which its own Fields on meshes lose."""
    source = polygons(cubed_sphere(8))
    target = polygons(lattice(np.arange(30.0, 42.1, 0.5), np.arange(0.0, 12.1, 0.5)))
    for _ in range(20):
        esmf.shares([(source, target)])
    before = resident()
    for _ in range(300):
        esmf.shares([(source, target)])
    assert (resident() - before) / 300 < 60e3


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_another_thread_is_refused() -> None:
    said = []

    def call() -> None:
        said.append(esmf.lacks())

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert "thread" in said[0]
    assert esmf.lacks() is None


def test_nobody_else_finds_its_symbols() -> None:
    """Neither ESMF nor the netCDF it needs is there for what is loaded later, and ctypes is as it was."""
    program = ctypes.CDLL(None)
    assert not hasattr(program, "ESMC_Initialize")
    assert not hasattr(program, "nc_open")
    assert os.RTLD_GLOBAL == ctypes.RTLD_GLOBAL


def run(code: str, folder, **env: str) -> str:
    """What a Python of its own prints; it must end well, and leave nothing in its folder."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment(**env), capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert os.listdir(folder) == []
    return done.stdout + done.stderr


FAILS = """
import numpy as np
from ai4land_coupler.errors import RegridError
from ai4land_coupler.regrid import esmf
from ai4land_coupler.regrid.polygons import Polygons
assert esmf.lacks() is None
good = Polygons.of(np.array([[0.0, 9.0, 9.0, 0.0]]), np.array([[0.0, 0.0, 9.0, 9.0]]))
bad = Polygons(np.full((1, 4), np.nan), np.full((1, 4), np.nan), np.array([4]))
assert len(esmf.shares([(good, good)])[0].row) == 1
"""


def test_netcdf_of_the_wheel_still_works(tmp_path) -> None:
    """Imported after ESMF it would crash on the libnetcdf that ESMF brings, were that there for everybody."""
    code = FAILS + "import netCDF4; netCDF4.Dataset('x', 'w', diskless=True).createDimension('n', 3); print('well')"
    assert run(code, tmp_path) == "well\n"


@pytest.mark.parametrize(
    "after", ["", "from mpi4py import MPI; MPI.Finalize()", "import os; os.environ['ESMF_RUNTIME_PROFILE'] = 'ON'"]
)
def test_process_ends_well_and_without_log_files(tmp_path, after) -> None:
    """Also where MPI ended before, and where the host profiles its own ESMF."""
    assert run(FAILS + after, tmp_path, ESMF_RUNTIME_PROFILE="ON", ESMF_RUNTIME_TRACE="ON") == ""


def test_esmf_that_somebody_else_uses_is_left_alone(tmp_path) -> None:
    """esmpy loaded by other code of the process: one library would be one ESMF."""
    library = esmfmk.MakeFile.read(esmfmk.find()).library
    code = f"""
import ctypes
ctypes.CDLL({str(library)!r})
from ai4land_coupler.regrid import esmf
print(esmf.lacks())
print(esmf.lacks())
"""
    first, second = run(code, tmp_path).splitlines()
    assert "already in use in this process" in first
    assert first == second


def test_failures_of_esmf_are_named(tmp_path) -> None:
    """A cell that ESMF cannot take is an error of ours, and the next task works."""
    (found,) = esmf.shares([(polygons(cubed_sphere(1)), polygons(cubed_sphere(1)))])
    cells = Polygons(np.zeros((1, 4)), np.zeros((1, 4)), np.array([1]))
    with pytest.raises(RegridError, match=r"ESMF .* failed on 6 source and 1 target cells"):
        esmf.shares([(polygons(cubed_sphere(1)), cells)])
    (again,) = esmf.shares([(polygons(cubed_sphere(1)), polygons(cubed_sphere(1)))])
    assert again.share.tobytes() == found.share.tobytes()
