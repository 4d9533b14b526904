"""Conservative weights in netCDF files: read in the names of ESMF and of SCRIP, written in those of ESMF.

ESMF's names are those of TempestRemap, xESMF and CESM too, SCRIP's those of CDO, OASIS3-MCT and YAC. A link says which
part of its target cell (`row`) takes the value of its source cell (`col`), both counted from 1 in the file's order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

from ai4land_coupler import ncfile
from ai4land_coupler.damage import refuse_damaged
from ai4land_coupler.errors import RegridError
from ai4land_coupler.grids import EARTH_RADIUS, HostGrid, wrap_longitude
from ai4land_coupler.regrid.overlap import Overlap

Float = NDArray[np.float64]
Index = NDArray[np.int64]

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
_UNSAID = ("unknown", "ovarea", "")
_SECOND = "second-order weights do not keep fractions within 0..1; make first-order conservative weights"

SUM_TOLERANCE = 1e-6
"""How far row sums may be from what the normalisation says."""

COVER_TOLERANCE = 0.02
"""How far beyond 1 the covered part of a target cell may be: areas of one file by another's edges."""


@dataclass(frozen=True, eq=False)
class Links:
    """What a weight file holds, checked as far as it can be without the grids.

    row, col (n,) int64 from 0; weight (n,) float64, 0 to 1. Where the file has them: area (n_target,) in steradians,
    covered (n_target,) the covered part of each target cell, lon and lat (n_target,) its centre in degrees.
    normalisation is fracarea (the weights of a target cell sum to 1), destarea (to its covered part) or None.
    """

    path: Path
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

    def __post_init__(self) -> None:
        if not self.row.size == self.col.size == self.weight.size:
            sizes = f"{self.row.size} rows, {self.col.size} columns and {self.weight.size} weights"
            raise self.error(f"{sizes}; one of each a link is expected")
        if not self.row.size:
            raise self.error("it has no links")
        self._check_addresses("target", self.row, self.n_target)
        self._check_addresses("source", self.col, self.n_source)
        self._check_target_values()
        wrong = np.flatnonzero(~((self.weight >= 0) & (self.weight <= 1 + 1e-10)))
        if wrong.size:
            link = int(wrong[0])
            raise self.error(
                f"weight {self.weight[link]} of link {link + 1} (source cell {self.col[link] + 1}, target cell "
                f"{self.row[link] + 1}) is not in 0..1 ({wrong.size} such links); first-order conservative weights are"
                " expected"
            )

    def error(self, reason: str) -> RegridError:
        """The error that names this file."""
        return RegridError(f"regrid.file {self.path}: {reason}")

    def _check_addresses(self, name: str, index: Index, size: int | None) -> None:
        if index.min() < 0 or (size is not None and index.max() >= size):
            limit = "" if size is None else size
            raise self.error(f"{name} addresses must be in 1..{limit}, got {index.min() + 1}..{index.max() + 1}")

    def _check_target_values(self) -> None:
        centre = ("longitude", self.lon), ("latitude", self.lat)
        for name, part in (("area", self.area), ("fraction", self.covered), *centre):
            if part is not None and (part.size != self.n_target or not np.isfinite(part).all()):
                raise self.error(f"target {name} needs {self.n_target} finite values")
        if self.covered is not None:
            part = self.covered[self.row]
            wrong = np.flatnonzero((part < 0) | (part > 1 + COVER_TOLERANCE))
            if wrong.size:
                cell = int(self.row[wrong[0]])
                raise self.error(f"the covered part {self.covered[cell]:.6g} of target cell {cell + 1} is not in 0..1")

    def rule(self) -> str:
        """fracarea or destarea, by the weights where the file does not say; RegridError where they are neither."""
        sums = np.bincount(self.row, weights=self.weight)
        used = np.unique(self.row)
        off_one = np.abs(sums[used] - 1)
        above_one = np.maximum(sums[used] - 1, 0)
        off_covered = above_one if self.covered is None else np.abs(sums[used] - self.covered[used])
        rule = self.normalisation
        if rule is None:
            one = off_one.max() <= SUM_TOLERANCE
            covered = self.covered is not None and off_covered.max() <= SUM_TOLERANCE
            rule = "fracarea" if one and not covered else "destarea"
        off = off_one if rule == "fracarea" else np.maximum(above_one, off_covered)
        if off.max() > SUM_TOLERANCE:
            cell = int(used[np.argmax(off)])
            raise self.error(
                f"weights of target cell {cell + 1} sum to {sums[cell]:.8g}, which {rule} weights do not; "
                "the file is damaged or not conservative"
            )
        return rule

    def shares(self) -> Float:
        """Part of its whole target cell that each link stands for, (n,), whatever the normalisation.

        With fracarea a target cell counts as covered whole where the file does not say how much of it is.
        """
        if self.rule() == "destarea" or self.covered is None:
            return self.weight
        return self.weight * self.covered[self.row]


