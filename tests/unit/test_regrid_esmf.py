"""Great-circle engines, ESMF and YAC, against weights that ESMF itself made, and on grids made here."""

import os
from pathlib import Path

import numpy as np
import pytest
from regrid_hosts import capped, coarse, cubed_sphere, hexagons, host, same_entries, shuffled, voronoi

from ai4land_coupler.grids import EARTH_RADIUS, RegularGrid
from ai4land_coupler.regrid import Patch, yac
from ai4land_coupler.regrid.clip import shared_area
from ai4land_coupler.regrid.polygons import Polygons

netCDF4 = pytest.importorskip("netCDF4")

DATA = Path(os.environ.get("AI4LAND_REFERENCE_DATA", Path(__file__).parents[3] / "shared" / "data"))
R2 = EARTH_RADIUS**2

needs_reference = pytest.mark.skipif(
    not (DATA / "esmf_weights").is_dir(),
    reason="ESMF reference weights are not here; set AI4LAND_REFERENCE_DATA to a folder with esmf_weights/ and grids/",
)

WEIGHT = {"esmf": 1e-12, "yac": 2e-9}
BALANCE = {"esmf": 1e-11, "yac": 2e-9}


@pytest.fixture(scope="module", params=["yac", "esmf"])
def engine(request):
    """(kind, engine)."""
    if request.param == "yac":
        return "yac", yac.engine()
    from ai4land_coupler.regrid import esmf

    reason = esmf.lacks()
    if reason is not None:
        pytest.skip(f"ESMF cannot be used here: {reason}")
    return "esmf", esmf.engine()


def scrip(name):
    with netCDF4.Dataset(DATA / "grids" / name) as data:
        return data["grid_corner_lon"][:].data, data["grid_corner_lat"][:].data


def icon():
    with netCDF4.Dataset(DATA / "grids" / "triangular_grid_ICON.nc") as data:
        return np.degrees(data["clon_vertices"][:].data), np.degrees(data["clat_vertices"][:].data)


def lmdz():
    with netCDF4.Dataset(DATA / "grids" / "oasis_torc_lmdz_grids.nc") as data:
        return data["lmdz.clo"][:].data.reshape(4, -1).T, data["lmdz.cla"][:].data.reshape(4, -1).T


REFERENCES = pytest.mark.parametrize(
    ("corners", "weights", "nlat"),
    [
        (lambda: scrip("T42_scrip.nc"), "T42_to_ll2.nc", 90),
        (lambda: scrip("ne30pg2_scrip.nc"), "ne30pg2_to_ll1.nc", 180),
        (icon, "icon_r2b4_to_ll1.nc", 180),
        (lmdz, "lmdz_to_ll1.nc", 180),
    ],
    ids=["T42", "ne30pg2", "ICON R2B4", "LMDZ"],
)


def within(what, found, limit):
    """Assert found <= limit; the numbers are printed either way."""
    said = f"{what}: {found:.2e}, at most {limit:.0e}"
    print(said)
    assert found <= limit, said


def reference(name, grid):
    """The weights of a file as a dense key (row, column) and value, and the areas of its source cells, steradians."""
    with netCDF4.Dataset(DATA / "esmf_weights" / name) as data:
        row, col, weight = (data[part][:].data for part in ("row", "col", "S"))
        area = data["area_a"][:].data
    assert row.max() == grid.size
    return (row.astype(np.int64) - 1) * area.size + col - 1, weight, area


def largest_difference(key, value, other_key, other_value):
    """Largest difference of two sparse vectors, entries without a partner counting against 0."""
    every = np.union1d(key, other_key)
    dense = np.zeros((2, every.size))
    dense[0, np.searchsorted(every, key)] = value
    dense[1, np.searchsorted(every, other_key)] = other_value
    return float(np.abs(dense[0] - dense[1]).max())


def tiles(grid, size):
    """Cells of square tiles of a regular grid."""
    row, column = np.divmod(np.arange(grid.size), grid.nlon)
    tile = row // size * grid.nlon + column // size
    return [np.flatnonzero(tile == number) for number in np.unique(tile)]


