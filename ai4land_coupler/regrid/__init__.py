"""Conservative overlaps between host cells and the emulator's grids: several engines behind one interface."""

import logging
from pathlib import Path
from typing import Protocol

from ai4land_coupler.errors import RegridError
from ai4land_coupler.regrid.engine import Engine, Patch
from ai4land_coupler.regrid.latlon import LatLonEngine, is_rectangle
from ai4land_coupler.regrid.overlap import Overlap

__all__ = ["Engine", "Overlap", "Patch", "esmf_wanted", "is_rectangle", "make_engine"]

_LOG = logging.getLogger("ai4land_coupler")


class RegridOptions(Protocol):
    """The part of the configuration that chooses an engine."""

    @property
    def engine(self) -> str:
        """auto, latlon, esmf, yac or file."""

    @property
    def file(self) -> Path | None:
        """A weight file, or none."""

    @property
    def cache(self) -> Path | None:
        """A folder that keeps overlaps from run to run, or none."""


def make_engine(options: RegridOptions, odd: int | None, lacks_esmf: str | None) -> Engine:
    """The engine that `options` ask for; the same on every rank where the arguments are.

    odd: id of a host cell that is no latitude-longitude rectangle, the lowest over all ranks; None where all are.
    lacks_esmf: why some rank cannot use ESMF; None where all can.
    auto: a given weight file; else exact overlaps where every cell is a rectangle; else ESMF; else YAC.
    Raises RegridError where the engine asked for cannot serve these cells or this machine.
    """
    engine, why = _choose(options, odd, lacks_esmf)
    _LOG.info("regrid: engine %s (%s)", engine.name, why)
    if options.cache is None:
        return engine
    from ai4land_coupler.regrid.cache import CachedEngine

    return CachedEngine(engine, Path(options.cache))


def esmf_wanted(options: RegridOptions, odd: int | None) -> bool:
    """Whether `make_engine` needs to know what ESMF lacks here."""
    return options.engine == "esmf" or (options.engine in ("auto", "file") and odd is not None)


def _choose(options: RegridOptions, odd: int | None, lacks_esmf: str | None) -> tuple[Engine, str]:
    """The engine and the reason for it; modules that need another library are imported only where it is used."""
    wanted = options.engine
    if wanted == "file" or (wanted == "auto" and options.file):
        if not options.file:
            raise RegridError("regrid.engine is file but regrid.file names no weight file")
        from ai4land_coupler.regrid.fileengine import FileEngine

        polygons, why = _by_shape(odd, lacks_esmf)
        why = f"regrid.file is given; what it lacks by {polygons.name}: {why}"
        return FileEngine(Path(options.file), polygons), why
    if wanted == "auto":
        return _by_shape(odd, lacks_esmf)
    if wanted == "latlon":
        return _latlon(odd), "asked for"
    if wanted == "esmf":
        return _esmf(lacks_esmf), "asked for"
    if wanted == "yac":
        return _yac(), "asked for"
    raise RegridError(f"regrid.engine {wanted!r} is unknown; use auto, latlon, esmf, yac or file")


def _by_shape(odd: int | None, lacks_esmf: str | None) -> tuple[Engine, str]:
    if odd is None:
        return LatLonEngine(), "every host cell is a latitude-longitude rectangle"
    shape = f"host cell {odd} is no latitude-longitude rectangle"
    if lacks_esmf is None:
        return _esmf(None), shape
    return _yac(), f"{shape}; ESMF cannot be used: {lacks_esmf}"


def _latlon(odd: int | None) -> Engine:
    if odd is not None:
        raise RegridError(
            f"regrid.engine is latlon but host cell {odd} is no latitude-longitude rectangle; use regrid.engine: auto"
        )
    return LatLonEngine()


def _esmf(lacks: str | None) -> Engine:
    if lacks is not None:
        raise RegridError(
            f"regrid.engine is esmf but ESMF cannot be used: {lacks}; mend that (`ai4land doctor` says how) or use "
            "regrid.engine: auto"
        )
    from ai4land_coupler.regrid import esmf

    return esmf.engine()


def _yac() -> Engine:
    from ai4land_coupler.regrid import yac

    return yac.engine()
