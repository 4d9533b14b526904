"""How evenly the plugin's own deal spreads the tiles of a finer globe over workers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import GridError
from ai4land_coupler.layout import owners


@dataclass(frozen=True)
class Balance:
    """A deal. tiles: those with land; sea: those without, which cost little; largest: tiles of the worker with most."""

    workers: int
    tiles: int
    sea: int
    largest: int

    @property
    def mean(self) -> float:
        """Tiles with land a worker."""
        return self.tiles / self.workers

    @property
    def ratio(self) -> float:
        """Largest over mean: by how much the slowest worker holds up the others."""
        return self.largest / self.mean


def balance(has_land: NDArray[np.bool_], workers: int) -> Balance:
    """The deal of the tiles of a globe, has_land (n_tiles,), where the host covers all of it."""
    owner = owners(np.ones(has_land.size, bool), has_land.ravel(), range(workers))
    most = int(np.bincount(owner[has_land.ravel()], minlength=workers).max())
    return Balance(workers, int(has_land.sum()), int((~has_land).sum()), most)


def tiles_with_land(land: NDArray[np.bool_], tile: int, step: float) -> NDArray[np.bool_]:
    """Which tiles of `tile` x `tile` cells of `step` degrees hold land of a map (nlat, nlon), (rows, columns).

    A tile that ends within a cell of the map holds that cell too. GridError where tiles do not divide the globe.
    """
    edge = tile * step
    rows, columns = round(180 / edge), round(360 / edge)
    if min(rows, columns) < 1 or abs(rows * edge - 180) > 1e-9 or abs(columns * edge - 360) > 1e-9:
        raise GridError(f"tiles of {tile} cells of {step:g} degrees do not divide the globe; give another tile or step")
    parts = [
        [range(i * n // count, -(-(i + 1) * n // count)) for i in range(count)]
        for n, count in zip(land.shape, (rows, columns), strict=True)
    ]
    bands = np.stack([land[part.start : part.stop].any(axis=0) for part in parts[0]])
    return np.stack([bands[:, part.start : part.stop].any(axis=1) for part in parts[1]], axis=1)