def read_links(path: Path) -> Links:
    """Read a weight file of either family; RegridError where it is none, damaged or not first-order conservative."""
    try:
        refuse_damaged(path)
        with netCDF4.Dataset(path) as data:
            data.set_auto_mask(False)
            attributes = {name: data.getncattr(name) for name in data.ncattrs()}
            _refuse_method(attributes, path)
            return _links(data, attributes, Path(path))
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, MemoryError) as reason:
        raise RegridError(f"regrid.file {path} cannot be read as netCDF: {reason}") from reason


def _links(data: Any, attributes: Mapping[str, Any], path: Path) -> Links:
    known = {key: next((n for n in names if n in data.variables), None) for key, names in _NAMES.items()}
    lacking = [" or ".join(_NAMES[key]) for key in ("row", "col", "weight") if known[key] is None]
    if lacking:
        raise RegridError(
            f"regrid.file {path} is no weight file: it has no variable {', '.join(lacking)}; "
            "ESMF names (row, col, S) or SCRIP names (dst_address, src_address, remap_matrix) are expected"
        )
    _refuse_fields(data, path)

    def variable(key: str) -> Float | None:
        name = known[key]
        return None if name is None else np.asarray(data.variables[name][:], dtype=np.float64).ravel()

    def degrees(key: str) -> Float | None:
        value = variable(key)
        unit = str(getattr(data.variables[known[key]], "units", "degrees")) if known[key] else ""
        return np.degrees(value) if value is not None and unit.startswith("rad") else value

    def size(key: str) -> int | None:
        return next((len(data.dimensions[n]) for n in _NAMES[key] if n in data.dimensions), None)

    row, col = (_address(data.variables[known[key]][:], path, str(known[key])) for key in ("row", "col"))
    weight = _first_order(data.variables[known["weight"]], path)
    area, rule = variable("area"), str(attributes.get("normalization", "")).strip().lower()
    if rule == "none":
        weight, rule = _of_areas(weight, row, area, path), "destarea"
    if rule not in ("fracarea", "destarea", *_UNSAID):
        raise RegridError(f"regrid.file {path}: normalization is {rule!r}, expected fracarea, destarea or none")
    return Links(
        path, row, col, weight, size("n_source"), size("n_target"), area, variable("covered"),
        degrees("lon"), degrees("lat"), None if rule in _UNSAID else rule,
    )  # fmt: skip


def _address(values: NDArray[Any], path: Path, name: str) -> Index:
    """Addresses counted from 0, whatever number type the file keeps them in."""
    whole = np.asarray(values).ravel()
    if whole.dtype.kind == "f" and not (np.isfinite(whole) & (whole == np.round(whole))).all():
        raise RegridError(f"regrid.file {path}: {name} holds numbers that are no addresses; whole ones are expected")
    return whole.astype(np.int64) - 1


def _first_order(matrix: Any, path: Path) -> Float:
    if matrix.ndim > 1 and matrix.shape[1] != 1:
        raise RegridError(
            f"regrid.file {path} has {matrix.shape[1]} weights a link (num_wgts): {_SECOND}; where a coupler used the "
            "first alone (OASIS: CONSERV with FIRST), keep it alone: ncks -d num_wgts,0 IN OUT"
        )
    return np.asarray(matrix[:], dtype=np.float64).ravel()


def _of_areas(weight: Float, row: Index, area: Float | None, path: Path) -> Float:
    """Shares of target cells from weights that are areas (normalization none)."""
    if area is None or not row.size or row.min() < 0 or row.max() >= area.size or not (area[row] > 0).all():
        raise RegridError(
            f"regrid.file {path}: with normalization none weights are areas, and dst_grid_area of every target cell is "
            "needed to make shares of them; give weights with normalization fracarea"
        )
    return weight / area[row]


def _refuse_method(attributes: Mapping[str, Any], path: Path) -> None:
    """RegridError where the file says that its weights are not first-order conservative."""
    said = {name: str(value).strip() for name, value in attributes.items()}
    for name in ("ESMF_regrid_method", "map_method"):
        method = said.get(name, "").lower()
        if "second" in method or "2nd" in method:
            raise RegridError(f"regrid.file {path}: {name} is {said[name]!r}: {_SECOND}")
        if method and "conserv" not in method:
            raise RegridError(
                f"regrid.file {path}: {name} is {said[name]!r}, which does not keep areas; first-order conservative "
                "weights are expected"
            )
    for name, largest in (("remap_order", 1), ("np_src", 1)):  # of CDO, of TempestRemap
        if said.get(name, "").isdigit() and int(said[name]) > largest:
            raise RegridError(f"regrid.file {path}: {name} is {said[name]}: {_SECOND}")
    for name in ("type_src", "type_dst"):
        if said.get(name, "fv").lower() != "fv":
            raise RegridError(f"regrid.file {path}: {name} is {said[name]!r}, cells (fv) are expected, not nodes")
    for name in ("no_conserve", "noconserve"):
        if said.get(name, "").lower() == "true":
            raise RegridError(f"regrid.file {path}: {name} is true; conservative weights are expected")


