"""Weight files of several programs: what is read, what is refused for which reason, what is written.

The target are the eight cells of 90 by 90 degrees, pi/2 steradians each. The source are six cells between the equator
and a pole, with meridians at 180 W, 45 W, 90 E and 180 E: cell 2 of the target (90 W to 0) is half in cell 1 of the
source (to 45 W) and half in cell 2, the seven others of a hemisphere lie in one; so north, with all numbers 4 and 3 up.
"""

import gzip
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import netCDF4
import numpy as np
import pytest
from numpy.testing import assert_allclose
from regrid_hosts import boxes, host

from ai4land_coupler.errors import RegridError
from ai4land_coupler.grids import EARTH_RADIUS
from ai4land_coupler.regrid.overlap import Overlap
from ai4land_coupler.regrid.weightfile import read_links, write

DATA = Path(os.environ.get("AI4LAND_REFERENCE_DATA", Path(__file__).parents[3] / "shared" / "data"))
HERE = "the reference data are not here; set AI4LAND_REFERENCE_DATA"

ROW = np.array([1, 2, 2, 3, 4, 5, 6, 6, 7, 8])
COL = np.array([1, 1, 2, 2, 3, 4, 4, 5, 5, 6])
SHARE = np.array([1, 0.5, 0.5, 1, 1, 1, 0.5, 0.5, 1, 1])
KEPT = np.isin(COL, [1, 3, 4, 6])
"""Links where the source cells 2 and 5 are masked: cells 2 and 6 of the target are half covered, 3 and 7 not at all."""
COVERED = np.array([1, 0.5, 0, 1, 1, 0.5, 0, 1])
AREA = np.full(8, np.pi / 2)
LON, LAT = np.array([-135.0, -45, 45, 135] * 2), np.repeat([-45.0, 45], 4)


def weights(rule):
    """Weights of the kept links: by the covered part of the target, by all of it, or areas."""
    return {"fracarea": 1.0, "destarea": SHARE[KEPT], "none": SHARE[KEPT] * np.pi / 2}[rule] * np.ones(KEPT.sum())


def netcdf(path, dims, variables, attributes, kind="NETCDF4"):
    """A file from {name: length}, {name: (type, dims, values, units)} and global attributes."""
    with netCDF4.Dataset(path, "w", format=kind) as data:
        for name, length in dims.items():
            data.createDimension(name, length)
        for name, (form, on, values, units) in variables.items():
            variable = data.createVariable(name, form, on)
            variable[...] = values
            if units:
                variable.units = units
        data.setncatts(attributes)
    return path


def esmf(path, rule, **said):
    """As ESMF_RegridWeightGen writes it."""
    attributes = {"title": "ESMF Offline Regridding Weight Generator", "normalization": rule,
                  "map_method": "Conservative remapping", "ESMF_regrid_method": "First-order Conservative",
                  "conventions": "NCAR-CSM"}  # fmt: skip
    return netcdf(
        path, {"n_a": 6, "n_b": 8, "n_s": KEPT.sum(), "num_wgts": 1},
        {"xc_b": ("f8", ("n_b",), LON % 360, "degrees"), "yc_b": ("f8", ("n_b",), LAT, "degrees"),
         "area_b": ("f8", ("n_b",), AREA, "square radians"), "frac_b": ("f8", ("n_b",), COVERED, "unitless"),
         "row": ("i4", ("n_s",), ROW[KEPT], None), "col": ("i4", ("n_s",), COL[KEPT], None),
         "S": ("f8", ("n_s",), weights(rule), None)},
        attributes | said, "NETCDF3_64BIT_OFFSET",
    )  # fmt: skip


def weight_only(path, rule, **said):
    """As ESMF_RegridWeightGen --weight_only and xESMF write it: no sizes, no areas, no word about the rule."""
    return netcdf(
        path, {"n_s": KEPT.sum()},
        {"row": ("i4", ("n_s",), ROW[KEPT], None), "col": ("i4", ("n_s",), COL[KEPT], None),
         "S": ("f8", ("n_s",), weights(rule), None)}, said,
    )  # fmt: skip


