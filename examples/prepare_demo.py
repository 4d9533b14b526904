"""Make what the example hosts start from: grid, real state of 2019, scenario, configuration and namelist.

    python examples/prepare_demo.py output/demo --years 10

- The grid is the T63 Gaussian grid of an atmosphere with its real land fraction (data/t63_land.nc).
- The state is the emulator's base map (MODIS, 2019) averaged over each host cell, exactly, by overlap areas; host land
  under which the map has none takes the nearest real state.
- The scenario is deforest-glob of LUMIP (Lawrence et al. 2016, doi 10.5194/gmd-9-2973-2016): in the 30 % of land cells
  with the highest forest fraction forest is removed linearly, 400,000 km2 a year over the globe, each of these cells
  giving in proportion to the forest it has, and becomes grassland.
"""

import argparse
from pathlib import Path

import netCDF4
import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.emulator import Emulator
from ai4land_coupler.grids import EARTH_RADIUS, HostGrid
from ai4land_coupler.regrid import Patch
from ai4land_coupler.regrid.latlon import LatLonEngine

GRID = Path(__file__).parent / "data" / "t63_land.nc"
CLEARED_A_YEAR = 400_000e6
"""Forest removed a year, m2."""
CLEARED_CELLS = 0.3
"""Share of the land cells in which forest is removed."""
NAME_LENGTH = 32
ROWS_AT_ONCE = 300


def read_grid(path: Path) -> tuple[HostGrid, tuple[int, int]]:
    """The cells of a latitude-longitude grid file, west to east then south to north, and (nlat, nlon)."""
    with netCDF4.Dataset(path) as file:
        lat, lon = np.asarray(file["lat_bnds"][:]), np.asarray(file["lon_bnds"][:])
        land = np.asarray(file["sftlf"][:], dtype=np.float64) / 100.0
    shape = land.shape
    corners = np.empty((*shape, 4, 2))  # counter-clockwise from the south-west
    corners[..., 0] = lon[None, :, [0, 1, 1, 0]]
    corners[..., 1] = lat[:, None, [0, 0, 1, 1]]
    flat = corners.reshape(-1, 4, 2)
    return HostGrid(np.arange(1, land.size + 1), flat[..., 0], flat[..., 1], land.ravel()), (shape[0], shape[1])


def cell_area(grid: HostGrid) -> NDArray[np.float64]:
    """Areas of cells between meridians and parallels, (n,), m2."""
    north, south = grid.vertex_lat.max(1), grid.vertex_lat.min(1)
    width = np.radians(grid.vertex_lon.max(1) - grid.vertex_lon.min(1))
    return EARTH_RADIUS**2 * width * (np.sin(np.radians(north)) - np.sin(np.radians(south)))


def state_under(grid: HostGrid, emulator: Emulator) -> NDArray[np.float64]:
    """Fractions of the base map's land under each host cell, (class, cell); zero over the host's sea."""
    base, fine, n_class = emulator.base_map(), emulator.fine, len(emulator.legend)
    area = np.zeros((grid.size, n_class))
    for first in range(0, fine.nlat, ROWS_AT_ONCE):
        band = base[first : first + ROWS_AT_ONCE].ravel()
        land = np.flatnonzero(band)
        overlap = LatLonEngine().fine(fine, Patch(land + first * fine.nlon, grid))
        where = overlap.col * n_class + band[land][overlap.row] - 1
        area += np.bincount(where, overlap.area, area.size).reshape(area.shape)
    known = area.sum(1) > 0
    area[known] /= area[known].sum(1, keepdims=True)
    land_cells = grid.land_fraction > 0
    missing = np.flatnonzero(land_cells & ~known)
    area[missing] = area[nearest(grid, missing, np.flatnonzero(known & land_cells))]
    return np.where(land_cells, area.T, 0.0)


