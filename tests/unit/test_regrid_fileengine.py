"""Overlaps from a weight file, a patch at a time, beside the exact ones of the host's rectangles."""

import hashlib
import logging
import shutil
import subprocess
from types import SimpleNamespace

import netCDF4
import numpy as np
import pytest
from numpy.testing import assert_allclose
from regrid_hosts import boxes, cubed_sphere, host, lattice

from ai4land_coupler.errors import RegridError
from ai4land_coupler.grids import EARTH_RADIUS, RegularGrid
from ai4land_coupler.regrid import Patch, make_engine
from ai4land_coupler.regrid.bounds import Bounds
from ai4land_coupler.regrid.fileengine import FileEngine
from ai4land_coupler.regrid.latlon import LatLonEngine
from ai4land_coupler.regrid.polygons import Polygons

COARSE = RegularGrid(18, 36)
GRID = lattice(np.linspace(-90, 90, 9), np.linspace(0, 360, 17))
LAND = np.array([5, 6, 40, 70, 71, 72, 120])


def esmf(path, overlap, rule="fracarea", **changes):
    """A file as ESMF_RegridWeightGen writes it; a change replaces a variable or, where None, leaves it out."""
    area = np.repeat(COARSE.area_rows, COARSE.nlon)
    covered = overlap.row_sum() / area
    weight = overlap.area / area[overlap.row]
    if rule == "fracarea":
        weight = weight / covered[overlap.row]
    values = {"row": overlap.row + 1, "col": overlap.col + 1, "S": weight, "area_b": area / EARTH_RADIUS**2,
              "frac_b": covered, "n_a": overlap.n_col, "n_b": COARSE.size} | changes  # fmt: skip
    with netCDF4.Dataset(path, "w", format="NETCDF3_64BIT_OFFSET") as data:
        for name, size in (("n_a", values["n_a"]), ("n_b", values["n_b"]), ("n_s", len(values["S"]))):
            if size is not None:
                data.createDimension(name, size)
        for name, kind, dim in (("row", "i4", "n_s"), ("col", "i4", "n_s"), ("S", "f8", "n_s"), ("area_b", "f8", "n_b"),
                                ("frac_b", "f8", "n_b"), ("xc_b", "f8", "n_b"), ("yc_b", "f8", "n_b")):  # fmt: skip
            if values.get(name) is not None:
                data.createVariable(name, kind, (dim,))[:] = values[name]
        if changes.get("normalization", rule):
            data.normalization = changes.get("normalization", rule)
    return path


def from_file(path):
    return FileEngine(path, LatLonEngine())


def over(engine, hosts=GRID, cells=None):
    """Overlaps of some coarse cells, else all, with all hosts."""
    return engine.coarse(COARSE, [Patch(np.arange(COARSE.size) if cells is None else cells, hosts)])[0]


@pytest.fixture(scope="module")
def whole():
    return over(LatLonEngine())


@pytest.fixture(scope="module")
def land():
    """The overlaps of land cells alone: coarse cells are partly covered, and columns are those of the whole grid."""
    some = over(LatLonEngine(), GRID.take(LAND))
    return type(some)(some.row, LAND[some.col], some.area, some.n_row, GRID.size)


def assert_same(given, expected):
    assert (given.n_row, given.n_col) == (expected.n_row, expected.n_col)
    assert np.array_equal(given.row, expected.row)
    assert np.array_equal(given.col, expected.col)
    assert_allclose(given.area, expected.area, rtol=1e-14)


@pytest.mark.parametrize("rule", ["fracarea", "destarea"])
@pytest.mark.parametrize("said", [True, False])
def test_both_normalisations_give_the_areas_back(tmp_path, land, rule, said):
    file = esmf(tmp_path / "w.nc", land, rule, normalization=rule if said else "")
    assert_same(over(from_file(file), GRID.take(LAND)), over(LatLonEngine(), GRID.take(LAND)))


def test_links_of_cells_that_the_host_lacks_are_left_out(tmp_path, whole):
    """A file for the whole grid serves a land-only host whose ids are the file's source addresses."""
    given = over(from_file(esmf(tmp_path / "w.nc", whole)), GRID.take(LAND))
    assert_same(given, over(LatLonEngine(), GRID.take(LAND)))