def scrip(path, rule, columns=1, **said):
    """As SCRIP, CDO and OASIS3-MCT write it: radians, weights in a matrix, links in any order."""
    mixed = np.random.default_rng(1).permutation(KEPT.sum())
    matrix = np.zeros((KEPT.sum(), columns))
    matrix[:, 0] = weights(rule)[mixed]
    return netcdf(
        path, {"src_grid_size": 6, "dst_grid_size": 8, "num_links": KEPT.sum(), "num_wgts": columns},
        {"dst_grid_center_lon": ("f8", ("dst_grid_size",), np.radians(LON), "radians"),
         "dst_grid_center_lat": ("f8", ("dst_grid_size",), np.radians(LAT), "radians"),
         "dst_grid_imask": ("i4", ("dst_grid_size",), 1, "unitless"),
         "dst_grid_area": ("f8", ("dst_grid_size",), AREA, "square radians"),
         "dst_grid_frac": ("f8", ("dst_grid_size",), COVERED, "unitless"),
         "src_address": ("i4", ("num_links",), COL[KEPT][mixed], None),
         "dst_address": ("i4", ("num_links",), ROW[KEPT][mixed], None),
         "remap_matrix": ("f8", ("num_links", "num_wgts"), matrix, None)},
        {"title": "remapping", "normalization": rule, "map_method": "Conservative remapping", "conventions": "SCRIP"}
        | said,
    )  # fmt: skip


def yac(path, rule, where="CELL", fields=1):
    """As YAC writes it: no sizes and no areas, but where its points lie, and target cells with a fixed value."""
    letters = np.zeros((1, 7), dtype="S1")
    letters[0, : len(where)] = list(where)
    return netcdf(
        path,
        {"num_links": KEPT.sum(), "num_wgts": 1, "num_src_fields": fields, "max_loc_str_len": 7, "num_fixed_values": 1,
         "num_fixed_dst": 2},
        {"src_address": ("i4", ("num_links",), COL[KEPT], None), "dst_address": ("i4", ("num_links",), ROW[KEPT], None),
         "remap_matrix": ("f8", ("num_links", "num_wgts"), weights(rule)[:, None], None),
         "num_links_per_src_field": ("i4", ("num_src_fields",), KEPT.sum(), None),
         "src_locations": ("S1", ("num_src_fields", "max_loc_str_len"), np.repeat(letters, fields, 0), None),
         "dst_location": ("S1", ("max_loc_str_len",), letters[0], None),
         "fixed_values": ("f8", ("num_fixed_values",), -999.0, None),
         "num_dst_per_fixed_value": ("i4", ("num_fixed_values",), 2, None),
         "dst_address_fixed": ("i4", ("num_fixed_dst",), [3, 7], None)},
        {"version": "yac weight file 1.0", "src_grid_name": "source", "dst_grid_name": "target",
         "contains_links": "TRUE", "contains_fixed_dst": "TRUE"},
    )  # fmt: skip


def tempest(path, rule, **said):
    """As TempestRemap and MOAB write it: ESMF's names, links by source cell, another word for the rule."""
    by_source = np.argsort(COL[KEPT], kind="stable")
    return netcdf(
        path, {"n_a": 6, "n_b": 8, "n_s": KEPT.sum()},
        {"area_b": ("f8", ("n_b",), AREA, "steradians"), "frac_b": ("f8", ("n_b",), COVERED, None),
         "row": ("i4", ("n_s",), ROW[KEPT][by_source], None), "col": ("i4", ("n_s",), COL[KEPT][by_source], None),
         "S": ("f8", ("n_s",), weights(rule)[by_source], None)},
        {"Title": "TempestRemap Offline Regridding Weight Generator", "normalization": "ovarea", "np_src": "1",
         "np_dst": "1", "type_src": "fv", "type_dst": "fv", "mono": "true", "noconserve": "false"} | said,
    )  # fmt: skip


def shares_by_cells(links):
    """{(target, source): share of the target}, from 1, repeated links summed."""
    found = {}
    for row, col, share in zip(links.row + 1, links.col + 1, links.shares(), strict=True):
        found[int(row), int(col)] = found.get((int(row), int(col)), 0.0) + share
    return found


TRUTH = {(1, 1): 1.0, (2, 1): 0.5, (4, 3): 1.0, (5, 4): 1.0, (6, 4): 0.5, (8, 6): 1.0}


