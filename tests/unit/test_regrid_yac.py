"""Overlaps of polygons through YAC, in its own process."""

import os
import signal
import time

import numpy as np
import pytest
from mpi import mpirun
from numpy.testing import assert_allclose
from regrid_hosts import (
    SPHERE,
    coarse,
    cubed_sphere,
    fine,
    host,
    lattice,
    octants,
    same_entries,
    shuffled,
    t63,
    voronoi,
)

from ai4land_coupler.errors import RegridError
from ai4land_coupler.grids import EARTH_RADIUS, RegularGrid
from ai4land_coupler.regrid import Patch, child, cover, yac
from ai4land_coupler.regrid.clip import shared_area
from ai4land_coupler.regrid.latlon import LatLonEngine
from ai4land_coupler.regrid.polygons import Polygons

R2 = EARTH_RADIUS**2
COARSE, FINE = RegularGrid(36, 72), RegularGrid(360, 720)
YAC, LATLON = yac.engine(), LatLonEngine()


def great_circle_area(grid):
    return Polygons.of(grid.vertex_lon, grid.vertex_lat).area * R2


def test_polygon_areas_are_those_of_spherical_trigonometry():
    """An octant has pi/2; a lune's half from the equator to the pole has the angle at the pole, here 1 degree."""
    lon = [[0.0, 90.0, 90.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
    lat = [[0.0, 0.0, 90.0, 90.0], [0.0, 0.0, 90.0, 90.0], [0.0, 90.0, 0.0, 0.0]]
    cells = Polygons.of(np.array(lon), np.array(lat))
    assert cells.area == pytest.approx([np.pi / 2, np.radians(1), np.radians(1)], rel=1e-14)
    assert cells.count.tolist() == [3, 3, 3]


def test_it_agrees_with_latlon_where_edges_are_meridians_and_the_equator():
    cells = lattice([-90.0, 0.0, 90.0], np.array([-13.0, 20, 77, 100, 185, 222, 300, 347]))
    grid = RegularGrid(2, 8)
    exact, polygons = coarse(LATLON, cells, grid), coarse(YAC, shuffled(cells), grid)
    assert np.array_equal(exact.row, polygons.row)
    assert np.array_equal(exact.col, polygons.col)
    assert_allclose(polygons.area, exact.area, rtol=1e-11)


def test_a_triangle_against_the_area_written_out():
    """The octant (0 E, 90 E, pole) has pi/2; 0-90 E, 0-90 N is the same triangle; nothing else is touched."""
    overlap = coarse(YAC, host([[0.0, 90.0, 45.0]], [[0.0, 0.0, 90.0]]), RegularGrid(2, 4))
    assert overlap.row.tolist() == [6]
    assert overlap.area == pytest.approx([R2 * np.pi / 2], rel=1e-12)


@pytest.mark.parametrize("grid", [cubed_sphere(6), voronoi(300), octants()], ids=["cubed sphere", "voronoi", "octants"])
def test_polygons_of_any_number_of_corners_cover_the_globe_once(grid):
    hosts = shuffled(grid, 4) if grid.nvertex != 3 else grid
    overlap = coarse(YAC, hosts, COARSE)
    target = Polygons.of_cells(COARSE, np.arange(COARSE.size)).area * R2
    assert_allclose(YAC.area(hosts), great_circle_area(grid), rtol=1e-14)
    assert_allclose(overlap.row_sum(), target, rtol=1e-9)
    assert_allclose(overlap.col_sum(), great_circle_area(grid), rtol=1e-9)
    assert overlap.area.sum() == pytest.approx(SPHERE, rel=1e-12)


def test_a_land_only_host_has_the_columns_of_the_whole():
    grid = voronoi(300)
    kept = np.flatnonzero(np.random.default_rng(5).random(grid.size) < 0.4)
    part = host(grid.vertex_lon[kept], grid.vertex_lat[kept], grid.cell_id[kept])
    whole, some = coarse(YAC, grid, COARSE), coarse(YAC, part, COARSE)
    entries = np.isin(whole.col, kept)
    assert np.array_equal(whole.row[entries], some.row)
    assert np.array_equal(whole.col[entries], kept[some.col])
    assert_allclose(some.area, whole.area[entries], rtol=1e-9)


def test_only_coarse_cells_in_reach_are_asked_about():
    grid = voronoi(300)
    hosts = Polygons.of(grid.vertex_lon[:3], grid.vertex_lat[:3])
    cells = cover.within_reach(hosts, COARSE, np.arange(COARSE.size))
    overlap = coarse(YAC, grid, COARSE)
    assert np.isin(overlap.row[overlap.col < 3], cells).all()
    assert cells.size < COARSE.size // 4


def test_a_cell_over_the_pole():
    """Corners at 80 N, 90 degrees apart: four triangles with the pole, each with the angle pi/2 there and two equal
    others: tan b = cot(45) / cos c with the sides c = 10 degrees, so the area is 4 (pi/2 + 2 b - pi)."""
    b = np.arctan(1 / np.cos(np.radians(10)))
    overlap = coarse(YAC, host([[0.0, 90, 180, 270]], [[80.0, 80, 80, 80]]), COARSE)
    assert overlap.area.sum() == pytest.approx(R2 * 4 * (2 * b - np.pi / 2), rel=1e-11)
    assert set(overlap.row[overlap.row >= 35 * 72]) == set(range(35 * 72, 36 * 72))


def test_a_concave_cell_and_the_one_that_fills_it():
    lon = [[0.0, 10, 10, 5, 5, 0], [5, 10, 10, 5, 5, 5]]
    lat = [[0.0, 0, 5, 5, 10, 10], [5, 5, 10, 10, 10, 10]]
    grid = host(lon, lat)
    overlap = coarse(YAC, grid, COARSE)
    assert_allclose(overlap.col_sum(), great_circle_area(grid), rtol=1e-11)
    small = fine(YAC, grid, FINE, np.arange(FINE.size))
    # together 0-10 E, 0-10 N, whose northern great circle bulges by sin(20) dlon^2 / 16, 0.037 of 10 degrees at most
    assert small.area.sum() == pytest.approx(R2 * np.radians(10) * np.sin(np.radians(10)), rel=4e-3)
    assert_allclose(small.col_sum(), overlap.col_sum(), rtol=1e-4)


def test_clipping_octants():
    """0-90 E and 45-135 E share 45 degrees of longitude: pi/4; 0-90 E and 180-270 E share nothing."""
    lon, lat = np.array([[0.0, 90, 0], [45, 135, 45], [180, 270, 180]]), np.array([[0.0, 0, 90]] * 3)
    cells = Polygons.of(lon, lat)
    assert shared_area(cells, np.array([0, 1, 0]), cells, np.array([1, 0, 2])) == pytest.approx(
        [np.pi / 4, np.pi / 4, 0], rel=1e-14, abs=1e-15
    )


@pytest.mark.parametrize("grid", [cubed_sphere(6), voronoi(300)], ids=["cubed sphere", "voronoi"])
def test_clipping_agrees_with_yac(grid):
    overlap = coarse(YAC, grid, COARSE)
    target = Polygons.of_cells(COARSE, np.arange(COARSE.size))
    area = shared_area(Polygons.of(grid.vertex_lon, grid.vertex_lat), overlap.col, target, overlap.row) * R2
    assert_allclose(overlap.area, area, rtol=0, atol=1e-11 * R2 * target.area.max())
    assert_allclose(np.bincount(overlap.col, area), great_circle_area(grid), rtol=1e-12)


def test_fine_cells_inside_one_host_cell_count_whole_and_exactly():
    cells = np.arange(FINE.size)
    overlap = fine(YAC, octants(), FINE, cells)
    assert np.array_equal(overlap.row, cells)
    assert_allclose(overlap.area, np.repeat(FINE.area_rows, FINE.nlon), rtol=1e-12)
    west = FINE.lon[overlap.row % FINE.nlon] % 360
    assert np.array_equal(overlap.col, west // 90 * 2 + (overlap.row // FINE.nlon >= 180))


@pytest.mark.parametrize("grid", [cubed_sphere(6), voronoi(300)], ids=["cubed sphere", "voronoi"])
def test_fine_cells_sum_to_their_exact_area(grid):
    cells = np.sort(np.random.default_rng(1).choice(FINE.size, 20_000, replace=False))
    overlap = fine(YAC, grid, FINE, cells)
    assert_allclose(overlap.row_sum(), FINE.area_rows[cells // FINE.nlon], rtol=1e-12)


def test_what_counts_as_inside_is_inside_and_what_counts_as_cut_is_the_rest():
    """Points all over each cell, parallels included, are on the inner side of every edge of the host cell."""
    grid = voronoi(300)
    hosts = Polygons.of(grid.vertex_lon, grid.vertex_lat)
    cells = np.random.default_rng(3).choice(FINE.size, 5000, replace=False)
    (place, owner), (cut, _) = cover.split(hosts, FINE, cells)
    assert np.array_equal(np.union1d(place, cut), np.arange(cells.size))
    assert np.intersect1d(place, cut).size == 0
    row, column = np.divmod(cells[place], FINE.nlon)
    for u in np.linspace(0, 1, 5):
        for v in np.linspace(0, 1, 5):
            lat, lon = np.radians(-90 + (row + u) * 0.5), np.radians(-180 + (column + v) * 0.5)
            point = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)
            assert (np.einsum("nvi,ni->nv", hosts.normals[owner], point) > 0).all()
    assert 0.85 < place.size / cells.size < 0.95  # 300 cells: sides of 13 degrees, cut cells of 0.5


def test_fine_overlaps_do_not_depend_on_the_batch():
    grid = voronoi(300)
    row, column = np.mgrid[200:240, 300:340]
    cells = (row * FINE.nlon + column).ravel()
    together = fine(YAC, grid, FINE, cells)
    parts = [fine(YAC, grid, FINE, part) for part in np.array_split(cells, 3)]
    assert np.array_equal(together.area, np.concatenate([p.area for p in parts]))
    assert np.array_equal(together.col, np.concatenate([p.col for p in parts]))


def test_the_same_twice_gives_the_same_bits():
    grid = cubed_sphere(5)
    assert same_entries(coarse(YAC, grid, COARSE), coarse(YAC, grid, COARSE))


def test_a_patch_does_not_depend_on_the_others_nor_on_ids():
    grid = voronoi(300)
    random = np.random.default_rng(8)
    patches = [
        Patch(np.flatnonzero(random.random(COARSE.size) < 0.4), grid.take(np.flatnonzero(random.random(300) < 0.6)))
        for _ in range(3)
    ]
    none, nowhere = Patch(np.arange(5), grid.take(np.arange(0))), Patch(np.arange(0), grid)
    together = YAC.coarse(COARSE, [none, *patches, nowhere])
    assert together[0].area.size == together[-1].area.size == 0
    assert (together[0].n_row, together[0].n_col, together[-1].n_row, together[-1].n_col) == (5, 0, 0, 300)
    for patch, overlap in zip(patches, together[1:-1], strict=True):
        assert overlap.area.size > 300
        assert same_entries(coarse_alone(patch), overlap)
        h = patch.hosts
        renamed = host(h.vertex_lon, h.vertex_lat, cell_id=h.cell_id * 7 + 10**12)
        assert same_entries(coarse_alone(Patch(patch.cells, renamed)), overlap)


def coarse_alone(patch):
    (overlap,) = YAC.coarse(COARSE, [patch])
    return overlap


def test_all_patches_go_to_one_process(monkeypatch):
    started = []
    run = child.run_module
    monkeypatch.setattr(child, "run_module", lambda *args: started.append(args) or run(*args))
    YAC.coarse(COARSE, [Patch(np.arange(first, first + 100), octants()) for first in (0, 100, 200)])
    assert len(started) == 1


def test_a_patch_that_hosts_do_not_reach():
    hosts = voronoi(300).take(np.arange(3))
    away = np.setdiff1d(
        np.arange(COARSE.size),
        cover.within_reach(Polygons.of(hosts.vertex_lon, hosts.vertex_lat), COARSE, np.arange(COARSE.size)),
    )
    overlap = coarse_alone(Patch(away, hosts))
    assert overlap.area.size == 0
    assert overlap.n_row == away.size


def test_between_two_polygon_grids():
    """A cubed sphere and a Voronoi grid: every cell of both keeps its area, and clipping agrees pair by pair."""
    source, target = cubed_sphere(6), shuffled(voronoi(300), 2)
    overlap = YAC.between(source, target)
    assert (overlap.n_row, overlap.n_col) == (300, 216)
    assert_allclose(overlap.row_sum(), YAC.area(target), rtol=1e-11)
    assert_allclose(overlap.col_sum(), YAC.area(source), rtol=1e-11)
    cells = [Polygons.of(g.vertex_lon, g.vertex_lat) for g in (source, target)]
    clipped = shared_area(cells[0], overlap.col, cells[1], overlap.row) * R2
    assert_allclose(overlap.area, clipped, rtol=0, atol=1e-11 * R2)


def test_between_octants_and_one_turned_by_half_a_step():
    """45 E to 135 E in the north has half of two octants, pi/4 each, whichever side is the target."""
    turned = host([[45.0, 135, 45]], [[0.0, 0, 90]])
    for overlap, index in ((YAC.between(octants(), turned), "col"), (YAC.between(turned, octants()), "row")):
        assert getattr(overlap, index).tolist() == [1, 3]
        assert overlap.area == pytest.approx(2 * [R2 * np.pi / 4], rel=1e-12)


def test_an_empty_host_and_no_cells_need_no_process(monkeypatch):
    monkeypatch.setattr(child, "run_module", None)
    nothing = host(np.zeros((0, 5)), np.zeros((0, 5)))
    assert coarse(YAC, nothing, COARSE).area.size == 0
    assert YAC.between(nothing, octants()).n_row == 8
    assert YAC.coarse(COARSE, []) == []
    assert fine(YAC, octants(), FINE, np.zeros(0, dtype=np.int64)).area.size == 0


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            "raise ImportError('libmpi.so.40 is missing')",
            r"lacks: .*libmpi\.so\.40 is missing.*pip install yac.*regrid\.",
        ),
        ("import os; os.abort()", f"signal {int(signal.SIGABRT)} "),
        ("import sys; sys.exit('MPI_ABORT was invoked')", r"exit status 1 .*MPI_ABORT was invoked"),
        ("import os; os._exit(0)", "said nothing"),
    ],
)
def test_a_failing_child_is_an_error_that_says_how(module, message, tmp_path, monkeypatch):
    (tmp_path / "yac").mkdir()
    (tmp_path / "yac" / "__init__.py").write_text(module)
    (tmp_path / "yac" / "core.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RegridError, match=f"(?s){message}"):
        coarse(YAC, octants(), COARSE)


def test_a_child_that_hangs_is_stopped(tmp_path):
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="within 1 s"):
        child.run_module("timeit", ["-n1", "-r1", "import time; time.sleep(60)"], tmp_path / "log", limit=1.0)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("said", ["", "print('reading the grid', flush=True); "])
def test_yac_that_hangs_is_an_error_with_what_it_said(said, tmp_path, monkeypatch):
    (tmp_path / "yac").mkdir()
    (tmp_path / "yac" / "__init__.py").write_text(f"import time; {said}time.sleep(60)")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(yac, "LIMIT", 5.0)
    monkeypatch.setattr(yac, "LIMIT_PER_CELL", 0.0)
    started = time.monotonic()
    with pytest.raises(RegridError, match=rf"stopped: no answer within 5 s \({'reading' if said else 'it said'}"):
        coarse(YAC, octants(), COARSE)
    assert time.monotonic() - started < 20


def test_the_child_sees_neither_the_job_nor_the_open_files(tmp_path, monkeypatch):
    for name in ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"):
        monkeypatch.setenv(name, "3")
    held = os.open(tmp_path / "host_file", os.O_RDWR | os.O_CREAT)
    os.set_inheritable(held, True)
    script = tmp_path / "look.py"
    script.write_text(
        "import os, signal\n"
        "print(sorted(k for k in os.environ if 'RANK' in k or 'PROCID' in k))\n"
        "print([os.readlink(f'/proc/self/fd/{f}') for f in os.listdir('/proc/self/fd')\n"
        "       if os.path.exists(f'/proc/self/fd/{f}')])\n"
        "print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert child.run_module("look", [], tmp_path / "log", limit=30.0) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
        os.close(held)
    variables, files, terminable = (tmp_path / "log").read_text().splitlines()
    assert variables == "[]"
    assert "host_file" not in files
    assert terminable == "True"


def test_a_host_that_ignores_its_children(tmp_path):
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        overlap = coarse(YAC, octants(), RegularGrid(2, 4))
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert overlap.area == pytest.approx(8 * [R2 * np.pi / 2], rel=1e-12)


def test_the_interpreter_is_the_environments_not_the_host_program(monkeypatch, tmp_path):
    monkeypatch.delenv("AI4LAND_PYTHON", raising=False)
    monkeypatch.setattr("sys.executable", "/usr/local/bin/icon")
    assert os.path.basename(child.interpreter()).startswith("python")
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    with pytest.raises(RegridError, match=r"no Python interpreter found at .*set AI4LAND_PYTHON"):
        child.interpreter()
    monkeypatch.setenv("AI4LAND_PYTHON", str(tmp_path / "python3"))
    with pytest.raises(RegridError, match="is not a program"):
        child.interpreter()


def test_under_mpirun_with_one_rank_of_two_calling(tmp_path):
    """YAC duplicates the world communicator; in its own process that is a world of one."""
    program = tmp_path / "host.py"
    program.write_text(
        "import sys\n"
        "from mpi4py import MPI\n"
        f"sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "from regrid_hosts import coarse, cubed_sphere\n"
        "from ai4land_coupler.grids import RegularGrid\n"
        "from ai4land_coupler.regrid import yac\n"
        "if MPI.COMM_WORLD.rank == 1:\n"
        "    total = coarse(yac.engine(), cubed_sphere(3), RegularGrid(18, 36)).area.sum()\n"
        "    print(f'total {total / (16 * 3.141592653589793 * 6371e3**2 / 4):.12f}')\n"
        "MPI.COMM_WORLD.barrier()\n"
    )
    done = mpirun(2, os.sys.executable, program, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "total 1.000000000000" in done.stdout


def test_t63_through_yac_is_close_to_its_parallels():
    """Great circles instead of parallels move the edges by at most sin(2 phi) dlon^2 / 16, 7e-5 radians at 1.875."""
    grid = t63()
    polygons, exact = coarse(YAC, grid, COARSE), coarse(LATLON, grid, COARSE)
    assert_allclose(polygons.row_sum(), exact.row_sum(), rtol=2e-3)
