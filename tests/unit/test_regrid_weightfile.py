"""Weight files in the names of ESMF and SCRIP: what is taken, and what is refused for which reason."""

import gzip
import hashlib
import logging
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import netCDF4
import numpy as np
import pytest
from numpy.testing import assert_allclose
from regrid_hosts import AUTO, host, lattice

from ai4land_coupler.errors import RegridError
from ai4land_coupler.grids import EARTH_RADIUS, RegularGrid
from ai4land_coupler.regrid import make_engine

COARSE = RegularGrid(18, 36)
GRID = lattice(np.linspace(-90, 90, 9), np.linspace(0, 360, 17))
LAND = np.array([5, 6, 40, 70, 71, 72, 120])
DATA = Path(os.environ.get("AI4LAND_REFERENCE_DATA", Path(__file__).parents[3] / "shared" / "data"))


def part(grid, cells):
    return host(grid.vertex_lon[cells], grid.vertex_lat[cells], grid.cell_id[cells])


def esmf(path, overlap, rule="fracarea", **changes):
    """A file as ESMF_RegridWeightGen writes it; a change replaces a variable or, where None, leaves it out."""
    area = np.repeat(COARSE.area_rows, COARSE.nlon)
    covered = overlap.row_sum() / area
    weight = overlap.area / area[overlap.row]
    if rule == "fracarea":
        weight = weight / covered[overlap.row]
    values = {"row": overlap.row + 1, "col": overlap.col + 1, "S": weight, "area_b": area / EARTH_RADIUS**2,
              "frac_b": covered, "n_a": overlap.n_col, "n_b": COARSE.size} | changes  # fmt: skip
    with netCDF4.Dataset(path, "w", format=changes.get("format", "NETCDF3_64BIT_OFFSET")) as data:
        for name, size in (("n_a", values["n_a"]), ("n_b", values["n_b"]), ("n_s", len(values["S"]))):
            data.createDimension(name, size)
        for name, kind, dim in (("row", "i4", "n_s"), ("col", "i4", "n_s"), ("S", "f8", "n_s"), ("area_b", "f8", "n_b"),
                                ("frac_b", "f8", "n_b"), ("xc_b", "f8", "n_b"), ("yc_b", "f8", "n_b")):  # fmt: skip
            if values.get(name) is not None:
                data.createVariable(name, kind, (dim,))[:] = values[name]
        if changes.get("normalization", rule):
            data.normalization = changes.get("normalization", rule)
    return path


def scrip(path, overlap, n_wgts=1, shuffle=0):
    """A file as SCRIP writes it: links in any order, remap_matrix of two dimensions, centres in radians."""
    area = np.repeat(COARSE.area_rows, COARSE.nlon)
    covered = overlap.row_sum() / area
    order = np.random.default_rng(shuffle).permutation(overlap.row.size)
    weight = (overlap.area / (area * covered)[overlap.row])[order]
    with netCDF4.Dataset(path, "w") as data:
        for name, size in (("src_grid_size", overlap.n_col), ("dst_grid_size", COARSE.size),
                           ("num_links", weight.size), ("num_wgts", n_wgts)):  # fmt: skip
            data.createDimension(name, size)
        data.createVariable("dst_address", "i4", ("num_links",))[:] = overlap.row[order] + 1
        data.createVariable("src_address", "i4", ("num_links",))[:] = overlap.col[order] + 1
        matrix = data.createVariable("remap_matrix", "f8", ("num_links", "num_wgts"))
        matrix[:, 0] = weight
        matrix[:, 1:] = 0
        data.createVariable("dst_grid_area", "f8", ("dst_grid_size",))[:] = area / EARTH_RADIUS**2
        data.createVariable("dst_grid_frac", "f8", ("dst_grid_size",))[:] = covered
        for name, value in (("lat", np.repeat(COARSE.lat, 36)), ("lon", np.tile(COARSE.lon, 18) % 360)):
            centre = data.createVariable(f"dst_grid_center_{name}", "f8", ("dst_grid_size",))
            centre[:], centre.units = np.radians(value), "radians"
        data.normalization = "fracarea"
    return path


def from_file(path, grid=GRID, engine="auto"):
    return make_engine(grid, SimpleNamespace(engine=engine, file=path))