@pytest.mark.parametrize(
    ("family", "rule"),
    [
        (esmf, "fracarea"), (esmf, "destarea"), (weight_only, "destarea"), (scrip, "fracarea"), (scrip, "destarea"),
        (scrip, "none"), (yac, "destarea"), (tempest, "fracarea"), (tempest, "destarea"),
    ],
)  # fmt: skip
def test_a_half_covered_cell_is_half_covered_in_every_family(tmp_path, family, rule):
    assert shares_by_cells(read_links(family(tmp_path / "w.nc", rule))) == pytest.approx(TRUTH, rel=1e-15)


def test_what_the_names_say_is_kept(tmp_path):
    for family in (esmf, scrip):
        links = read_links(family(tmp_path / "w.nc", "fracarea"))
        assert (links.n_source, links.n_target, links.normalisation) == (6, 8, "fracarea")
        assert_allclose(links.area, np.pi / 2)
        assert_allclose(np.mod(links.lon, 360), LON % 360, atol=1e-12)
        assert_allclose(links.lat, LAT, atol=1e-12)
    links = read_links(yac(tmp_path / "w.nc", "destarea"))
    assert (links.n_source, links.n_target, links.area, links.normalisation) == (None, None, None, None)


def test_without_a_word_about_the_covered_part_a_target_counts_whole(tmp_path):
    links = read_links(weight_only(tmp_path / "w.nc", "fracarea"))
    assert links.rule() == "fracarea"
    assert shares_by_cells(links) == pytest.approx(TRUTH | {(2, 1): 1.0, (6, 4): 1.0}, rel=1e-15)


def test_repeated_links_count_together(tmp_path):
    file = esmf(tmp_path / "w.nc", "destarea")
    with netCDF4.Dataset(file, "a") as data:
        data["row"][:2], data["col"][:2], data["S"][:2] = 2, 1, 0.25
    truth = TRUTH.copy()
    del truth[1, 1]
    with netCDF4.Dataset(file, "a") as data:
        data["frac_b"][0] = 0.0
    assert shares_by_cells(read_links(file)) == pytest.approx(truth, rel=1e-15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: scrip(p, "fracarea", columns=3), r"3 weights a link \(num_wgts\): second-order.*ncks -d num_wgts,0"),
        (
            lambda p: esmf(p, "fracarea", ESMF_regrid_method="Second-order Conservative"),
            "ESMF_regrid_method.*second-or",
        ),
        (lambda p: scrip(p, "fracarea", map_method="Conservative 2nd order remapping"), "map_method.*second-order"),
        (lambda p: scrip(p, "fracarea", remap_order=np.int32(2)), "remap_order is 2: second-order"),
        (lambda p: tempest(p, "fracarea", np_src="4"), "np_src is 4: second-order"),
        (lambda p: tempest(p, "fracarea", type_src="cgll"), "type_src is 'cgll', cells .fv. are expected"),
        (lambda p: tempest(p, "fracarea", noconserve="true"), "noconserve is true"),
        (lambda p: esmf(p, "fracarea", map_method="Bilinear remapping"), "'Bilinear remapping', which does not keep"),
        (lambda p: esmf(p, "fracarea", ESMF_regrid_method="Nearest source to destination"), "does not keep areas"),
        (lambda p: weight_only(p, "none", normalization="none"), "normalization none weights are areas"),
        (lambda p: scrip(p, "none", normalization="fracarea"), r"weight 1\.57\d+ of link 2 .*is not in 0\.\.1"),
        (lambda p: yac(p, "destarea", where="CORNER"), "src_locations is 'CORNER', weights between cells"),
        (lambda p: yac(p, "destarea", fields=2), "weights of 2 source fields"),
    ],
)
def test_weights_that_are_not_first_order_conservative_are_refused(tmp_path, make, message):
    with pytest.raises(RegridError, match=message):
        read_links(make(tmp_path / "w.nc"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("S", -0.25, r"weight -0\.25 of link 3 \(source cell 3, target cell 4\) is not in 0\.\.1 \(1 such links\)"),
        ("S", 1.5, r"weight 1\.5 of link 3"),
        ("S", np.nan, r"weight nan of link 3"),
        ("row", 0, r"target addresses must be in 1\.\.8, got 0\.\.8"),
        ("row", 9, r"target addresses must be in 1\.\.8, got 1\.\.9"),
        ("col", -1, r"source addresses must be in 1\.\.6, got -1\.\.6"),
        ("col", 7, r"source addresses must be in 1\.\.6, got 1\.\.7"),
        ("area_b", np.inf, "target area needs 8 finite values"),
        ("frac_b", np.nan, "target fraction needs 8 finite values"),
        ("yc_b", np.nan, "target latitude needs 8 finite values"),
    ],
)
def test_numbers_out_of_range_are_named(tmp_path, name, value, message):
    file = esmf(tmp_path / "w.nc", "fracarea")
    with netCDF4.Dataset(file, "a") as data:
        data[name][2] = value
    with pytest.raises(RegridError, match=rf"w\.nc: {message}"):
        read_links(file)


