"""Conservative weights from a netCDF file in the names of ESMF (CESM, TempestRemap) or SCRIP (CDO, OASIS, YAC).

Meaning of the addresses: the source address of a link is the `cell_id` of a host cell, the destination address a cell
of the emulator's coarse grid, west to east from 180 W, then south to north from 90 S, both counted from 1. Links of
cells that the host does not have (its sea cells, where only land is coupled) are left out.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import RegridError
from ai4land_coupler.grids import EARTH_RADIUS, HostGrid, RegularGrid, wrap_longitude
from ai4land_coupler.regrid.overlap import Overlap

Float = NDArray[np.float64]
Index = NDArray[np.int64]

_LOG = logging.getLogger("ai4land_coupler")
_NAMES = {
    "row": ("row", "dst_address"),
    "col": ("col", "src_address"),
    "weight": ("S", "remap_matrix"),
    "area": ("area_b", "dst_grid_area"),
    "covered": ("frac_b", "dst_grid_frac"),
    "lon": ("xc_b", "dst_grid_center_lon"),
    "lat": ("yc_b", "dst_grid_center_lat"),
    "n_source": ("n_a", "src_grid_size"),
    "n_target": ("n_b", "dst_grid_size"),
}

AREA_TOLERANCE = 0.02
"""How far a file's target areas may be from the coarse grid's: great-circle edges, not another grid."""

SUM_TOLERANCE = 1e-6
"""How far row sums may be from what the normalisation says."""


@dataclass(frozen=True, eq=False)
class Links:
    """What a weight file holds. row, col (n,) int64 from 0; weight (n,) float64; the rest where the file has it.

    area (n_target,) in steradians, covered (n_target,) the covered part of each target cell, lon and lat (n_target,)
    its centre in degrees, normalisation in lower case.
    """

    row: Index
    col: Index
    weight: Float
    n_source: int | None
    n_target: int | None
    area: Float | None
    covered: Float | None
    lon: Float | None
    lat: Float | None
    normalisation: str | None


def read_links(path: Path) -> Links:
    """Read a weight file of either family; RegridError where it is none or damaged."""
    try:
        with netCDF4.Dataset(path) as data:
            data.set_auto_mask(False)
            return _links(data, path)
    except (OSError, RuntimeError, IndexError, ValueError) as reason:
        raise RegridError(f"regrid.file {path} cannot be read as netCDF: {reason}") from reason


def _links(data: Any, path: Path) -> Links:
    known = {key: next((n for n in names if n in data.variables), None) for key, names in _NAMES.items()}
    lacking = [" or ".join(_NAMES[key]) for key in ("row", "col", "weight") if known[key] is None]
    if lacking:
        raise RegridError(
            f"regrid.file {path} is no weight file: it has no variable {', '.join(lacking)}; "
            "ESMF names (row, col, S) or SCRIP names (dst_address, src_address, remap_matrix) are expected"
        )

    def variable(key: str) -> Float | None:
        name = known[key]
        return None if name is None else np.asarray(data.variables[name][:], dtype=np.float64).ravel()

    def degrees(key: str) -> Float | None:
        value = variable(key)
        unit = str(getattr(data.variables[known[key]], "units", "degrees")) if known[key] else ""
        return np.degrees(value) if value is not None and unit.startswith("rad") else value

    def size(key: str) -> int | None:
        return next((len(data.dimensions[n]) for n in _NAMES[key] if n in data.dimensions), None)

    matrix = data.variables[known["weight"]]
    if matrix.ndim > 1 and matrix.shape[1] != 1:
        raise RegridError(
            f"regrid.file {path} has {matrix.shape[1]} weights a link (num_wgts): second-order weights do not keep "
            "fractions within 0..1; make first-order conservative weights"
        )
    row, col = (np.asarray(data.variables[known[key]][:], dtype=np.int64).ravel() - 1 for key in ("row", "col"))
    weight = np.asarray(matrix[:], dtype=np.float64).ravel()
    if not row.size == col.size == weight.size:
        raise RegridError(f"regrid.file {path}: {row.size} rows, {col.size} columns and {weight.size} weights")
    rule = getattr(data, "normalization", None)
    return Links(
        row, col, weight, size("n_source"), size("n_target"), variable("area"), variable("covered"),
        degrees("lon"), degrees("lat"), str(rule).strip().lower() if rule is not None else None,
    )  # fmt: skip


class FileEngine:
    """The host's weights from a file; fine overlaps come from the polygons."""

    def __init__(self, host: HostGrid, path: Path, polygons: Callable[[], Any]) -> None:
        self._host, self._path, self._polygons = host, Path(path), polygons
        try:
            digest = hashlib.sha256(self._path.read_bytes()).hexdigest()
        except OSError as reason:
            raise RegridError(f"regrid.file {path} cannot be read: {reason}") from reason
        self._engine: Any = None
        self.name = f"file {self._path.name} sha256:{digest}"

    def coarse(self, coarse: RegularGrid) -> Overlap:
        """Overlap areas of the coarse cells (rows) with the host cells (columns), from the file."""
        links = read_links(self._path)
        _check(links, self._path, coarse)
        covered = _covered(links, self._path, coarse)
        area = _target_area(links, self._path, coarse)
        column = self._columns(links)
        used = column >= 0
        shared = links.weight * (covered * area)[links.row]
        return Overlap.from_triplets(links.row[used], column[used], shared[used], coarse.size, self._host.size)

    def fine(self, fine: RegularGrid, cells: Index) -> Overlap:
        """Overlap areas of fine cells (rows, in the order of `cells`) with the host cells, from the polygons."""
        if self._engine is None:
            self._engine = self._polygons()
        return self._engine.fine(fine, cells)

    def _columns(self, links: Links) -> Index:
        """Position of each link's source among the host cells, -1 where the host has no such cell."""
        ids = self._host.cell_id
        n_source = links.n_source or int(links.col.max(initial=-1)) + 1
        if ids.size and ids[-1] > n_source:
            raise RegridError(
                f"regrid.file {self._path} is for {n_source} source cells but the host has cell id {int(ids[-1])}; "
                "source addresses are the host's cell ids"
            )
        position = np.full(n_source, -1, dtype=np.int64)
        position[ids - 1] = np.arange(ids.size)
        column = position[links.col]
        without = np.setdiff1d(np.arange(ids.size), column)
        without = without[self._host.land_fraction[without] > 0]
        if without.size:
            raise RegridError(
                f"regrid.file {self._path} has no weight for host cell {int(ids[without[0]])}, which has land "
                f"({without.size} such cells); source addresses are the host's cell ids"
            )
        return column