@needs_reference
@REFERENCES
def test_weights_are_those_of_esmf(engine, corners, weights, nlat):
    """Every entry, row sums of 1, the area of the globe and of each source cell, to what issue 3 asks."""
    kind, made_by = engine
    grid = RegularGrid(nlat, 2 * nlat)
    hosts = host(*corners())
    key, expected, area = reference(weights, grid)
    overlap = coarse(made_by, hosts, grid)
    share = overlap.area / overlap.row_sum()[overlap.row]
    within(
        f"{kind} weights", largest_difference(overlap.row * area.size + overlap.col, share, key, expected), WEIGHT[kind]
    )
    sums = np.bincount(overlap.row, share, minlength=grid.size)
    within(f"{kind} row sums", np.abs(sums - 1).max(), 1e-14)
    own = made_by.area(hosts)
    within(f"{kind} areas", np.abs(own / R2 / area - 1).max(), 1e-11)
    within(f"{kind} globe", abs(overlap.area.sum() / own.sum() - 1), 1e-12)
    within(f"{kind} source cells", np.abs(overlap.col_sum() / own - 1).max(), BALANCE[kind])


@needs_reference
@REFERENCES
def test_tile_by_tile_the_weights_are_those_of_esmf(engine, corners, weights, nlat):
    """Patches of a third of the globe's height, each with the host cells that may reach it only."""
    kind, made_by = engine
    grid = RegularGrid(nlat, 2 * nlat)
    hosts = host(*corners())
    key, expected, area = reference(weights, grid)
    block, cell = made_by.bounds(hosts, grid).touched(RegularGrid(3, 6))
    patches = [
        Patch(cells, hosts.take(np.unique(cell[block == number])))
        for number, cells in enumerate(tiles(grid, nlat // 3))
    ]
    assert len(patches) == 18
    assert max(patch.hosts.size for patch in patches) < hosts.size
    keys, values, placed = [], [], np.zeros(hosts.size)
    for patch, overlap in zip(patches, made_by.coarse(grid, patches), strict=True):
        column = patch.hosts.cell_id[overlap.col] - 1
        keys.append(patch.cells[overlap.row] * area.size + column)
        values.append(overlap.area / overlap.row_sum()[overlap.row])
        placed += np.bincount(column, overlap.area, minlength=hosts.size)
    difference = largest_difference(np.concatenate(keys), np.concatenate(values), key, expected)
    within(f"{kind} weights", difference, WEIGHT[kind])
    within(f"{kind} source cells", np.abs(placed / made_by.area(hosts) - 1).max(), BALANCE[kind])


def clockwise(grid):
    return host(grid.vertex_lon[:, ::-1], grid.vertex_lat[:, ::-1])


@pytest.mark.parametrize(
    "hosts",
    [
        cubed_sphere(12),
        clockwise(cubed_sphere(7)),
        hexagons(6),
        shuffled(hexagons(5), 1),
        voronoi(400),
        capped(18),
        clockwise(capped(5)),
    ],
    ids=["cubed sphere", "clockwise", "hexagons", "padded anywhere", "voronoi", "polar caps", "pentagonal caps"],
)
def test_grids_made_here_against_clipping(engine, hosts):
    """Area of the globe, of every cell on both sides, and of every pair by clipping one with the other."""
    kind, made_by = engine
    grid = RegularGrid(36, 72)
    made_by.check(hosts)
    overlap = coarse(made_by, hosts, grid)
    target, own = Polygons.of_cells(grid, np.arange(grid.size)), made_by.area(hosts)
    clipped = shared_area(Polygons.of(hosts.vertex_lon, hosts.vertex_lat), overlap.col, target, overlap.row)
    within(f"{kind} globe", abs(overlap.area.sum() / (4 * np.pi * R2) - 1), 1e-12)
    within(f"{kind} source cells", np.abs(overlap.col_sum() / own - 1).max(), BALANCE[kind])
    within(f"{kind} target cells", np.abs(overlap.row_sum() / R2 / target.area - 1).max(), BALANCE[kind])
    within(f"{kind} pairs", np.abs(overlap.area / R2 - clipped).max() / target.area.max(), WEIGHT[kind])


def test_a_patch_is_the_same_alone_and_among_others(engine):
    _, made_by = engine
    grid, hosts = RegularGrid(36, 72), hexagons(6)
    patches = [Patch(cells, hosts.take(np.arange(first, 362))) for first, cells in enumerate(tiles(grid, 18))]
    together = made_by.coarse(grid, patches)
    for patch, overlap in zip(patches, together, strict=True):
        assert overlap.area.size > 300
        renamed = host(patch.hosts.vertex_lon, patch.hosts.vertex_lat, cell_id=patch.hosts.cell_id + 3_000_000_000)
        assert same_entries(made_by.coarse(grid, [Patch(patch.cells, renamed)])[0], overlap)