def test_a_covered_part_above_one_is_named(tmp_path):
    file = esmf(tmp_path / "w.nc", "fracarea")
    with netCDF4.Dataset(file, "a") as data:
        data["frac_b"][3] = 1.5
    with pytest.raises(RegridError, match=r"covered part 1\.5 of target cell 4 is not in 0\.\.1"):
        read_links(file)


def test_addresses_that_are_no_whole_numbers_are_refused(tmp_path):
    file = weight_only(tmp_path / "w.nc", "destarea")
    with netCDF4.Dataset(file, "a") as data:
        data.renameVariable("row", "old")
        data.createVariable("row", "f8", ("n_s",))[:] = ROW[KEPT]
    assert shares_by_cells(read_links(file)) == pytest.approx(TRUTH, rel=1e-15)
    with netCDF4.Dataset(file, "a") as data:
        data["row"][1] = 2.5
    with pytest.raises(RegridError, match="row holds numbers that are no addresses"):
        read_links(file)


def test_sums_that_do_not_fit_the_rule_are_named(tmp_path):
    file = esmf(tmp_path / "w.nc", "fracarea")
    with netCDF4.Dataset(file, "a") as data:
        data["S"][5] = 0.9
    with pytest.raises(RegridError, match=r"weights of target cell 8 sum to 0\.9, which fracarea weights do not"):
        read_links(file).shares()


def test_a_netcdf_file_of_something_else_is_refused(tmp_path):
    netcdf(tmp_path / "w.nc", {"x": 3}, {"temperature": ("f8", ("x",), 0.0, "K")}, {})
    with pytest.raises(RegridError, match="no variable row or dst_address, col or src_address, S or remap_matrix"):
        read_links(tmp_path / "w.nc")


@pytest.mark.parametrize("size", [0, 3, 300, 5000])
def test_a_truncated_file_is_refused(tmp_path, size):
    file = weight_only(tmp_path / "w.nc", "destarea")
    whole = file.read_bytes()
    assert len(whole) > size
    file.write_bytes(whole[:size])
    with pytest.raises(RegridError, match=r"w\.nc cannot be read as netCDF"):
        read_links(file)


YAC = """
import sys
import numpy as np
import yac.core as yac
def field(name, edges):
    count, lon, lat = [], [], []
    for pole in (-90, 90):
        for west, east in zip(edges[:-1], edges[1:]):
            count.append(3)
            lon += [west, east, west]
            lat += [0, 0, pole]
    grid = yac.BasicGrid.unstruct_new(name, np.array(count, np.intc), np.radians(lon), np.radians(lat),
                                      np.arange(len(lon), dtype=np.intc))
    return yac.InterpField(grid.add_coordinates(yac.yac_location.YAC_LOC_CELL))
stack = yac.InterpolationStack()
rule = yac.yac_interp_method_conserv_normalisation.YAC_INTERP_CONSERV_DESTAREA
stack.add_conservative(order=1, partial_coverage=True, normalisation=rule)
made = yac.compute_weights(stack, field("a", [-180, -45, 90, 180]), field("b", [-180, -90, 0, 90, 180]))
made.write_to_file(sys.argv[1], "a", "b", 6, 8)
"""