def _check(links: Links, path: Path, coarse: RegularGrid) -> None:
    """RegridError naming the first thing that is wrong with the numbers."""
    n_target = coarse.size if links.n_target is None else links.n_target
    if n_target != coarse.size:
        raise RegridError(
            f"regrid.file {path} is for {n_target} target cells, the emulator's coarse grid has {coarse.size} "
            f"({coarse.nlat} x {coarse.nlon})"
        )
    if not links.row.size:
        raise RegridError(f"regrid.file {path} has no links")
    for name, index, limit in (("target", links.row, coarse.size), ("source", links.col, links.n_source)):
        if index.min() < 0 or (limit is not None and index.max() >= limit):
            raise RegridError(
                f"regrid.file {path}: {name} addresses must be in 1..{limit}, got {index.min() + 1}..{index.max() + 1}"
            )
    wrong = np.flatnonzero(~((links.weight >= 0) & (links.weight <= 1 + 1e-10)))
    if wrong.size:
        link = wrong[0]
        raise RegridError(
            f"regrid.file {path}: weight {links.weight[link]} of link {link + 1} (source cell {links.col[link] + 1}) "
            f"is not in 0..1 ({wrong.size} such links); first-order conservative weights are expected"
        )
    for name, part in (("area", links.area), ("fraction", links.covered), ("longitude", links.lon)):
        if part is not None and (part.size != coarse.size or not np.isfinite(part).all()):
            raise RegridError(f"regrid.file {path}: target {name} needs {coarse.size} finite values")
    if links.lon is not None and links.lat is not None:
        _check_centres(links.lon, links.lat, path, coarse)


def _check_centres(lon: Float, lat: Float, path: Path, coarse: RegularGrid) -> None:
    north, east = np.repeat(coarse.lat, coarse.nlon), np.tile(coarse.lon, coarse.nlat)
    apart = np.maximum(np.abs(lat - north), np.abs(wrap_longitude(lon - east)) * np.cos(np.radians(north)))
    cell = int(np.argmax(apart))
    if apart[cell] > 0.1 * 180.0 / coarse.nlat:
        raise RegridError(
            f"regrid.file {path}: target cell {cell + 1} lies at {lon[cell]:.4f} E {lat[cell]:.4f} N, expected "
            f"{east[cell]:.4f} E {north[cell]:.4f} N: cells must run west to east from 180 W, then south to north"
        )


def _target_area(links: Links, path: Path, coarse: RegularGrid) -> Float:
    """Area of each coarse cell, m2: the file's own, which its weights refer to, else the exact one."""
    exact = np.repeat(coarse.area_rows, coarse.nlon)
    if links.area is None:
        return exact
    area = links.area * EARTH_RADIUS**2
    used = np.unique(links.row)
    off = np.abs(area[used] / exact[used] - 1)
    if off.max() > AREA_TOLERANCE:
        cell = int(used[np.argmax(off)])
        raise RegridError(
            f"regrid.file {path}: target cell {cell + 1} has area {links.area[cell]:.6g}, expected "
            f"{exact[cell] / EARTH_RADIUS**2:.6g} steradians; another grid, another order or another unit"
        )
    return area


def _covered(links: Links, path: Path, coarse: RegularGrid) -> Float:
    """What a link's weight is to be multiplied by to be a share of its whole target cell.

    With FRACAREA the weights of a cell sum to 1 and this is its covered part, taken as 1 where the file does not say;
    with DESTAREA they sum to the covered part and this is 1.
    """
    sums = np.bincount(links.row, weights=links.weight, minlength=coarse.size)
    used = np.unique(links.row)
    rule = links.normalisation
    if rule not in (None, "fracarea", "destarea"):
        raise RegridError(f"regrid.file {path}: normalization is {rule!r}, expected fracarea or destarea")
    sums_to_one = np.abs(sums[used] - 1).max() <= SUM_TOLERANCE
    sums_to_covered = links.covered is not None and np.abs(sums - links.covered)[used].max() <= SUM_TOLERANCE
    at_most_one = sums[used].max() <= 1 + SUM_TOLERANCE
    if rule is None:
        rule = "fracarea" if sums_to_one and not sums_to_covered else "destarea"
    holds = sums_to_one if rule == "fracarea" else at_most_one and (links.covered is None or sums_to_covered)
    if not holds:
        cell = int(used[np.argmax(np.abs(sums[used] - 1))])
        raise RegridError(
            f"regrid.file {path}: weights of target cell {cell + 1} sum to {sums[cell]:.8g}, which {rule} "
            "weights do not; the file is damaged or not conservative"
        )
    if rule == "fracarea" and links.covered is None:
        _LOG.warning("%s does not say how much of its target cells is covered; taken as all of each", path)
    if rule == "destarea" or links.covered is None:
        return np.ones(coarse.size)
    return links.covered
