"""The cells and states that a bench host is given, in a file that Fortran reads as a stream.

int64: cells n, corners a cell, classes k; then the class names of 32 characters, cell_id int64 (n), longitude and
latitude of the corners (n, corners), land fraction (n) and state (k, n), float64.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.domain import base_state
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.grids import HostGrid, RegularGrid

NAME_LENGTH = 32


@dataclass(frozen=True, eq=False)
class HostCells:
    """Cells of a host, classes, and fractions of land (k, n)."""

    grid: HostGrid
    names: tuple[str, ...]
    state: NDArray[np.float64]

    def write(self, path: Path) -> None:
        """For a bench host to read."""
        grid = self.grid
        names = "".join(name.ljust(NAME_LENGTH) for name in self.names).encode()
        corners = grid.nvertex if grid.size else 4
        with path.open("wb") as file:
            file.write(np.array([grid.size, corners, len(self.names)], np.int64).tobytes() + names)
            for part in (grid.cell_id, grid.vertex_lon, grid.vertex_lat, grid.land_fraction, self.state):
                file.write(np.ascontiguousarray(part).tobytes())

    @classmethod
    def read(cls, path: Path) -> "HostCells":
        """The reverse of `write`."""
        data = path.read_bytes()
        n, corners, k = (int(x) for x in np.frombuffer(data, np.int64, 3))
        at = 24 + k * NAME_LENGTH
        names = tuple(data[i : i + NAME_LENGTH].decode().strip() for i in range(24, at, NAME_LENGTH))
        cell_id = np.frombuffer(data, np.int64, n, at)
        rest = np.frombuffer(data, np.float64, -1, at + 8 * n)
        lon, lat, land, state = np.split(rest, np.cumsum([n * corners, n * corners, n]))
        grid = HostGrid(cell_id, lon.reshape(n, corners), lat.reshape(n, corners), land)
        return cls(grid, names, state.reshape(k, n))

    def band(self, rank: int, size: int) -> "HostCells":
        """The cells of a rank: one of `size` bands."""
        n = self.grid.size
        some = np.arange(n * rank // size, n * (rank + 1) // size)
        return HostCells(self.grid.take(some), self.names, np.ascontiguousarray(self.state[:, some]))


def global_host(emulator: Emulator, cut: int = 2) -> HostCells:
    """The globe in cells of `cut` x `cut` coarse cells (1 degree for 0.5), with the state of the base map."""
    coarse = emulator.coarse
    share, land = base_state(emulator, np.arange(coarse.size))
    area = (share * land).reshape(-1, coarse.nlat // cut, cut, coarse.nlon // cut, cut).sum(axis=(2, 4))
    area = area.reshape(area.shape[0], -1)
    host, of_land = RegularGrid(coarse.nlat // cut, coarse.nlon // cut), area.sum(axis=0)
    cells = np.arange(host.size)
    fraction = np.clip(of_land / host.area_rows[cells // host.nlon], 0.0, 1.0)
    lon, lat = host.corners(cells)
    state = area / np.where(of_land > 0, of_land, 1.0)
    return HostCells(HostGrid(cells + 1, lon, lat, fraction), emulator.legend, state)


def crowd(emulator: Emulator, n: int) -> HostCells:
    """n small cells (a power of 2, or none) that share two coarse cells of the emulator, all of one mixed state."""
    rows = 2 ** (n.bit_length() // 2) if n else 0
    columns = n // rows if rows else 0
    fine = emulator.fine
    row, column = (int(x) for x in np.argwhere(emulator.base_map() > 0)[0])
    south, west = fine.lat_edges[row], fine.lon_edges[column]
    span = 2 * 180.0 / emulator.coarse.nlat
    j, i = np.divmod(np.arange(n), max(columns, 1))
    step = span / max(rows, 1), span / max(columns, 1)
    edges = west + i * step[1], west + (i + 1) * step[1], south + j * step[0], south + (j + 1) * step[0]
    lon, lat = np.stack([edges[k] for k in (0, 1, 1, 0)], 1), np.stack([edges[k] for k in (2, 2, 3, 3)], 1)
    k = len(emulator.legend)
    return HostCells(HostGrid(np.arange(1, n + 1), lon, lat, np.ones(n)), emulator.legend, np.full((k, n), 1.0 / k))