def test_patches_of_any_cut_are_parts_of_the_whole(tmp_path, whole):
    """Cells dealt to three patches at random, each with other hosts: bit for bit the rows of the whole."""
    engine = from_file(esmf(tmp_path / "w.nc", whole))
    expected = over(engine)
    owner = np.random.default_rng(3).integers(3, size=COARSE.size)
    patches = []
    for part in range(3):
        cells = np.flatnonzero(owner == part)
        reaching = np.unique(expected.col[np.isin(expected.row, cells)])
        patches.append(Patch(cells, GRID.take(reaching)))
    made = engine.coarse(COARSE, patches)
    found = [
        (patch.cells[o.row], patch.hosts.cell_id[o.col] - 1, o.area) for patch, o in zip(patches, made, strict=True)
    ]
    joined = type(expected).from_blocks(found, COARSE.size, GRID.size)
    for name in ("row", "col", "area"):
        assert np.array_equal(getattr(joined, name), getattr(expected, name))
    assert [o.n_col for o in made] == [patch.hosts.size for patch in patches]


def test_no_cells_and_no_hosts_give_empty_overlaps(tmp_path, whole):
    engine = from_file(esmf(tmp_path / "w.nc", whole))
    none = np.zeros(0, dtype=np.int64)
    first, second = engine.coarse(COARSE, [Patch(none, GRID), Patch(np.arange(40), GRID.take(none))])
    assert (first.n_row, first.n_col, first.row.size) == (0, 128, 0)
    assert (second.n_row, second.n_col, second.row.size) == (40, 0, 0)


def test_a_file_with_weights_alone(tmp_path, whole, caplog):
    """esmpy's own files have row, col and S only; a global host covers every target cell, whose exact area counts."""
    file = esmf(tmp_path / "w.nc", whole, n_a=None, area_b=None, frac_b=None, normalization="")
    engine = from_file(file)
    with caplog.at_level(logging.WARNING, "ai4land_coupler"):
        assert_same(over(engine), whole)
        over(engine)
    assert caplog.text.count("does not say how much of its target cells is covered") == 1
    engine.check(GRID)


def test_repeated_links_are_summed(tmp_path, whole):
    twice = {"row": np.tile(whole.row + 1, 2), "col": np.tile(whole.col + 1, 2)}
    area = np.repeat(COARSE.area_rows, COARSE.nlon)
    file = esmf(tmp_path / "w.nc", whole, S=np.tile(whole.area / area[whole.row], 2) / 2, **twice)
    assert_same(over(from_file(file)), whole)


def test_the_file_is_read_once(tmp_path, whole):
    file = esmf(tmp_path / "w.nc", whole)
    engine = from_file(file)
    engine.check(GRID)
    file.unlink()
    assert_same(over(engine, cells=np.arange(648)), whole)


def test_its_name_and_the_log_say_which_file(tmp_path, whole, caplog):
    file = esmf(tmp_path / "map_t63_to_0.5.nc", whole)
    with caplog.at_level(logging.INFO, "ai4land_coupler"):
        engine = make_engine(SimpleNamespace(engine="auto", file=file, cache=None), None, None)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert engine.name == f"file map_t63_to_0.5.nc sha256:{digest}"
    assert engine.name in caplog.text
    assert "regrid.file is given" in caplog.text
    named = make_engine(SimpleNamespace(engine="latlon", file=file, cache=None), None, None)
    assert named.name == "latlon", "an engine asked for by name passes over the file"


def test_all_but_the_coarse_overlaps_comes_from_the_polygons(tmp_path, whole):
    fine, exact, engine = RegularGrid(180, 360), LatLonEngine(), from_file(esmf(tmp_path / "w.nc", whole))
    patch = Patch(np.arange(20_000, 20_500), GRID)
    assert_same(engine.fine(fine, patch), exact.fine(fine, patch))
    assert_same(engine.between(GRID, GRID), exact.between(GRID, GRID))
    assert np.array_equal(engine.area(GRID), exact.area(GRID))
    assert engine.area_tolerance >= 0.01


