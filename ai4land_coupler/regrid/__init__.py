"""Conservative overlaps between host cells and the emulator's grids: three engines behind one interface."""

import logging
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import RegridError
from ai4land_coupler.grids import HostGrid, RegularGrid
from ai4land_coupler.regrid.latlon import LatLonEngine, is_rectangle
from ai4land_coupler.regrid.overlap import Overlap
from ai4land_coupler.regrid.yac import YacEngine

__all__ = ["Engine", "Overlap", "make_engine"]

_LOG = logging.getLogger("ai4land_coupler")


class Engine(Protocol):
    """Makes overlaps with the host cells; local calls without MPI, the same for any batching of the cells."""

    @property
    def name(self) -> str:
        """What stands in log, cache and output."""

    def coarse(self, coarse: RegularGrid) -> Overlap:
        """Row = 0-based cell of the coarse grid, all of them; column = position of the host cell by id."""

    def fine(self, fine: RegularGrid, cells: NDArray[np.int64]) -> Overlap:
        """Row = position in `cells`, distinct 0-based cells of the fine grid; column = position of the host cell."""


class RegridOptions(Protocol):
    """The part of the configuration that chooses an engine."""

    @property
    def engine(self) -> str:
        """auto, latlon, yac or file."""

    @property
    def file(self) -> Path | str | None:
        """A weight file, or none."""


def make_engine(host: HostGrid, options: RegridOptions) -> Engine:
    """The engine for these host cells (all of them, in ascending order of id), by the order of `auto` or by name.

    auto: a given weight file; else exact overlaps where every cell is a latitude-longitude rectangle; else YAC.
    Raises RegridError where the engine cannot serve this host, GridError where cells are empty or overlap.
    """
    if (np.diff(host.cell_id) <= 0).any():
        raise RegridError("the engine needs the host cells in ascending order of id, each once")
    engine, why = _choose(host, options)
    _LOG.info("regrid: engine %s (%s), %d host cells", engine.name, why, host.size)
    return engine


def _choose(host: HostGrid, options: RegridOptions) -> tuple[Engine, str]:
    wanted = options.engine
    if wanted == "file" or (wanted == "auto" and options.file):
        if not options.file:
            raise RegridError("regrid.engine is file but regrid.file names no weight file")
        from ai4land_coupler.regrid.weightfile import FileEngine  # netCDF4 only where it is used

        return FileEngine(host, Path(options.file), lambda: _by_shape(host)[0]), "regrid.file is given"
    if wanted == "auto":
        return _by_shape(host)
    if wanted == "latlon":
        return LatLonEngine(host), "asked for"
    if wanted == "yac":
        return YacEngine(host), "asked for"
    raise RegridError(f"regrid.engine {wanted!r} is not available in this version; use auto, latlon, yac or file")


def _by_shape(host: HostGrid) -> tuple[Engine, str]:
    bad = np.flatnonzero(~is_rectangle(host.vertex_lon, host.vertex_lat))
    if not bad.size:
        return LatLonEngine(host), "every host cell is a latitude-longitude rectangle"
    return YacEngine(host), f"host cell {int(host.cell_id[bad[0]])} is no latitude-longitude rectangle"