def nearest(grid: HostGrid, cells: NDArray[np.int64], among: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of `cells` the one of `among` whose centre is nearest on the sphere (ties: the first)."""
    lon, lat = np.radians(grid.centre)
    xyz = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    return among[np.argmax(xyz[cells] @ xyz[among].T, axis=1)]


def forest_loss(forest: NDArray[np.float64], land_area: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fraction of land (cell,) that turns from forest to grassland a year, from the forest fraction of land (cell,)."""
    land = np.flatnonzero(land_area > 0)
    count = round(CLEARED_CELLS * land.size)
    chosen = land[np.argsort(-forest[land], kind="stable")[:count]]
    loss = np.zeros_like(forest)
    loss[chosen] = forest[chosen] * CLEARED_A_YEAR / float((forest * land_area)[chosen].sum())
    return loss


def write_start(
    path: Path, grid: HostGrid, shape: tuple[int, int], names: tuple[str, ...], state: NDArray[np.float64],
    loss: NDArray[np.float64], source: str,
) -> None:  # fmt: skip
    """Write the hosts' start file; cells run west to east, then south to north."""
    with netCDF4.Dataset(path, "w", format="NETCDF4_CLASSIC") as file:
        file.title = "Start of the example hosts: T63 grid, land use, deforest-glob"
        file.source = source
        file.nlat, file.nlon = np.int32(shape[0]), np.int32(shape[1])
        sizes = {"cell": grid.size, "vertex": grid.nvertex, "class": len(names), "name_length": NAME_LENGTH}
        for name, size in sizes.items():
            file.createDimension(name, size)
        for name, kind, dimensions, units, values in (
            ("cell_id", "i4", ("cell",), "1", grid.cell_id),
            ("vertex_lon", "f8", ("cell", "vertex"), "degrees_east", grid.vertex_lon),
            ("vertex_lat", "f8", ("cell", "vertex"), "degrees_north", grid.vertex_lat),
            ("land_fraction", "f8", ("cell",), "1", grid.land_fraction),
            ("state", "f8", ("class", "cell"), "1", state),
            ("forest_loss", "f8", ("cell",), "year-1", loss),
        ):
            variable = file.createVariable(name, kind, dimensions)
            variable.units = units
            variable[:] = values
        text = np.array([list(name.ljust(NAME_LENGTH)) for name in names], dtype="S1")
        file.createVariable("class_name", "S1", ("class", "name_length"))[:] = text


def write_settings(folder: Path, emulator: str, first_year: int, years: int) -> None:
    """Write the plugin's configuration and the Fortran host's namelist."""
    (folder / "ai4land.yaml").write_text(
        f"emulator: {emulator}\n"
        "output:\n"
        "  folder: .\n"
        f"  fractions: [{first_year + years - 1}]  # this year's file holds the fine fractions beside the class map\n"
    )
    (folder / "host.nml").write_text(
        "&host_nml\n"
        f"  start = '{folder}/start.nc'\n"
        f"  config = '{folder}/ai4land.yaml'\n"
        f"  history_file = '{folder}/host_history.nc'\n"
        f"  restart = '{folder}/restart.nc'\n"
        f"  first_year = {first_year}\n"
        f"  years = {years}\n"
        "/\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--years", type=int, default=10)
    parser.add_argument("--emulator", default="igbp-0p05", help="a shipped name or a folder")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)

    emulator = Emulator.load(options.emulator)
    grid, shape = read_grid(GRID)
    state = state_under(grid, emulator)
    land_area = cell_area(grid) * grid.land_fraction
    loss = forest_loss(state[emulator.legend.index("forest")], land_area)
    source = f"base map of emulator {emulator.name} ({emulator.base_year}), scenario deforest-glob of LUMIP"
    write_start(options.folder / "start.nc", grid, shape, emulator.legend, state, loss, source)
    write_settings(options.folder, options.emulator, emulator.base_year + 1, options.years)

    total = state @ land_area / 1e12
    print(f"start state of {emulator.base_year} on {shape[1]} x {shape[0]} cells, million km2 of land:")
    print("  " + ", ".join(f"{name} {area:.2f}" for name, area in zip(emulator.legend, total, strict=True)))
    print(f"deforest-glob: {(loss * land_area).sum() / 1e6:,.0f} km2 a year from {(loss > 0).sum()} cells")


if __name__ == "__main__":
    main()
