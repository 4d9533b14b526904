"""The YAC engine against weights that ESMF itself made."""

import os
from pathlib import Path

import numpy as np
import pytest
from regrid_hosts import host

from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.regrid.weightfile import read_links
from ai4land_coupler.regrid.yac import YacEngine

netCDF4 = pytest.importorskip("netCDF4")

DATA = Path(os.environ.get("AI4LAND_REFERENCE_DATA", Path(__file__).parents[3] / "shared" / "data"))

pytestmark = pytest.mark.skipif(
    not (DATA / "esmf_weights").is_dir(),
    reason="ESMF reference weights are not here; set AI4LAND_REFERENCE_DATA to a folder with esmf_weights/ and grids/",
)


def scrip(name):
    with netCDF4.Dataset(DATA / "grids" / name) as data:
        return data["grid_corner_lon"][:].data, data["grid_corner_lat"][:].data


def icon():
    with netCDF4.Dataset(DATA / "grids" / "triangular_grid_ICON.nc") as data:
        return np.degrees(data["clon_vertices"][:].data), np.degrees(data["clat_vertices"][:].data)


def lmdz():
    with netCDF4.Dataset(DATA / "grids" / "oasis_torc_lmdz_grids.nc") as data:
        return data["lmdz.clo"][:].data.reshape(4, -1).T, data["lmdz.cla"][:].data.reshape(4, -1).T


@pytest.mark.parametrize(
    ("corners", "weights", "nlat"),
    [
        (lambda: scrip("T42_scrip.nc"), "T42_to_ll2.nc", 90),
        (lambda: scrip("ne30pg2_scrip.nc"), "ne30pg2_to_ll1.nc", 180),
        (icon, "icon_r2b4_to_ll1.nc", 180),
        (lmdz, "lmdz_to_ll1.nc", 180),
    ],
    ids=["T42", "ne30pg2", "ICON R2B4", "LMDZ"],
)
def test_weights_are_those_of_esmf(corners, weights, nlat):
    """The same entries but for slivers, and S (row sums of 1) within 1e-9."""
    reference = read_links(DATA / "esmf_weights" / weights)
    overlap = YacEngine(host(*corners())).coarse(RegularGrid(nlat, 2 * nlat))
    share = overlap.area / overlap.row_sum()[overlap.row]
    theirs = dict(zip(zip(reference.row.tolist(), reference.col.tolist(), strict=True), reference.weight, strict=True))
    ours = dict(zip(zip(overlap.row.tolist(), overlap.col.tolist(), strict=True), share, strict=True))
    assert set(ours) <= set(theirs)
    assert max(abs(weight - ours.get(entry, 0.0)) for entry, weight in theirs.items()) < 1e-9
    assert len(theirs) - len(ours) < 100