@pytest.mark.skipif(importlib.util.find_spec("yac") is None, reason="yac is not installed")
def test_a_file_that_yac_wrote_has_the_shares(tmp_path):
    command = [sys.executable, "-c", YAC, str(tmp_path / "w.nc")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    truth = dict(zip(zip(ROW.tolist(), COL.tolist(), strict=True), SHARE.tolist(), strict=True))
    assert shares_by_cells(read_links(tmp_path / "w.nc")) == pytest.approx(truth, rel=1e-9)


def remap(how, output, rule="fracarea"):
    """CDO's own file: from a source of 16 x 8 cells, of which those of the sea are masked, to 10 degrees."""
    land = ["-gtc,0", "-topo,r16x8"]
    command = ["cdo", "-s", f"{how},global_10", "-ifthen", *land, "-topo,r16x8", str(output)]
    subprocess.run(command, check=True, capture_output=True, timeout=60, env=os.environ | {"CDO_REMAP_NORM": rule})
    return output


@pytest.mark.skipif(shutil.which("cdo") is None, reason="cdo is not installed")
def test_the_normalisations_of_cdo_mean_the_same(tmp_path):
    """One source, three rules: the shares agree, and some targets are partly covered."""
    given = {
        rule: read_links(remap("gencon", tmp_path / f"{rule}.nc", rule)) for rule in ("fracarea", "destarea", "none")
    }
    expected = shares_by_cells(given["fracarea"])
    assert len(expected) > 100
    sums = np.bincount(given["none"].row, weights=given["none"].shares())
    assert ((sums > 0.01) & (sums < 0.99)).any()
    for rule in ("destarea", "none"):
        assert shares_by_cells(given[rule]) == pytest.approx(expected, rel=1e-9, abs=1e-13)


@pytest.mark.skipif(shutil.which("cdo") is None, reason="cdo is not installed")
@pytest.mark.parametrize(("how", "message"), [("gencon2", "remap_order is 2"), ("genbil", "does not keep areas")])
def test_other_methods_of_cdo_are_refused(tmp_path, how, message):
    with pytest.raises(RegridError, match=message):
        read_links(remap(how, tmp_path / "w.nc"))


@pytest.mark.skipif(not (DATA / "grids").is_dir(), reason=HERE)
def test_a_real_file_of_oasis_needs_its_first_weights_alone(tmp_path):
    """SCRIP's conservative files carry the gradients' weights whether they are used or not."""
    with gzip.open(DATA / "grids" / "oasis_rmp_torc_to_lmdz_CONSERV_FRACNNEI.nc.gz") as packed:
        (tmp_path / "w.nc").write_bytes(packed.read())
    with pytest.raises(RegridError, match=r"w\.nc has 3 weights a link \(num_wgts\)"):
        read_links(tmp_path / "w.nc")


@pytest.mark.skipif(not (DATA / "esmf_weights").is_dir(), reason=HERE)
def test_shares_of_a_file_by_esmf_give_every_source_its_area_back():
    path = DATA / "esmf_weights" / "T42_to_ll2.nc"
    links = read_links(path)
    with netCDF4.Dataset(path) as data:
        area, covered = data["area_a"][:].filled(), data["frac_a"][:].filled()
    placed = np.bincount(links.col, weights=links.shares() * links.area[links.row], minlength=links.n_source)
    assert_allclose(placed, area * covered, rtol=1e-11)


SOURCE = boxes([(w, e, s, n) for s, n in ((-90, 0), (0, 90)) for w, e in ((-180, -45), (-45, 90), (90, 180))],
               land=[1, 0, 0.3, 1, 1, 1])  # fmt: skip
TARGET = boxes([(w, w + 90, s, s + 90) for s in (-90, 0) for w in (-180, -90, 0, 90)])
UNIT = EARTH_RADIUS**2 * np.pi / 2
AREAS = UNIT * np.array([1.5, 1.5, 1] * 2), UNIT * np.ones(8)


def written(path, **said):
    """The file of the kept links, target shape 2 x 4, source without a shape."""
    overlap = Overlap(ROW[KEPT] - 1, COL[KEPT] - 1, SHARE[KEPT] * UNIT, 8, 6)
    write(path, overlap, SOURCE, TARGET, AREAS, ((6,), (2, 4)), said)
    return path


def test_what_is_written_is_read_back(tmp_path):
    links = read_links(written(tmp_path / "w.nc"))
    assert shares_by_cells(links) == pytest.approx(TRUTH, rel=1e-15)
    assert (links.n_source, links.n_target, links.rule()) == (6, 8, "fracarea")


def test_the_layout_is_that_of_esmf(tmp_path):
    with netCDF4.Dataset(written(tmp_path / "w.nc", grid_file_src="a.nc", title="mine")) as data:
        assert {name: len(dim) for name, dim in data.dimensions.items()} == {
            "n_a": 6, "n_b": 8, "n_s": 6, "nv_a": 4, "nv_b": 4, "src_grid_rank": 1, "dst_grid_rank": 2
        }  # fmt: skip
        assert data.data_model == "NETCDF4"
        assert data["dst_grid_dims"][:].tolist() == [4, 2], "fastest dimension first"
        assert data["src_grid_dims"][:].tolist() == [6]
        assert (data["row"].dtype, data["col"].dtype, data["S"].dtype) == (np.int32, np.int32, np.float64)
        assert data["row"][:].tolist() == [1, 2, 4, 5, 6, 8]
        assert data["col"][:].tolist() == [1, 1, 3, 4, 4, 6]
        assert data["S"][:].tolist() == [1.0] * 6, "fracarea"
        assert_allclose(data["frac_b"][:], COVERED, rtol=1e-15)
        assert_allclose(data["frac_a"][:], [1, 0, 1, 1, 0, 1], rtol=1e-15)
        assert_allclose(data["area_b"][:], np.pi / 2, rtol=1e-15)
        assert_allclose(data["area_a"][:], np.pi / 2 * np.array([1.5, 1.5, 1] * 2), rtol=1e-15)
        assert data["mask_a"][:].tolist() == [1, 0, 1, 1, 1, 1]
        assert_allclose(data["xc_b"][:], LON)
        assert_allclose(data["yc_b"][:], LAT)
        assert data["xv_a"][1].tolist() == [-45, 90, 90, -45]
        assert data["yv_a"][1].tolist() == [-90, -90, 0, 0]
        assert {data[name].units for name in ("xc_a", "yc_b", "xv_a", "yv_b")} == {"degrees"}
        assert data["area_a"].units == "square radians"
        said = {name: data.getncattr(name) for name in data.ncattrs()}
    assert said == {
        "title": "mine", "normalization": "fracarea", "map_method": "Conservative remapping",
        "ESMF_regrid_method": "First-order Conservative", "conventions": "NCAR-CSM", "grid_file_src": "a.nc",
    }  # fmt: skip


def test_xarray_opens_it(tmp_path):
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    with xarray.open_dataset(written(tmp_path / "w.nc")) as data:
        assert_allclose((data.S * data.area_b[data.row - 1] * data.frac_b[data.row - 1]).sum(), 5 / 2 * np.pi)


def test_a_file_is_renamed_into_place(tmp_path):
    written(tmp_path / "w.nc")
    before = (tmp_path / "w.nc").stat().st_ino
    written(tmp_path / "w.nc")
    assert (tmp_path / "w.nc").stat().st_ino != before
    assert [path.name for path in tmp_path.iterdir()] == ["w.nc"]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RegridError, match=r"nowhere/w\.nc cannot be written"):
        written(tmp_path / "nowhere" / "w.nc")


