"""The fields of one year, and the sums that are made of them over tiles and host cells."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.comm import Communicator
from ai4land_coupler.domain import Domain
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import UsageError
from ai4land_coupler.exchange import gather_tiles, sum_by_host, sum_tiles
from ai4land_coupler.grids import wrap_longitude
from ai4land_coupler.inference import TileFields
from ai4land_coupler.placement import OWN

GEOMETRY = ("lon", "lat", "area", "cell_id", "land_fraction")


@dataclass(frozen=True, eq=False)
class YearFields:
    """The fields of a year, on this rank.

    state (K, n_host) and columns (K, n_host) of all host cells in order of id; totals (K, n_coarse); tiles: one entry
    for each tile of this rank, in order; digest: SHA-256 of the fields of all tiles, the same on every rank.
    """

    year: int
    state: NDArray[np.float64]
    totals: NDArray[np.float64]
    tiles: tuple[TileFields, ...]
    columns: NDArray[np.float64]
    digest: str

    def fine(self, k: int) -> NDArray[np.float64]:
        """Fractions of class k of this rank's delivered cells, (n_fine,)."""
        return np.concatenate([np.empty(0), *(tile.fractions[k] for tile in self.tiles)])

    def classes(self) -> NDArray[np.float64]:
        """Classes of this rank's delivered cells, (n_fine,), counted from 1 in the legend's order."""
        return np.concatenate([np.empty(0), *(tile.classes for tile in self.tiles)])


def host_columns(
    comm: Communicator, domain: Domain, state: NDArray[np.float64], tiles: Sequence[TileFields]
) -> NDArray[np.float64]:
    """Columns (K, n_host): the mean over the fine land under each host cell, its own state where there is none."""
    partial = [(to.hosts, to(tile.fractions)) for to, tile in zip(domain.to_host, tiles, strict=True)]
    sums = sum_by_host(comm, domain.own_tiles, partial, *state.shape)
    whole = sums.sum(axis=0)
    mean = np.where(whole > 0, sums / np.where(whole > 0, whole, 1.0), state)
    return np.where(domain.exchange.everyone.land_fraction > 0, mean, 0.0)


def fine_areas(
    comm: Communicator, domain: Domain, emulator: Emulator, tiles: Sequence[TileFields]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Areas (K,) in m2 over the delivered cells of all ranks, and over those of them that were filled."""
    sums = np.zeros((len(tiles), 2, len(emulator.legend)))
    for out, cells, tile in zip(sums, domain.own, tiles, strict=True):
        area = emulator.fine.area_rows[cells.cells // emulator.fine.nlon]
        filled = domain.placement.filled[cells.coarse_of_cell] != OWN
        out[0], out[1] = (tile.fractions * area).sum(axis=1), (tile.fractions * (area * filled)).sum(axis=1)
    both = sum_tiles(comm, domain.own_tiles, sums)
    return both[0], both[1]


def roundtrip(domain: Domain, state: NDArray[np.float64], columns: NDArray[np.float64]) -> float:
    """Half the sum over classes of |column - state|, mean over the host's land."""
    land = domain.placement.host_area * domain.exchange.everyone.land_fraction
    return float((0.5 * np.abs(columns - state).sum(axis=0) * land).sum() / max(land.sum(), 1.0))


def digest(comm: Communicator, domain: Domain, tiles: Sequence[TileFields]) -> str:
    """SHA-256 over the tiles of all ranks, in order of tile."""
    parts = [
        hashlib.sha256(np.ascontiguousarray(tile.fractions).tobytes() + tile.classes.tobytes()).digest()
        for tile in tiles
    ]
    own = np.frombuffer(b"".join(parts), dtype=np.uint8).reshape(len(parts), hashlib.sha256().digest_size)
    return hashlib.sha256(gather_tiles(comm, domain.own_tiles, own).tobytes()).hexdigest()


def fine_geometry(domain: Domain, emulator: Emulator, name: str) -> NDArray[np.float64]:
    """One of GEOMETRY for this rank's delivered cells, (n_fine,)."""
    cells, fine = domain.cells(), emulator.fine
    return {
        "lon": lambda: fine.lon[cells % fine.nlon],
        "lat": lambda: fine.lat[cells // fine.nlon],
        "area": lambda: fine.area_rows[cells // fine.nlon],
        "cell_id": lambda: (cells + 1).astype(np.float64),
        "land_fraction": lambda: np.ones(cells.size),
    }[name]()


def host_geometry(domain: Domain, name: str) -> NDArray[np.float64]:
    """One of GEOMETRY for this rank's host cells, (n,), in the host's order."""
    own = domain.exchange.own
    return {
        "lon": lambda: wrap_longitude(own.centre[0]),
        "lat": lambda: own.centre[1].copy(),
        "area": lambda: domain.placement.host_area[domain.exchange.mine],
        "cell_id": lambda: own.cell_id.astype(np.float64),
        "land_fraction": lambda: own.land_fraction.copy(),
    }[name]()


def known_grid(grid: str) -> str:
    """The name itself where it is one of the two grids; raises UsageError."""
    if grid not in ("fine", "host"):
        raise UsageError(f"unknown grid {grid!r}; grids are 'fine' and 'host'")
    return grid
