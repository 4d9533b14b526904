"""Grids: the emulator's regular latitude-longitude grids and the host's cells as polygons."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ai4land_coupler.errors import GridError

EARTH_RADIUS = 6_371_000.0
"""Radius of the sphere all areas refer to, in m."""

LATITUDE_TOLERANCE = 1e-6
"""Corners up to this many degrees beyond a pole are clipped to it."""


@dataclass(frozen=True)
class RegularGrid:
    """A global latitude-longitude grid: rows from 90 S to 90 N, columns from 180 W to 180 E.

    Cell ids count west to east, then south to north, from 1.
    """

    nlat: int
    nlon: int

    def __post_init__(self) -> None:
        if self.nlat < 1 or self.nlon < 1:
            raise GridError(f"a regular grid needs at least one row and one column, got {self.nlat} x {self.nlon}")

    @property
    def size(self) -> int:
        """Number of cells."""
        return self.nlat * self.nlon

    @cached_property
    def lat_edges(self) -> NDArray[np.float64]:
        """Parallels between the rows, shape (nlat + 1,), degrees north."""
        return np.asarray(-90.0 + np.arange(self.nlat + 1) * (180.0 / self.nlat), dtype=np.float64)

    @cached_property
    def lon_edges(self) -> NDArray[np.float64]:
        """Meridians between the columns, shape (nlon + 1,), degrees east."""
        return np.asarray(-180.0 + np.arange(self.nlon + 1) * (360.0 / self.nlon), dtype=np.float64)

    @cached_property
    def lat(self) -> NDArray[np.float64]:
        """Latitude of the cell centres, shape (nlat,), degrees north."""
        return 0.5 * (self.lat_edges[1:] + self.lat_edges[:-1])

    @cached_property
    def lon(self) -> NDArray[np.float64]:
        """Longitude of the cell centres, shape (nlon,), degrees east in [-180, 180)."""
        return 0.5 * (self.lon_edges[1:] + self.lon_edges[:-1])

    @cached_property
    def area_rows(self) -> NDArray[np.float64]:
        """Area of one cell of each row, shape (nlat,), m2: R^2 dlon (sin lat_north - sin lat_south).

        The difference of sines is 2 cos(centre) sin(half the width), which keeps its digits at the poles.
        """
        band = 2 * np.cos(np.radians(self.lat)) * np.sin(np.radians(90.0 / self.nlat))
        return EARTH_RADIUS**2 * np.radians(360.0 / self.nlon) * band

    def corners(self, cells: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Corners of some cells, 0-based, counterclockwise from the south-west: longitude, latitude (m, 4), degrees."""
        row, column = np.divmod(cells, self.nlon)
        south, north, west, east = (
            self.lat_edges[row], self.lat_edges[row + 1], self.lon_edges[column], self.lon_edges[column + 1]
        )  # fmt: skip
        return np.stack([west, east, east, west], axis=1), np.stack([south, south, north, north], axis=1)

    def ratio_to(self, fine: "RegularGrid") -> int:
        """How many cells of `fine` lie along one edge of a cell of this grid; an error where they do not nest."""
        ratio = fine.nlat // self.nlat
        if fine.nlat != ratio * self.nlat or fine.nlon != ratio * self.nlon:
            raise GridError(f"{fine.nlat} x {fine.nlon} cells do not nest in {self.nlat} x {self.nlon} cells")
        return ratio


@dataclass(frozen=True, eq=False)
class HostGrid:
    """This rank's cells of the host grid; any number of them, none included.

    cell_id (n,) int64, unique over all ranks; vertex_lon and vertex_lat (n, nvertex) float64 in degrees, corners in
    either winding, padded by repeating a corner; land_fraction (n,) float64 of the cell, 0 to 1.
    Raises GridError where the arrays cannot be such cells.
    """

    cell_id: NDArray[np.int64]
    vertex_lon: NDArray[np.float64]
    vertex_lat: NDArray[np.float64]
    land_fraction: NDArray[np.float64]

    def __post_init__(self) -> None:
        cell_id = np.ascontiguousarray(self.cell_id, dtype=np.int64)
        lon = np.ascontiguousarray(self.vertex_lon, dtype=np.float64)
        lat = np.ascontiguousarray(self.vertex_lat, dtype=np.float64)
        land = np.ascontiguousarray(self.land_fraction, dtype=np.float64)
        n = cell_id.size
        if cell_id.shape != (n,) or land.shape != (n,):
            raise GridError(f"cell_id and land_fraction need one value a cell, got {cell_id.shape} and {land.shape}")
        if lon.ndim != 2 or lon.shape != lat.shape or lon.shape[0] != n or (n and lon.shape[1] < 3):
            raise GridError(
                f"vertex_lon and vertex_lat need shape ({n}, nvertex >= 3), got {lon.shape} and {lat.shape}"
            )
        _refuse_first(~np.isfinite(lon).all(1) | ~np.isfinite(lat).all(1), cell_id, "has a corner that is not finite")
        _refuse_first((np.abs(lat) > 90.0 + LATITUDE_TOLERANCE).any(1), cell_id, "has a latitude beyond 90 degrees")
        _refuse_first(~((land >= 0) & (land <= 1)), cell_id, "has a land fraction that is not in 0..1")
        for name, value in (
            ("cell_id", cell_id),
            ("vertex_lon", lon),
            ("vertex_lat", np.clip(lat, -90.0, 90.0)),
            ("land_fraction", land),
        ):
            object.__setattr__(self, name, value)

    @property
    def size(self) -> int:
        """Number of cells on this rank."""
        return int(self.cell_id.size)

    @property
    def nvertex(self) -> int:
        """Corners a cell, padding included."""
        return int(self.vertex_lon.shape[1])

    @cached_property
    def centre(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Longitude in [-180, 180) and latitude of the cells, each (n,), degrees: the mean of the corners in space."""
        lon, lat = np.radians(self.vertex_lon), np.radians(self.vertex_lat)
        x, y, z = (np.cos(lat) * np.cos(lon)).mean(1), (np.cos(lat) * np.sin(lon)).mean(1), np.sin(lat).mean(1)
        return wrap_longitude(np.degrees(np.arctan2(y, x))), np.degrees(np.arctan2(z, np.hypot(x, y)))

    def take(self, cells: NDArray[np.int64]) -> "HostGrid":
        """Some of the cells, by position."""
        return HostGrid(self.cell_id[cells], self.vertex_lon[cells], self.vertex_lat[cells], self.land_fraction[cells])

    def sorted_by_id(self) -> "HostGrid":
        """The same cells in ascending order of id."""
        return self.take(np.argsort(self.cell_id, kind="stable"))


def wrap_longitude(lon: NDArray[np.float64]) -> NDArray[np.float64]:
    """Longitudes of any turn brought to [-180, 180), degrees."""
    wrapped = np.mod(lon + 180.0, 360.0) - 180.0
    return np.where(wrapped >= 180.0, -180.0, wrapped)


def refuse_radians(cells: int, largest: float) -> None:
    """Raise GridError where this many cells, none with a coordinate above `largest`, must be in radians."""
    if cells > 1000 and largest <= 2 * np.pi + 1e-9:
        raise GridError(
            f"no corner of the {cells} host cells exceeds 2 pi: vertex_lon and vertex_lat look like radians, "
            "degrees are expected; multiply them by 180/pi"
        )


def _refuse_first(bad: ArrayLike, cell_id: NDArray[np.int64], what: str) -> None:
    where = np.flatnonzero(bad)
    if where.size:
        raise GridError(f"host cell {int(cell_id[where[0]])} {what} ({where.size} cells in all)")
