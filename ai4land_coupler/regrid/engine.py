"""What every engine does: overlaps between host cells and cells of the emulator's grids, a patch at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import RegridError
from ai4land_coupler.grids import HostGrid, RegularGrid
from ai4land_coupler.regrid.bounds import Bounds
from ai4land_coupler.regrid.overlap import Overlap

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Patch:
    """Cells of a regular grid that are regridded together, and the host cells that may reach them.

    cells (m,) int64, 0-based, distinct, ascending; hosts in ascending order of id. Nothing that is computed for a
    patch depends on anything else, so it is the same on whatever rank and beside whatever other patches.
    Raises RegridError where cells or hosts are in another order.
    """

    cells: NDArray[np.int64]
    hosts: HostGrid

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", np.ascontiguousarray(self.cells, dtype=np.int64))
        for name, order in (("cells", self.cells), ("host cell ids", self.hosts.cell_id)):
            wrong = np.flatnonzero(np.diff(order) <= 0)
            if wrong.size:
                first, second = order[wrong[0]], order[wrong[0] + 1]
                raise RegridError(f"{name} of a patch must ascend without repetition, got {second} after {first}")


class Engine(Protocol):
    """Makes overlaps; local calls without MPI."""

    @property
    def name(self) -> str:
        """What stands in log, cache and output: "latlon", "esmf 8.9.0", "yac 3.21.0", "file NAME sha256:..."."""

    def check(self, hosts: HostGrid) -> None:
        """Look at cells one by one: GridError or RegridError names the first that cannot be regridded."""

    def area(self, hosts: HostGrid) -> Float:
        """Areas of the cells by this engine, (n,), m2; of a cell that is whole in the overlaps, their sum."""

    @property
    def area_tolerance(self) -> float:
        """Share of a cell's `area` by which the overlaps of a whole cell may differ from it."""

    def bounds(self, hosts: HostGrid, grid: RegularGrid) -> Bounds:
        """Boxes around the cells; those whose boxes touch a block of cells of `grid` are given with its patch."""

    def coarse(self, grid: RegularGrid, patches: Sequence[Patch]) -> list[Overlap]:
        """For each patch: row = position in `patch.cells`, column = position in `patch.hosts`.

        Raises GridError where host cells of a patch overlap, RegridError where the engine fails.
        """

    def fine(self, grid: RegularGrid, patch: Patch) -> Overlap:
        """The same for one patch of a grid much finer than the host, where a cell inside one host cell counts whole."""

    def between(self, source: HostGrid, target: HostGrid) -> Overlap:
        """Any grid to any grid: row = position in `target`, column = position in `source`."""