def test_a_shape_of_another_size_is_refused(tmp_path):
    overlap = Overlap(ROW - 1, COL - 1, SHARE * UNIT, 8, 6)
    with pytest.raises(RegridError, match=r"a grid of 8 cells has neither shape \(3, 4\)"):
        write(tmp_path / "w.nc", overlap, SOURCE, TARGET, AREAS, ((6,), (3, 4)), {})


def test_the_centre_of_a_box_is_its_middle_and_of_others_the_mean_in_space(tmp_path):
    """The triangle's corners sum to (1 + a, 1 + a, sqrt(3) / 2) with a = cos 60 cos 45 = sqrt(2) / 4."""
    box = boxes([(170, 190, 40, 50)])
    triangle = host([[0.0, 90, 45]], [[0.0, 0, 60]])
    north = np.degrees(np.arctan2(np.sqrt(3) / 2, np.sqrt(2) * (1 + np.sqrt(2) / 4)))
    for cell, lon, lat in ((box, -180, 45), (triangle, 45, north)):
        overlap = Overlap(np.zeros(1), np.zeros(1), np.ones(1), 1, 1)
        write(tmp_path / "w.nc", overlap, cell, cell, (np.ones(1), np.ones(1)), ((1,), (1,)), {})
        with netCDF4.Dataset(tmp_path / "w.nc") as data:
            assert_allclose([data["xc_a"][0], data["yc_a"][0]], [lon, lat], rtol=1e-12)
