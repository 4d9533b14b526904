"""`ai4land weights`: from grids by name to a file that `regrid.file` reads."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import small_emulator
from mpi import environment
from regrid_hosts import cubed_sphere, lattice, same_entries
from typer.testing import CliRunner

from ai4land_coupler import weights
from ai4land_coupler.cli import app
from ai4land_coupler.errors import EmulatorError, GridError, OutputError, RegridError, Status, UsageError
from ai4land_coupler.grids import EARTH_RADIUS
from ai4land_coupler.regrid import Overlap, Patch, esmf
from ai4land_coupler.regrid.fileengine import FileEngine
from ai4land_coupler.regrid.latlon import LatLonEngine
from ai4land_coupler.regrid.weightfile import read_links

DATA = Path(os.environ.get("AI4LAND_REFERENCE_DATA", Path(__file__).parents[3] / "shared" / "data"))


def scrip(path, grid, units="degrees", shape=None):
    """A SCRIP file of a host grid."""
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("grid_size", grid.size)
        file.createDimension("grid_corners", grid.nvertex)
        for name, values in (("grid_corner_lon", grid.vertex_lon), ("grid_corner_lat", grid.vertex_lat)):
            variable = file.createVariable(name, "f8", ("grid_size", "grid_corners"))
            variable.units = units
            variable[:] = values
        if shape:
            file.createDimension("grid_rank", len(shape))
            file.createVariable("grid_dims", "i4", ("grid_rank",))[:] = shape[::-1]
    return str(path)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    return small_emulator.build(tmp_path_factory.mktemp("weights") / "emulator")


def test_cells_that_divide_into_quarters_have_one_source_each(tmp_path):
    made = weights.make("latlon:90", "latlon:45", "latlon", tmp_path / "w.nc")
    links = read_links(tmp_path / "w.nc")
    row = np.arange(32)
    expected = (row // 8 // 2) * 4 + row % 8 // 2
    order = np.argsort(links.row)
    assert links.row[order].tolist() == row.tolist()
    assert links.col[order].tolist() == expected.tolist()
    assert links.weight.tolist() == [1.0] * 32
    assert (links.n_source, links.n_target, made.links, made.whole) == (8, 32, 32, 8)
    assert max(made.row_sum, made.balance, made.conservation) < 1e-14


def test_quarters_put_together_weigh_as_their_areas(tmp_path):
    weights.make("latlon:45", "latlon:90", "auto", tmp_path / "w.nc")
    links = read_links(tmp_path / "w.nc")
    poleward = np.isin(links.col // 8, (0, 3))
    half = np.sin(np.radians(45.0))
    assert np.allclose(links.weight, np.where(poleward, (1 - half) / 2, half / 2), rtol=1e-13)
    assert np.allclose(np.bincount(links.row, links.weight), 1.0, rtol=1e-14)
    assert np.allclose(links.area, np.pi / 2, rtol=1e-14)


def test_the_file_says_what_it_is(tmp_path):
    grid = lattice(np.linspace(-90, 90, 5), np.linspace(-180, 180, 7))
    weights.make(scrip(tmp_path / "grid.nc", grid, shape=(4, 6)), "latlon:4x8", "latlon", tmp_path / "w.nc")
    with netCDF4.Dataset(tmp_path / "w.nc") as file:
        assert file.grid_file_src == "grid.nc"
        assert file.grid_file_dst == "latlon:4x8"
        assert file.engine == "latlon"
        assert file.normalization == "fracarea"
        assert file["src_grid_dims"][:].tolist() == [6, 4]
        assert file["dst_grid_dims"][:].tolist() == [8, 4]
        assert np.allclose(file["frac_a"][:], 1)
        assert np.allclose(file["area_b"][:].sum(), 4 * np.pi)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.nc", "w.nc"]


@pytest.mark.parametrize("engine", ["latlon", "yac"])
def test_regrid_file_gives_what_the_engine_gives(tmp_path, emulator, engine):
    """For the whole grid and for some of its cells, by their ids in the grid file."""
    if engine == "yac":
        pytest.importorskip("yac")
        from ai4land_coupler.regrid import yac

        grid, polygons = cubed_sphere(9), yac.engine()
    else:
        grid, polygons = lattice(np.linspace(-90, 90, 13), np.linspace(7, 367, 26)), LatLonEngine()
    weights.make(scrip(tmp_path / "g.nc", grid), f"emulator:{emulator}", engine, tmp_path / "w.nc")
    from_file = FileEngine(tmp_path / "w.nc", polygons)
    coarse = small_emulator_grid(emulator)
    for hosts in (grid, grid.take(np.arange(3, grid.size, 7))):
        from_file.check(hosts)
        patch = Patch(np.arange(coarse.size), hosts)
        (given,), (expected,) = from_file.coarse(coarse, [patch]), polygons.coarse(coarse, [patch])
        assert np.array_equal(given.row, expected.row)
        assert np.array_equal(given.col, expected.col)
        assert np.allclose(given.area, expected.area, rtol=1e-11, atol=1e-11 * expected.area.max())


def small_emulator_grid(emulator):
    from ai4land_coupler.emulator import Emulator

    return Emulator.load(emulator).coarse


def test_weights_of_t42_are_those_of_esmf(tmp_path):
    reference = DATA / "esmf_weights" / "T42_to_ll2.nc"
    if not reference.exists():
        pytest.skip("ESMF reference weights are not here; set AI4LAND_REFERENCE_DATA to a folder with esmf_weights/")
    pytest.importorskip("yac")
    weights.make(str(DATA / "grids" / "T42_scrip.nc"), "latlon:2", "yac", tmp_path / "w.nc")
    matrices = []
    for path in (tmp_path / "w.nc", reference):
        links = read_links(path)
        matrices.append(dict(zip(zip(links.row.tolist(), links.col.tolist(), strict=True), links.weight, strict=True)))
    ours, theirs = matrices
    assert max(abs(theirs.get(entry, 0.0) - ours.get(entry, 0.0)) for entry in ours.keys() | theirs.keys()) < 2e-9


def test_a_regional_target_leaves_the_rest_without_weights(tmp_path, caplog):
    """60 x 120 degrees of 10 degree cells, each in one of 2 x 4 cells of 30 degrees."""
    region = lattice(np.linspace(-60, 60, 13), np.linspace(0, 60, 7))
    with caplog.at_level(logging.INFO, logger="ai4land_coupler"):
        made = weights.make("latlon:30", scrip(tmp_path / "r.nc", region), "auto", tmp_path / "w.nc")
    assert (made.links, made.whole) == (72, 8)
    assert made.balance < 1e-13
    links = read_links(tmp_path / "w.nc")
    assert np.unique(links.col).size == 8
    assert "8 of 72 source cells lie wholly in the target" in caplog.text
    assert "engine latlon (every host cell is" in caplog.text


def test_a_summary_measures_what_is_wrong():
    """Two source cells of 3 and 1 m2 under two target cells: of the second source a millionth is missing."""
    overlap = Overlap.from_triplets([0, 1, 1], [0, 0, 1], [2.0, 1.0, 1.0 - 1e-6], 2, 2)
    made = weights.Summary.of(overlap, np.array([3.0, 1.0]), 1e-4)
    assert (made.links, made.whole) == (3, 2)
    assert made.balance == pytest.approx(1e-6, rel=1e-6)
    assert made.conservation == pytest.approx(0.25e-6, rel=1e-6)
    assert weights.Summary.of(overlap, np.array([3.0, 1.0]), 1e-8).whole == 1


def test_grids_without_common_area_are_refused(tmp_path):
    north = scrip(tmp_path / "n.nc", lattice([40.0, 50.0, 60.0], [0.0, 10.0, 20.0]))
    south = scrip(tmp_path / "s.nc", lattice([-60.0, -50.0, -40.0], [0.0, 10.0, 20.0]))
    with pytest.raises(RegridError, match="share no area"):
        weights.make(north, south, "auto", tmp_path / "w.nc")
    assert not (tmp_path / "w.nc").exists()


def test_bad_grids_are_named_with_their_side(tmp_path):
    flat = lattice([0.0, 10.0, 20.0], [0.0, 10.0, 20.0])
    flat.vertex_lat[2] = 5.0
    bad = scrip(tmp_path / "flat.nc", flat)
    with pytest.raises(GridError, match=r"target flat\.nc: cell 3 has no area"):
        weights.make("latlon:10", bad, "auto", tmp_path / "w.nc")
    with pytest.raises(GridError, match=r"source flat\.nc: cell 3 has no area"):
        weights.make(bad, "latlon:10", "auto", tmp_path / "w.nc")
    sphere = scrip(tmp_path / "cube.nc", cubed_sphere(3))
    with pytest.raises(
        RegridError, match=r"target cube\.nc: cell 1 is no latitude-longitude rectangle .*--engine auto"
    ):
        weights.make("latlon:10", sphere, "latlon", tmp_path / "w.nc")
    radians = lattice(np.radians(np.linspace(-90, 90, 31)), np.radians(np.linspace(0, 360, 61)))
    with pytest.raises(GridError, match=r"grid r\.nc: no corner of the 1800 cells exceeds 2 pi"):
        weights.make(scrip(tmp_path / "r.nc", radians), "latlon:10", "auto", tmp_path / "w.nc")
    with pytest.raises(EmulatorError):
        weights.make("latlon:10", "emulator:none", "auto", tmp_path / "w.nc")
    with pytest.raises(OutputError, match="its folder does not exist"):
        weights.make("latlon:10", "latlon:5", "auto", tmp_path / "none" / "w.nc")
    assert not (tmp_path / "w.nc").exists()


def test_overlapping_cells_are_refused(tmp_path):
    grid = lattice([0.0, 10.0, 20.0], [0.0, 10.0, 20.0])
    grid.vertex_lon[1, 0] = grid.vertex_lon[1, 3] = 5.0
    with pytest.raises(GridError, match="1 and 2 overlap"):
        weights.make(scrip(tmp_path / "g.nc", grid), "latlon:10", "auto", tmp_path / "w.nc")


def test_an_older_file_is_replaced_whole(tmp_path):
    path = tmp_path / "w.nc"
    path.write_text("something else")
    weights.make("latlon:90", "latlon:45", "auto", path)
    assert read_links(path).weight.size == 32


def test_one_process_makes_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="without mpirun, or with --collective"):
        weights.make("latlon:90", "latlon:45", "auto", tmp_path / "w.nc")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    weights.make("latlon:90", "latlon:45", "auto", tmp_path / "w.nc")


# The command line


def test_the_command_runs_without_mpi(tmp_path):
    program = (
        "import sys; from ai4land_coupler.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "finally: print([m for m in sys.modules if m.startswith('mpi4py')])"
    )
    asked = ["--source", "latlon:90", "--target", "latlon:45", "--output", str(tmp_path / "w.nc")]
    done = subprocess.run(
        [sys.executable, "-c", program, "weights", *asked],
        env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"
    assert "ai4land: regrid: engine latlon" in done.stderr
    assert "32 links from 8 cells of latlon:90 to 32 of latlon:45" in done.stderr
    assert read_links(tmp_path / "w.nc").weight.size == 32


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"--source": "latlon:7"}, Status.GRID, "does not divide 180 degrees"),
        ({"--target": "absent.nc"}, Status.GRID, "absent.nc cannot be read as netCDF"),
        ({"--output": "none/w.nc"}, Status.OUTPUT, "its folder does not exist"),
        ({"--engine": "scrip"}, 2, "--engine"),
    ],
)
def test_a_failure_ends_with_its_status_and_one_message(tmp_path, monkeypatch, changes, status, says):
    monkeypatch.chdir(tmp_path)
    asked = {"--source": "latlon:90", "--target": "latlon:45", "--output": "w.nc"} | changes
    done = CliRunner().invoke(app, ["weights", *(word for pair in asked.items() for word in pair)])
    assert done.exit_code == status
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "w.nc").exists()


def test_collective_is_for_esmf_only(tmp_path):
    asked = ["--source", "latlon:90", "--target", "latlon:45", "--output", str(tmp_path / "w.nc"), "--collective"]
    done = CliRunner().invoke(app, ["weights", *asked])
    assert done.exit_code == 2
    assert "--engine esmf" in done.stderr


def test_esmf_makes_the_weights_or_says_what_it_lacks(tmp_path):
    """Octants of the sphere, each halved by a meridian: every edge is a great circle, so that areas are exact."""
    output = tmp_path / "w.nc"
    lacks = esmf.lacks()
    if lacks is not None:
        with pytest.raises(RegridError, match="ESMF cannot be used"):
            weights.make("latlon:90", "latlon:1x4", "esmf", output)
        pytest.skip(f"ESMF is not here: {lacks}")
    made = weights.make("latlon:2x8", "latlon:90", "esmf", output)
    links = read_links(output)
    assert np.allclose(links.weight, 0.5, rtol=1e-13)
    assert made.links == 16
    assert np.allclose(links.area * EARTH_RADIUS**2, 4 * np.pi * EARTH_RADIUS**2 / 8, rtol=1e-13)


def test_the_same_weights_come_out_twice(tmp_path):
    grid = scrip(tmp_path / "g.nc", lattice(np.linspace(-90, 90, 8), np.linspace(3, 363, 14)))
    overlaps = []
    for name in ("a.nc", "b.nc"):
        weights.make(grid, "latlon:10", "auto", tmp_path / name)
        links = read_links(tmp_path / name)
        overlaps.append(Overlap.from_triplets(links.row, links.col, links.weight, 648, 91))
    assert same_entries(*overlaps)
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()