def _refuse_fields(data: Any, path: Path) -> None:
    """RegridError where a file of YAC is for several source fields or for values at points other than cells."""
    fields = len(data.dimensions["num_src_fields"]) if "num_src_fields" in data.dimensions else 1
    if fields != 1:
        raise RegridError(f"regrid.file {path} has weights of {fields} source fields (num_src_fields), expected 1")
    for name in ("src_locations", "dst_location"):
        if name in data.variables:
            where = b"".join(np.asarray(data.variables[name][:], dtype="S1").ravel()).decode().strip("\0 ")
            if where.upper() != "CELL":
                raise RegridError(f"regrid.file {path}: {name} is {where!r}, weights between cells are expected")


def write(
    path: Path,
    overlap: Overlap,
    source: HostGrid,
    target: HostGrid,
    areas: tuple[Float, Float],
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    attributes: Mapping[str, str],
) -> None:
    """Write overlaps as FRACAREA weights in ESMF's full layout, aside and renamed.

    overlap: row = position in target, col = position in source; areas (n_source,) and (n_target,) in m2 by the engine
    that made it; shapes of both grids in their files, last dimension fastest. Raises RegridError where the disk fails.
    """
    covered = overlap.row_sum()
    variables = _side("a", "src", source, areas[0], overlap.col_sum(), shapes[0])
    variables |= _side("b", "dst", target, areas[1], covered, shapes[1])
    for name, position in (("col", overlap.col), ("row", overlap.row)):
        kind = np.int32 if position.max(initial=0) < np.iinfo(np.int32).max else np.int64
        variables[name] = (("n_s",), (position + 1).astype(kind), {})
    variables["S"] = (("n_s",), overlap.area / covered[overlap.row], {})
    said = {
        "title": "ai4land_coupler conservative weights",
        "normalization": "fracarea",
        "map_method": "Conservative remapping",
        "ESMF_regrid_method": "First-order Conservative",
        "conventions": "NCAR-CSM",
    }
    try:
        ncfile.write(Path(path), variables, said | dict(attributes))
    except OSError as reason:
        raise RegridError(f"weight file {path} cannot be written: {reason}") from reason


def _side(letter: str, word: str, grid: HostGrid, area: Float, shared: Float, shape: tuple[int, ...]) -> dict[str, Any]:
    """The variables that describe one grid: its letter in most names, its word in the others."""
    if int(np.prod(shape)) != grid.size or area.shape != (grid.size,):
        raise RegridError(f"a grid of {grid.size} cells has neither shape {shape} nor areas {area.shape}")
    lon, lat = _centres(grid)
    cell, corner = (f"n_{letter}",), (f"n_{letter}", f"nv_{letter}")
    degrees = {"units": "degrees"}
    return {
        f"{word}_grid_dims": ((f"{word}_grid_rank",), np.array(shape[::-1], dtype=np.int32), {}),
        f"xc_{letter}": (cell, lon, degrees),
        f"yc_{letter}": (cell, lat, degrees),
        f"xv_{letter}": (corner, grid.vertex_lon, degrees),
        f"yv_{letter}": (corner, grid.vertex_lat, degrees),
        f"mask_{letter}": (cell, (grid.land_fraction > 0).astype(np.int32), {"units": "unitless"}),
        f"area_{letter}": (cell, area / EARTH_RADIUS**2, {"units": "square radians"}),
        f"frac_{letter}": (cell, shared / area, {"units": "unitless"}),
    }


def _centres(grid: HostGrid) -> tuple[Float, Float]:
    """Longitude and latitude of the cells' centres, degrees: the middle of a lat-lon box, else the mean in space."""
    if not grid.size:
        return np.zeros(0), np.zeros(0)
    mean_lon, mean_lat = grid.centre
    east, north = wrap_longitude(grid.vertex_lon - mean_lon[:, None]), grid.vertex_lat
    half = np.abs(east).max(1, keepdims=True)
    south, top = north.min(1, keepdims=True), north.max(1, keepdims=True)
    on_meridian = (np.abs(np.abs(east) - half) < 1e-9).all(1) & (half[:, 0] < 90)
    box = on_meridian & (np.minimum(north - south, top - north) < 1e-9).all(1)
    return mean_lon, np.where(box, 0.5 * (south + top)[:, 0], mean_lat)
