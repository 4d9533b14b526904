"""Overlaps kept on disk between runs: one file a patch and grid, named by what it was made from.

The name is a hash of the engine and its version, the method, the grid, the cells and the polygons of the hosts, so a
file is either right or not found; a checksum tells one that was cut or altered, which is then made again. Files are
written aside and renamed: any number of ranks and jobs may share a folder, and one that cannot be written is only read.
"""

import hashlib
import json
import logging
import os
import platform
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ai4land_coupler import __version__
from ai4land_coupler.errors import RegridError
from ai4land_coupler.grids import HostGrid, RegularGrid
from ai4land_coupler.regrid.bounds import Bounds
from ai4land_coupler.regrid.engine import Engine, Patch
from ai4land_coupler.regrid.overlap import Overlap

FORMAT = "ai4land_coupler overlaps 1"
"""What a file says it is; another number makes every older file foreign."""

_METHOD = "first-order conservative, overlap areas in m2"
_PARTS = {"row": ("int32", "int64"), "col": ("int32", "int64"), "area": ("float64",)}

_LOG = logging.getLogger("ai4land_coupler")


class CachedEngine:
    """Another engine with a memory: `coarse` and `fine` of a patch are read from a folder or made and stored there.

    read and made count patches of either grid. What the engine refuses is not stored.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine, self._folder = engine, Path(folder)
        self._writable = True
        self.read = self.made = 0

    @property
    def name(self) -> str:
        """The name of the engine within: what comes from the cache is what it would make."""
        return self._engine.name

    @property
    def area_tolerance(self) -> float:
        """As the engine within."""
        return self._engine.area_tolerance

    def check(self, hosts: HostGrid) -> None:
        """As the engine within."""
        self._engine.check(hosts)

    def area(self, hosts: HostGrid) -> NDArray[np.float64]:
        """As the engine within."""
        return self._engine.area(hosts)

    def bounds(self, hosts: HostGrid, grid: RegularGrid) -> Bounds:
        """As the engine within."""
        return self._engine.bounds(hosts, grid)

    def between(self, source: HostGrid, target: HostGrid) -> Overlap:
        """As the engine within, never from the cache."""
        return self._engine.between(source, target)

    def coarse(self, grid: RegularGrid, patches: Sequence[Patch]) -> list[Overlap]:
        """Overlaps of each patch; those that are not in the folder are made in one call."""
        keys = [patch_key(self.name, "coarse", grid, patch) for patch in patches]
        known = [self._find(key, patch) for key, patch in zip(keys, patches, strict=True)]
        lacking = [i for i, overlap in enumerate(known) if overlap is None]
        if lacking:
            fresh = self._engine.coarse(grid, [patches[i] for i in lacking])
            for i, overlap in zip(lacking, fresh, strict=True):
                known[i] = self._keep(keys[i], overlap)
        return [overlap for overlap in known if overlap is not None]

    def fine(self, grid: RegularGrid, patch: Patch) -> Overlap:
        """Overlaps of one patch of the fine grid."""
        key = patch_key(self.name, "fine", grid, patch)
        known = self._find(key, patch)
        return self._keep(key, self._engine.fine(grid, patch)) if known is None else known

    def report(self) -> None:
        """Say at INFO how much came from the folder so far."""
        _LOG.info("regrid: weights of %d patches read from %s, of %d made", self.read, self._folder, self.made)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"

    def _find(self, key: str, patch: Patch) -> Overlap | None:
        """What the folder has under a key, if it can be trusted."""
        try:
            overlap = load(self._path(key), key, patch.cells.size, patch.hosts.size)
        except RegridError as reason:
            _LOG.warning("regrid.cache: %s; the weights are made again", reason)
            return None
        self.read += overlap is not None
        return overlap

    def _keep(self, key: str, overlap: Overlap) -> Overlap:
        """Store what was made; a folder that takes nothing is said once and left alone."""
        self.made += 1
        if self._writable:
            try:
                store(self._path(key), key, self.name, overlap)
            except OSError as reason:
                self._writable = False
                _LOG.warning("regrid.cache %s takes no files: %s; the weights are not kept", self._folder, reason)
        return overlap


def patch_key(engine: str, kind: str, grid: RegularGrid, patch: Patch) -> str:
    """SHA-256 of everything an engine's answer for a patch follows from, whatever trailing corners pad the polygons."""
    hosts = patch.hosts
    lon, lat = _unpadded(hosts.vertex_lon, hosts.vertex_lat)
    shapes = [grid.nlat, grid.nlon, patch.cells.size, *lon.shape]
    digest = hashlib.sha256(json.dumps([FORMAT, __version__, engine, kind, _METHOD, shapes]).encode())
    for part in (patch.cells, hosts.cell_id, lon, lat):
        digest.update(np.ascontiguousarray(part).reshape(-1).data)
    return digest.hexdigest()


def _unpadded(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Without the last corners that in every cell repeat the one before: other cells' corners widen the array."""
    n = lon.shape[1]
    while n > 3 and (lon[:, n - 1] == lon[:, n - 2]).all() and (lat[:, n - 1] == lat[:, n - 2]).all():
        n -= 1
    return lon[:, :n], lat[:, :n]


def store(path: Path, key: str, engine: str, overlap: Overlap) -> None:
    """Write one overlap aside, under a name no other process has, and rename it. Raises OSError."""
    arrays = {
        "row": _compact(overlap.row, overlap.n_row),
        "col": _compact(overlap.col, overlap.n_col),
        "area": overlap.area,
    }
    about = _about(key, overlap.n_row, overlap.n_col) | {"engine": engine, "checksum": _checksum(arrays)}
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{key[:16]}.{platform.node()}.{os.getpid()}.{uuid.uuid4().hex}.part")
    try:
        aside.write_bytes(save(arrays, about))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def load(path: Path, key: str, n_row: int, n_col: int) -> Overlap | None:
    """Read one overlap, None where there is no such file; RegridError with the reason where it cannot be trusted."""
    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            for name, expected in _about(key, n_row, n_col).items():
                if about.get(name) != expected:
                    raise RegridError(f"{path} is not used: its {name} is {about.get(name)!r}, expected {expected!r}")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as reason:
        raise RegridError(f"{path} cannot be read: {reason}") from reason
    found = {name: str(array.dtype) for name, array in arrays.items()}
    if set(found) != set(_PARTS) or any(found[name] not in kinds for name, kinds in _PARTS.items()):
        raise RegridError(f"{path} is not used: it holds {found}, not row, col and area")
    if about.get("checksum") != _checksum(arrays):
        raise RegridError(f"{path} is damaged: its checksum is {_checksum(arrays)}, expected {about.get('checksum')}")
    try:
        return Overlap(arrays["row"], arrays["col"], arrays["area"], n_row, n_col)
    except RegridError as reason:
        raise RegridError(f"{path} is damaged: {reason}") from reason


def _about(key: str, n_row: int, n_col: int) -> dict[str, str]:
    return {"format": FORMAT, "key": key, "n_row": str(n_row), "n_col": str(n_col)}


def _compact(index: NDArray[np.int64], n: int) -> NDArray[Any]:
    return index.astype(np.int32) if n <= np.iinfo(np.int32).max else index


def _checksum(arrays: dict[str, NDArray[Any]]) -> str:
    value = 0
    for name in sorted(arrays):
        value = zlib.crc32(np.ascontiguousarray(arrays[name]).data, value)
    return f"crc32 {value:08x}"