@pytest.fixture(scope="module")
def whole():
    return make_engine(GRID, AUTO).coarse(COARSE)


@pytest.fixture(scope="module")
def land():
    """The overlaps of land cells alone: coarse cells are partly covered, and columns are those of the whole grid."""
    some = make_engine(part(GRID, LAND), AUTO).coarse(COARSE)
    return type(some)(some.row, LAND[some.col], some.area, some.n_row, GRID.size)


def assert_same(given, expected):
    assert np.array_equal(given.row, expected.row)
    assert np.array_equal(given.col, expected.col)
    assert_allclose(given.area, expected.area, rtol=1e-14)


@pytest.mark.parametrize("rule", ["fracarea", "destarea"])
@pytest.mark.parametrize("said", [True, False])
def test_both_normalisations_give_the_areas_back(tmp_path, land, rule, said):
    file = esmf(tmp_path / "w.nc", land, rule, normalization=rule if said else "")
    given = from_file(file, part(GRID, LAND)).coarse(COARSE)
    assert_same(given, make_engine(part(GRID, LAND), AUTO).coarse(COARSE))


def test_scrip_names_and_any_order_of_links(tmp_path, whole):
    assert_same(from_file(scrip(tmp_path / "w.nc", whole)).coarse(COARSE), whole)


def test_links_of_cells_that_the_host_lacks_are_left_out(tmp_path, whole, land):
    """A file for the whole grid serves a land-only host whose ids are the file's source addresses."""
    given = from_file(esmf(tmp_path / "w.nc", whole), part(GRID, LAND)).coarse(COARSE)
    assert_same(given, make_engine(part(GRID, LAND), AUTO).coarse(COARSE))
    assert given.n_col == LAND.size


def test_a_file_with_weights_alone(tmp_path, whole, caplog):
    """esmpy's own files have row, col and S only; a global host covers every target cell, whose exact area counts."""
    file = esmf(tmp_path / "w.nc", whole, area_b=None, frac_b=None, normalization="")
    with caplog.at_level(logging.WARNING, "ai4land_coupler"):
        assert_same(from_file(file).coarse(COARSE), whole)
    assert "does not say how much of its target cells is covered" in caplog.text


def test_repeated_links_are_summed(tmp_path, whole):
    twice = {"row": np.tile(whole.row + 1, 2), "col": np.tile(whole.col + 1, 2)}
    area = np.repeat(COARSE.area_rows, COARSE.nlon)
    file = esmf(tmp_path / "w.nc", whole, S=np.tile(whole.area / area[whole.row], 2) / 2, **twice)
    assert_same(from_file(file).coarse(COARSE), whole)


