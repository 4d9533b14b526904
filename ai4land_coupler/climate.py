"""Shares of Koeppen's main groups in host cells, from an emulator's static fields.

A cell's shares depend on its own corners alone, by operations that round the same everywhere: no deal of the cells over
ranks changes a bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import EmulatorError
from ai4land_coupler.grids import HostGrid, RegularGrid
from ai4land_coupler.ncread import NcReader, opened

Float = NDArray[np.float64]

GROUP_OF = np.array([0, *[1] * 3, *[2] * 4, *[3] * 9, *[4] * 12, *[5] * 2], np.uint8)
"""Main group 1..5, A to E, of the classes 1..30 in the order of Beck et al. 2018; 0 none."""

FIELDS = ("koppen", "climate_class")
"""Names in statics.nc: main groups 0..5, or classes 0..30."""


def of_cells(cells: HostGrid, emulator: Emulator) -> Float:
    """Share of each main group in each cell (5, n), summing to 1.

    The mean over the coarse cells at the middle of the cell and halfway to each of its corners; those without land
    that has a climate are left out, and a cell of none takes the nearest coarse cell's. Raises EmulatorError where the
    emulator has no climate.
    """
    if not cells.size:
        return np.empty((5, 0))
    shares = of_coarse(emulator)
    known = shares.sum(axis=0) > 0
    total, count = np.zeros((5, cells.size)), np.zeros(cells.size)
    lon, lat = _points(cells)
    for x, y in zip(lon, lat, strict=True):
        at = _cell(emulator.coarse, x, y)
        total += shares[(slice(None), *at)]
        count += known[at]
    for i in np.flatnonzero(count == 0):
        total[:, i] = shares[(slice(None), *_nearest(known, emulator.coarse, lon[0, i], lat[0, i]))]
    return total / np.maximum(count, 1.0)


def of_coarse(emulator: Emulator) -> Float:
    """Share of each main group among the fine cells that have one (5, nlat, nlon) of the coarse grid; 0 for none."""
    coarse, ratio = emulator.coarse, emulator.coarse.ratio_to(emulator.fine)
    counts = np.empty((5, coarse.nlat, coarse.nlon))
    band = max(1, 512 // ratio)
    with opened(emulator.path / "statics.nc", EmulatorError) as file:
        name = next((name for name in FIELDS if name in file), None)
        if name is None or file.shape(name) != (emulator.fine.nlat, emulator.fine.nlon):
            raise file.error(f"none of {', '.join(FIELDS)} on the fine grid: it has no climate for a crosswalk to use")
        for row in range(0, coarse.nlat, band):
            stop = min(row + band, coarse.nlat)
            groups = _groups(file, name, slice(row * ratio, stop * ratio)).reshape(
                stop - row, ratio, coarse.nlon, ratio
            )
            counts[:, row:stop] = [(groups == group).sum(axis=(1, 3)) for group in range(1, 6)]
    return counts / np.maximum(counts.sum(axis=0), 1.0)


def _groups(file: NcReader, name: str, rows: slice) -> NDArray[np.uint8]:
    values = np.nan_to_num(file.numbers(name, rows))
    if values.min(initial=0) < 0 or values.max(initial=0) > 30:
        raise file.error(f"{name}: expected classes 0 to 30, got {values.min():g} to {values.max():g}")
    return values.astype(np.uint8) if name == FIELDS[0] else GROUP_OF[values.astype(np.int64)]


def _points(cells: HostGrid) -> tuple[Float, Float]:
    """Longitudes and latitudes (1 + nvertex, n): the mean of the corners, then halfway from it to each of them."""
    first = cells.vertex_lon[:, :1]
    turned = cells.vertex_lon - first
    lon = first + (turned - 360.0 * np.floor((turned + 180.0) / 360.0))
    lat = cells.vertex_lat
    x, y = _mean(lon), _mean(lat)
    return np.vstack([x, *(0.5 * (x + part) for part in lon.T)]), np.vstack([y, *(0.5 * (y + part) for part in lat.T)])


def _mean(values: Float) -> Float:
    """Mean over the corners of (n, nvertex), corner by corner."""
    total = np.zeros(values.shape[0])
    for part in values.T:
        total += part
    return total / values.shape[1]


def _cell(grid: RegularGrid, lon: Float, lat: Float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    row = np.clip(np.floor((lat + 90.0) / (180.0 / grid.nlat)).astype(np.int64), 0, grid.nlat - 1)
    return row, np.floor((lon + 180.0) / (360.0 / grid.nlon)).astype(np.int64) % grid.nlon


def _nearest(known: NDArray[np.bool_], grid: RegularGrid, lon: float, lat: float) -> tuple[int, int]:
    """Row and column of the known coarse cell next to a point, ties to the lowest id."""
    rows, cols = np.nonzero(known)
    if not rows.size:
        raise EmulatorError("no cell of the emulator has a climate")
    east = np.abs(grid.lon[cols] - lon)
    east = np.minimum(east % 360.0, 360.0 - east % 360.0) * np.cos(np.radians(grid.lat))[rows]
    north = grid.lat[rows] - lat
    at = int((east * east + north * north).argmin())
    return int(rows[at]), int(cols[at])
