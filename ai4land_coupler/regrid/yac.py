"""Overlaps with host cells of any shape, through YAC in a process of its own.

Edges of host cells are great circles, as in ESMF. YAC makes the overlaps with the coarse grid, once. Every rank makes
those of its own fine cells, and there a process on each would cost more than the work: a fine cell wholly inside one
host cell counts whole, with its exact latitude-longitude area, and one that host edges cut is shared out by clipping,
scaled to that area (clipping and YAC agree to 1e-11 of a cell). No cell's result depends on the others asked for.
"""

import importlib.metadata
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import GridError, RegridError
from ai4land_coupler.grids import EARTH_RADIUS, HostGrid, RegularGrid
from ai4land_coupler.regrid import child, cover
from ai4land_coupler.regrid.clip import shared_area
from ai4land_coupler.regrid.overlap import Overlap
from ai4land_coupler.regrid.polygons import Polygons

Float = NDArray[np.float64]
Index = NDArray[np.int64]

OVERLAP_TOLERANCE = 1e-4
"""Share of a host cell that another may cover before the grid is refused."""

_LOG = logging.getLogger("ai4land_coupler")
_WHOLE = 1e-9
_SLIVER = 1e-10
_MEND = "install it with `pip install yac` in that environment, or give a weight file with regrid.file"


@dataclass(frozen=True, eq=False)
class Shares:
    """Parts of target cells (row) that source cells (col) cover: row, col (n,) int64 from 0, share (n,) float64."""

    row: Index
    col: Index
    share: Float


class YacEngine:
    """Overlaps with host cells that are polygons of any number of corners, joined by great circles."""

    def __init__(self, host: HostGrid) -> None:
        self._host = host
        self._cells = Polygons.of(host.vertex_lon, host.vertex_lat)
        _refuse_empty(host, self._cells)
        self.name = f"yac {_version()}"

    def coarse(self, coarse: RegularGrid) -> Overlap:
        """Overlap areas of all coarse cells (rows) with the host cells (columns), great circles on both sides."""
        if not self._host.size:
            return Overlap.from_triplets([], [], [], coarse.size, 0)
        cells = cover.within_reach(self._cells, coarse)
        target = Polygons.of_cells(coarse, cells)
        shares, own = shares_by_yac([(self._cells, target), (self._cells, self._cells)])
        _refuse_overlaps(self._host, own)
        area = shares.share * target.area[shares.row] * EARTH_RADIUS**2
        overlap = Overlap.from_triplets(cells[shares.row], shares.col, area, coarse.size, self._host.size)
        _refuse_lost(self._host, overlap.col_sum(), self._cells.area * EARTH_RADIUS**2)
        return overlap

    def fine(self, fine: RegularGrid, cells: Index) -> Overlap:
        """Overlap areas of fine cells (rows, in the order of `cells`) with the host cells (columns), without YAC."""
        cells = np.asarray(cells, dtype=np.int64)
        exact = fine.area_rows[cells // fine.nlon]
        if not (cells.size and self._host.size):
            return Overlap.from_triplets([], [], [], cells.size, self._host.size)
        (whole, owner), (cut, reaching) = cover.split(self._cells, fine, cells)
        cut_cells, at = np.unique(cut, return_inverse=True)
        target = Polygons.of_cells(fine, cells[cut_cells])
        share = shared_area(self._cells, reaching, target, at) / target.area[at]
        share[share < _SLIVER] = 0.0
        covered = np.bincount(at, weights=share, minlength=cut_cells.size)
        share /= np.where(np.abs(covered - 1) < _WHOLE, covered, 1.0)[at]
        blocks = [(whole, owner, exact[whole]), (cut, reaching, share * exact[cut])]
        return Overlap.from_blocks(blocks, cells.size, self._host.size)


def shares_by_yac(tasks: list[tuple[Polygons, Polygons]]) -> list[Shares]:
    """First-order conservative shares for each (source, target), in one process; RegridError where it fails."""
    grids = list(dict.fromkeys(grid for pair in tasks for grid in pair))
    arrays: dict[str, Any] = {"tasks": np.array([[grids.index(grid) for grid in pair] for pair in tasks])}
    for i, grid in enumerate(grids):
        used = np.arange(grid.lon.shape[1]) < grid.count[:, None]
        arrays |= {
            f"lon_{i}": grid.lon[used], f"lat_{i}": grid.lat[used], f"count_{i}": grid.count.astype(np.intc)
        }  # fmt: skip
    limit = 300.0 + 2e-3 * sum(grid.count.size for grid in grids)
    with tempfile.TemporaryDirectory(prefix="ai4land_yac_") as folder:
        given, result, log = Path(folder, "polygons.npz"), Path(folder, "shares.npz"), Path(folder, "log")
        np.savez(given, **arrays)
        _run(given, result, log, limit)
        with np.load(result) as found:
            return [Shares(*(found[f"{part}_{t}"] for part in ("row", "col", "share"))) for t in range(len(tasks))]


def _run(given: Path, result: Path, log: Path, limit: float) -> None:
    python = child.interpreter()
    try:
        status = child.run_module("ai4land_coupler.regrid.yac_worker", [str(given), str(result)], log, limit)
    except TimeoutError as reason:
        raise RegridError(f"YAC ({python}) was stopped: {reason}; give a weight file with regrid.file") from reason
    except OSError as reason:
        raise RegridError(f"{python} could not be started for YAC: {reason}; set AI4LAND_PYTHON") from reason
    if status == 0 and result.exists():
        return
    said = log.read_text(errors="replace").strip()[-2000:] if log.exists() else ""
    if status == child.NO_LIBRARY:
        raise RegridError(f"host cells of this shape need YAC, which {python} lacks: {said}; {_MEND}")
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    raise RegridError(f"YAC failed with {how} under {python}: {said or 'it said nothing'}; {_MEND}")


def _version() -> str:
    try:
        return importlib.metadata.version("yac")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _refuse_empty(host: HostGrid, cells: Polygons) -> None:
    empty = np.flatnonzero(cells.degenerate)
    if empty.size:
        cell = int(host.cell_id[empty[0]])
        raise GridError(f"host cell {cell} has no area: its corners lie on one line ({empty.size} such cells in all)")


def _refuse_overlaps(host: HostGrid, own: Shares) -> None:
    """GridError where a host cell covers more than OVERLAP_TOLERANCE of another."""
    wrong = np.flatnonzero((own.row != own.col) & (own.share > OVERLAP_TOLERANCE))
    if wrong.size:
        worst = wrong[np.argmax(own.share[wrong])]
        first, second = sorted((int(host.cell_id[own.row[worst]]), int(host.cell_id[own.col[worst]])))
        raise GridError(
            f"host cells {first} and {second} overlap by {own.share[worst]:.2g} of the smaller one; "
            "host cells must not overlap"
        )


def _refuse_lost(host: HostGrid, placed: Float, area: Float) -> None:
    """RegridError where the coarse cells did not take up the area of a host cell."""
    off = np.abs(placed / area - 1)
    worst = int(np.argmax(off)) if off.size else 0
    if off.size and off[worst] > 1e-6:
        raise RegridError(
            f"YAC placed {placed[worst] / area[worst]:.9f} of the area of host cell {int(host.cell_id[worst])}; "
            "are its corners in order around the cell?"
        )
    _LOG.debug("host cells keep their area in the coarse cells within %.1e", off.max(initial=0.0))