def test_its_name_and_the_log_say_which_file(tmp_path, whole, caplog):
    file = esmf(tmp_path / "map_t63_to_0.5.nc", whole)
    with caplog.at_level(logging.INFO, "ai4land_coupler"):
        engine = from_file(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert engine.name == f"file map_t63_to_0.5.nc sha256:{digest}"
    assert engine.name in caplog.text
    assert "regrid.file is given" in caplog.text


def test_fine_overlaps_come_from_the_polygons(tmp_path, whole):
    fine, cells = RegularGrid(180, 360), np.arange(20_000, 20_500)
    expected = make_engine(GRID, AUTO).fine(fine, cells)
    assert_same(from_file(esmf(tmp_path / "w.nc", whole)).fine(fine, cells), expected)


def test_engine_latlon_passes_over_a_given_file(tmp_path, whole):
    assert from_file(esmf(tmp_path / "w.nc", whole), engine="latlon").name == "latlon"


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
        (change("row", 0), r"target addresses must be in 1\.\.648, got 0\.\.648"),
        (change("row", 649), r"target addresses must be in 1\.\.648, got 1\.\.649"),
        (change("col", 129), r"source addresses must be in 1\.\.128, got 1\.\.129"),
        (change("S", np.nan), r"weight nan of link 8 .* is not in 0\.\.1"),
        (change("S", -0.1), r"weight -0\.1 of link 8"),
        (change("S", 1.001), r"weight 1\.001 of link 8"),
        (change("S", 0.123), r"weights of target cell \d+ sum to 0\.\d+, which fracarea weights do not"),
        (change("area_b", 1.0), r"target cell 8 has area 1, expected"),
        (change("area_b", np.nan), r"target area needs 648 finite values"),
        (lambda _: {"n_b": 700, "area_b": None, "frac_b": None}, r"for 700 target cells, .* has 648 \(18 x 36\)"),
        (lambda _: {"n_a": 20}, r"source addresses must be in 1\.\.20"),
        (lambda _: {"normalization": "enforced"}, r"normalization is 'enforced', expected fracarea or destarea"),
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
def test_what_is_wrong_is_said(tmp_path, whole, changes, message):
    file = esmf(tmp_path / "w.nc", whole, **changes(whole))
    with pytest.raises(RegridError, match=message):
        from_file(file).coarse(COARSE)


def test_a_netcdf_file_of_something_else_is_refused(tmp_path):
    with netCDF4.Dataset(tmp_path / "w.nc", "w") as data:
        data.createDimension("x", 3)
        data.createVariable("temperature", "f8", ("x",))[:] = 0
    with pytest.raises(RegridError, match="no variable row or dst_address, col or src_address, S or remap_matrix"):
        from_file(tmp_path / "w.nc").coarse(COARSE)


def test_second_order_weights_are_refused(tmp_path, whole):
    with pytest.raises(RegridError, match=r"3 weights a link \(num_wgts\): second-order"):
        from_file(scrip(tmp_path / "w.nc", whole, n_wgts=3)).coarse(COARSE)


def test_a_file_for_another_host_is_refused(tmp_path, whole, land):
    far = host(GRID.vertex_lon[:1], GRID.vertex_lat[:1], cell_id=[129])
    with pytest.raises(RegridError, match="for 128 source cells but the host has cell id 129"):
        from_file(esmf(tmp_path / "w.nc", whole), far).coarse(COARSE)
    with pytest.raises(RegridError, match="no weight for host cell 1, which has land"):
        from_file(esmf(tmp_path / "w.nc", land)).coarse(COARSE)


@pytest.mark.parametrize("size", [0, 3, 300])
def test_a_truncated_file_is_refused(tmp_path, whole, size):
    file = esmf(tmp_path / "w.nc", whole, format="NETCDF4")
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(RegridError, match=r"w\.nc cannot be read as netCDF"):
        from_file(file).coarse(COARSE)


def test_a_missing_file_is_refused_at_once(tmp_path):
    with pytest.raises(RegridError, match=r"nowhere\.nc cannot be read"):
        from_file(tmp_path / "nowhere.nc")
    with pytest.raises(RegridError, match="names no weight file"):
        make_engine(GRID, SimpleNamespace(engine="file", file=None))


@pytest.mark.skipif(shutil.which("cdo") is None, reason="cdo is not installed")
def test_weights_made_by_cdo_are_the_exact_ones(tmp_path):
    """CDO takes the edges of latitude-longitude grids for parallels, as the exact engine does."""
    command = ["cdo", "-s", "gencon,global_10", "-topo,r16x8", str(tmp_path / "w.nc")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    grid = lattice(np.linspace(-90, 90, 9), (np.arange(17) - 0.5) * 22.5)
    exact, given = make_engine(grid, AUTO).coarse(COARSE), from_file(tmp_path / "w.nc", grid).coarse(COARSE)
    big = exact.area > 1e-9 * exact.area.max()
    assert set(zip(given.row.tolist(), given.col.tolist(), strict=True)) >= set(
        zip(exact.row[big].tolist(), exact.col[big].tolist(), strict=True)
    )
    assert_allclose(given.col_sum(), exact.col_sum(), rtol=1e-9)


@pytest.mark.skipif(
    not (DATA / "grids").is_dir(), reason="the OASIS weight file is not here; set AI4LAND_REFERENCE_DATA"
)
def test_a_real_file_of_oasis_is_refused_as_second_order(tmp_path):
    """SCRIP's conservative files carry the gradients' weights whether they are used or not."""
    with gzip.open(DATA / "grids" / "oasis_rmp_torc_to_lmdz_CONSERV_FRACNNEI.nc.gz") as packed:
        (tmp_path / "w.nc").write_bytes(packed.read())
    with pytest.raises(RegridError, match=r"w\.nc has 3 weights a link \(num_wgts\)"):
        from_file(tmp_path / "w.nc").coarse(COARSE)
