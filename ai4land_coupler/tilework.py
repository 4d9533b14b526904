"""What a tile is refined from in a year, what the network says of it, and what comes of it."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.tally import Tally, TileSums
from ai4land_coupler.tiles import TileCells


@dataclass(frozen=True, eq=False)
class TileWork:
    """What one tile is refined from in a year.

    known (K, w) float64: coarse totals, 0 without land, and where among them those of the tile's coarse cells and of as
    many around them on every side as its halo touches stand: window (ny, nx), -1 past the poles; from_base (m,): coarse
    cells of `cells` that show the base map; before (m, K): the base map's totals there, in `change` mode; prior (ny,
    nx) uint8: for a network that is given it, the class map of the year made before on the tile and its halo, 0 where
    there is none; sums: how its fields are tallied, None where nobody asks.
    """

    cells: TileCells
    known: NDArray[np.float64]
    window: NDArray[np.int64]
    from_base: NDArray[np.bool_]
    before: NDArray[np.float64] | None = None
    prior: NDArray[np.uint8] | None = None
    sums: TileSums | None = None

    @functools.cached_property
    def totals(self) -> NDArray[np.float64]:
        """The totals of the window, (K, ny, nx), 0 past the poles."""
        around = self.known.take(self.window, axis=1)
        if self.window.min(initial=0) < 0:
            around[:, self.window < 0] = 0.0
        return around

    @property
    def rim(self) -> int:
        """Coarse cells around the tile on each side."""
        return (self.window.shape[0] - self.cells.tile.size // self.cells.ratio) // 2

    @functools.cached_property
    def wanted(self) -> NDArray[np.float64]:
        """Totals of the coarse cells of `cells`, (m, K)."""
        row, column = np.divmod(self.cells.blocks, self.cells.tile.size // self.cells.ratio)
        return np.ascontiguousarray(self.totals[:, row + self.rim, column + self.rim].T)


class Away(ABC):
    """Fractions (K, n) of a tile in another memory, as a GPU's; each class comes to this one when it is asked for."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(K, n)."""

    @abstractmethod
    def __getitem__(self, k: int) -> NDArray[np.float64]:
        """Of class k, (n,); IndexError past the last."""

    @abstractmethod
    def of_year(self, k: int, out: NDArray[np.float64]) -> NDArray[np.float64]:
        """Put those of class k of all tiles that were run with this one, tile after tile, into `out`."""

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[np.float64]]:
        return (self[k] for k in range(len(self)))

    def __array__(self, dtype: type | None = None, copy: bool | None = None) -> NDArray:
        return np.stack(list(self)).astype(np.float64 if dtype is None else dtype, copy=False)


@dataclass(frozen=True, eq=False)
class TileFields:
    """What a tile returns for its n delivered cells in m coarse cells.

    fractions (K, n) float64 of land, here or away; classes (n,) uint8, 1-based; residual (K, m) float64: fine minus
    coarse total as a share of the coarse cell's land, 0 where the base map stands in; tally: sums of them, where they
    are asked for.
    """

    fractions: NDArray[np.float64] | Away
    classes: NDArray[np.uint8]
    residual: NDArray[np.float64]
    tally: Tally | None = None


@dataclass(frozen=True, eq=False)
class TileDraft:
    """What the network says of a tile before its totals are known.

    run (r,): which of its m coarse cells were run; logits (K, pixels) of those; means (K, m) float64: area-weighted
    means of the network's fractions in each coarse cell, NaN where it was not run; room (K, n): memory for the
    fractions, where the logits lie in it.
    """

    run: NDArray[np.int64]
    logits: NDArray[np.float32]
    means: NDArray[np.float64]
    room: NDArray[np.float64] | None = None
