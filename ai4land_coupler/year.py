"""The fields of one year, and the sums that are made of them over tiles and host cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.comm import Communicator
from ai4land_coupler.domain import Domain
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import UsageError
from ai4land_coupler.exchange import hash_all, sum_areas
from ai4land_coupler.grids import wrap_longitude
from ai4land_coupler.placement import Budget
from ai4land_coupler.report import YearReport
from ai4land_coupler.tally import Tally
from ai4land_coupler.tilework import Away, TileFields

Float = NDArray[np.float64]

GEOMETRY = ("lon", "lat", "area", "cell_id", "land_fraction")


@dataclass(frozen=True, eq=False)
class YearFields:
    """The fields of a year, on this rank.

    state (K, n) and columns (K, n) of this rank's host cells; totals (K, w) of the coarse cells it knows and regridded
    (K, m), areas in m2 of the host's classes on those of its tiles; cut (K, m), m2: of the change asked for there, what
    was not made (None but in `change` mode); priors: the map of the year made before around each of its tiles, where
    the network is given one; tiles: one entry for each tile of this rank, in
    order; digest: hash of the fields of all tiles, the same on every rank.
    """

    year: int
    state: NDArray[np.float64]
    totals: NDArray[np.float64]
    regridded: NDArray[np.float64]
    cut: NDArray[np.float64] | None
    priors: list[NDArray[np.uint8]] | None
    tiles: tuple[TileFields, ...]
    columns: NDArray[np.float64]
    digest: str

    def fine(self, k: int, out: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Fractions of class k of this rank's delivered cells, (n_fine,), in `out` where given."""
        first = self.tiles[0].fractions if self.tiles else None
        if isinstance(first, Away):
            return first.of_year(k, np.empty(sum(tile.classes.size for tile in self.tiles)) if out is None else out)
        return np.concatenate([np.empty(0), *(tile.fractions[k] for tile in self.tiles)], out=out)

    def here(self, k: int) -> list[NDArray[np.float64]] | None:
        """The same as it lies in memory, tile after tile; None where it lies in another memory."""
        of_tiles = [tile.fractions for tile in self.tiles]
        return None if any(isinstance(one, Away) for one in of_tiles) else [one[k] for one in of_tiles]

    def classes(self) -> NDArray[np.float64]:
        """Classes of this rank's delivered cells, (n_fine,), counted from 1 in the legend's order."""
        return np.concatenate([np.empty(0), *(tile.classes for tile in self.tiles)])


def host_columns(comm: Communicator, domain: Domain, state: NDArray[np.float64], tallies: Sequence[Tally]) -> Float:
    """Columns (K, n): the mean over the fine land under each host cell, its own state where there is none. Collective.

    state (K, n).
    """
    sums = domain.columns(comm, np.concatenate([np.empty((0, len(state))), *(tally.by_host for tally in tallies)]))
    whole = sums.sum(axis=0)
    mean = np.where(whole > 0, sums / np.where(whole > 0, whole, 1.0), state)
    return np.ascontiguousarray(np.where(domain.hosts.own.land_fraction > 0, mean, 0.0))


def report_of(
    comm: Communicator, domain: Domain, legend: tuple[str, ...], fields: YearFields, tallies: Sequence[Tally],
    seconds: Mapping[str, float],
) -> YearReport:  # fmt: skip
    """A year in numbers. Collective."""
    land = domain.placement.host_area * domain.hosts.own.land_fraction
    nothing = np.zeros((0, len(legend)))
    delivered, filled = (
        np.vstack([nothing, *(getattr(tally, name) for tally in tallies)]).T for name in ("delivered", "filled")
    )
    budget = Budget.of(
        comm, domain.placement, fields.state * land, fields.regridded, fields.totals, delivered, filled, fields.cut
    )  # fmt: skip
    residual = comm.max(max((float(np.abs(tile.residual).max()) for tile in fields.tiles), default=0.0))
    circle = roundtrip(comm, land, fields.state, fields.columns)
    return YearReport(fields.year, legend, budget, residual, circle, seconds)


def roundtrip(
    comm: Communicator, land: NDArray[np.float64], state: NDArray[np.float64], columns: NDArray[np.float64]
) -> float:
    """Half the sum over classes of |column - state|, mean over the host's land, (n,) m2. Collective."""
    moved, whole = sum_areas(comm, (0.5 * np.abs(columns - state).sum(axis=0) * land)[None], land[None])
    return float(moved[0] / max(whole[0], 1.0))


def digest(comm: Communicator, tallies: Sequence[Tally]) -> str:
    """SHA-256 over the fields of the tiles of all ranks. Collective."""
    return hash_all(comm, np.frombuffer(b"".join(tally.bits for tally in tallies), dtype=np.uint8).reshape(-1, 32))


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
    own = domain.hosts.own
    return {
        "lon": lambda: wrap_longitude(own.centre[0]),
        "lat": lambda: own.centre[1].copy(),
        "area": lambda: domain.placement.host_area.copy(),
        "cell_id": lambda: own.cell_id.astype(np.float64),
        "land_fraction": lambda: own.land_fraction.copy(),
    }[name]()


def known_grid(grid: str) -> str:
    """The name itself where it is one of the two grids; raises UsageError."""
    if grid not in ("fine", "host"):
        raise UsageError(f"unknown grid {grid!r}; grids are 'fine' and 'host'")
    return grid