def test_bounds_hold_cells_whichever_way_the_file_took_their_edges(tmp_path, whole):
    """The great circle between two points 20 degrees apart at 60 north climbs to 60.376, beyond the parallel."""
    engine, wide = from_file(esmf(tmp_path / "w.nc", whole)), boxes([(-10, 10, 50, 60), (170, 190, -60, -50)])
    top = np.degrees(np.arctan(np.tan(np.radians(60)) / np.cos(np.radians(10))))
    exact, given = LatLonEngine().bounds(wide, COARSE), engine.bounds(wide, COARSE)
    assert exact.north[0] < 60.2 < top < given.north[0]
    assert given.south[1] < -top
    for box in (exact, Bounds.of_polygons(Polygons.of(wide.vertex_lon, wide.vertex_lat), COARSE)):
        assert (given.south <= box.south).all()
        assert (given.north >= box.north).all()
        assert (given.west <= box.west + 1e-9).all()
        assert (given.width >= box.width).all()


def change(name, value, at=7):
    def apply(overlap):
        area = np.repeat(COARSE.area_rows, COARSE.nlon)
        values = {"row": overlap.row + 1, "col": overlap.col + 1, "S": overlap.area / area[overlap.row],
                  "area_b": area / EARTH_RADIUS**2, "frac_b": np.ones(COARSE.size)}[name].copy()  # fmt: skip
        values[at] = value
        return {name: values}

    return apply


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (change("S", 0.123), r"weights of target cell \d+ sum to 0\.\d+, which fracarea weights do not"),
        (change("area_b", 1.0), r"target cell 8 has area 1, expected"),
        (lambda _: {"n_b": 700, "area_b": None, "frac_b": None}, r"for 700 target cells, .* has 648 \(18 x 36\)"),
        (
            lambda o: {"n_b": None, "area_b": None, "frac_b": None, "row": o.row + 2},
            r"links to target cell 649, .* has 648",
        ),
        (lambda _: {"normalization": "enforced"}, r"normalization is 'enforced', expected fracarea, destarea or none"),
        (
            lambda _: {"xc_b": np.tile(COARSE.lon + 180, 18), "yc_b": np.repeat(COARSE.lat, 36)},
            r"target cell \d+ lies at 5\.0000 E -?\d\.0000 N, expected -175\.0000 E",
        ),
        (
            lambda _: {"xc_b": np.tile(COARSE.lon, 18), "yc_b": np.repeat(-COARSE.lat, 36)},
            r"target cell 1 lies at -175\.0000 E 85\.0000 N",
        ),
    ],
)
def test_what_does_not_fit_the_coarse_grid_is_said(tmp_path, whole, changes, message):
    file = esmf(tmp_path / "w.nc", whole, **changes(whole))
    with pytest.raises(RegridError, match=message):
        over(from_file(file))


def test_a_host_whose_ids_go_beyond_the_file_is_refused(tmp_path, whole):
    far = host(GRID.vertex_lon[:1], GRID.vertex_lat[:1], cell_id=[129])
    engine = from_file(esmf(tmp_path / "w.nc", whole))
    with pytest.raises(RegridError, match="for 128 source cells but the host has cell id 129"):
        engine.check(far)
    engine.check(GRID)
    engine.check(GRID.take(np.zeros(0, dtype=np.int64)))


def test_cells_that_the_polygons_engine_refuses_are_refused(tmp_path, whole):
    engine = from_file(esmf(tmp_path / "w.nc", whole))
    with pytest.raises(RegridError, match="rectangle"):
        engine.check(cubed_sphere(2))


def test_a_missing_file_is_refused_at_once(tmp_path):
    with pytest.raises(RegridError, match=r"nowhere\.nc cannot be read"):
        from_file(tmp_path / "nowhere.nc")
    with pytest.raises(RegridError, match="names no weight file"):
        make_engine(SimpleNamespace(engine="file", file=None, cache=None), None, None)


@pytest.mark.skipif(shutil.which("cdo") is None, reason="cdo is not installed")
def test_weights_made_by_cdo_are_the_exact_ones(tmp_path):
    """CDO takes the edges of latitude-longitude grids for parallels, as the exact engine does."""
    command = ["cdo", "-s", "gencon,global_10", "-topo,r16x8", str(tmp_path / "w.nc")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    grid = lattice(np.linspace(-90, 90, 9), (np.arange(17) - 0.5) * 22.5)
    exact, given = over(LatLonEngine(), grid), over(from_file(tmp_path / "w.nc"), grid)
    big = exact.area > 1e-9 * exact.area.max()
    assert set(zip(given.row.tolist(), given.col.tolist(), strict=True)) >= set(
        zip(exact.row[big].tolist(), exact.col[big].tolist(), strict=True)
    )
    assert_allclose(given.col_sum(), exact.col_sum(), rtol=1e-9)
