"""What a run leaves behind: its years as netCDF files or in a zarr store, report.json, and a line a year on the log."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.behind import Behind
from ai4land_coupler.comm import Communicator
from ai4land_coupler.config import OutputConfig
from ai4land_coupler.domain import Domain
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import ConfigError
from ai4land_coupler.outfields import OpenYear, Writer
from ai4land_coupler.output import YearWriter, read_report, write_report
from ai4land_coupler.report import YearReport, run_report
from ai4land_coupler.tiles import Tile
from ai4land_coupler.timing import Stopwatch
from ai4land_coupler.year import YearFields

log = logging.getLogger(__package__)


class Publisher:
    """Writes where `output` asks for it, and tells rank 0's log what each year was."""

    def __init__(
        self,
        config: OutputConfig | None,
        emulator: Emulator,
        provenance: Mapping[str, str],
        speaks: bool,
        backward: bool = False,
        change: bool = False,
    ) -> None:
        self._emulator = emulator
        self._provenance = provenance
        self._speaks = speaks
        self._folder = config.folder if config else None
        self._last: YearReport | None = None
        self._entries: list[dict[str, object]] = []
        self._files: list[str] = []
        self._writer: Writer | None = None
        self._behind = Behind(config.behind) if config and config.behind and speaks else None
        if config:
            self._writer = replace(_writer(config, emulator, provenance, backward), change=change)
            if speaks:
                self._writer.check_writable()

    def know(self, provenance: Mapping[str, str]) -> None:
        """Take up what is known of the run once there is a grid."""
        self._provenance = provenance
        if self._writer is not None:
            self._writer = replace(self._writer, provenance=provenance)
        if self._behind is not None:
            self._behind.start()

    def write(self, comm: Communicator, domain: Domain, fields: YearFields, year: int, held: str = "") -> None:
        """Write the file of a year, with why its fields are held if so; OutputError on every rank. Collective.

        Behind the step it is only handed over, once there is room; the error may be that of a year before.
        """
        if self._writer is None:
            return
        own = {cells.tile.index: i for i, cells in enumerate(domain.own)}
        with_fractions = self._writer.has_fractions(year)

        def local(tile: Tile) -> dict[str, NDArray]:
            cells, of_tile = domain.own[own[tile.index]], fields.tiles[own[tile.index]]
            out = {
                "class": cells.grid(of_tile.classes, 0),
                "filled": cells.grid(domain.filled_of(own[tile.index]), 0),
            }
            if with_fractions:
                names = zip(self._emulator.legend, of_tile.fractions, strict=True)
                out |= {name: cells.grid(fraction, np.nan) for name, fraction in names}
            return out

        coarse = self._coarse(comm, domain, fields)
        path = self._writer.write(comm, year, domain.tiles, domain.owner, local, coarse, held, self._begin)
        if str(path) not in self._files:
            self._files.append(str(path))

    def tell(self, comm: Communicator, report: YearReport, watch: Stopwatch) -> None:
        """Finish the year's report with its seconds, log it and rewrite report.json. Collective."""
        watch.finish()
        entries: list[dict[str, object]] = []
        with comm.whole():
            line = report.line(self._last) if self._speaks else ""
            if self._folder is not None and self._speaks:
                entries = [*(entry for entry in self._entries if entry["year"] != report.year), report.entry()]
                self._report(self._folder, run_report(entries, self._provenance, self._files))
        self._entries, self._last = entries, report
        if self._speaks:
            log.info(line)

    def heed(self) -> None:
        """Raise the OutputError of a year written behind the step that failed, once, without waiting. Local."""
        if self._behind is not None:
            self._behind.heed()

    def settle(self) -> None:
        """Wait until all years are on disk; raises as `heed` does. Local."""
        if self._behind is not None:
            self._behind.settle()

    def close(self) -> None:
        """End what writes behind the step, once all years are on disk. Local."""
        if self._behind is not None:
            self._behind.close()

    def go_on(self, year: int) -> None:
        """Keep what report.json of this grid and emulator says of the years up to `year`, for a run taken up there."""
        if self._folder is None or not self._speaks:
            return
        same = ("emulator_hash", "host_grid")
        before = read_report(self._folder)
        if any(before["provenance"].get(name) != self._provenance.get(name) for name in same):
            return
        years = [entry["year"] for entry in before["years"]]
        if year in years:
            self._entries = before["years"][: years.index(year) + 1]
            again = {str(self._writer.path(late)) for late in years[years.index(year) + 1 :]} if self._writer else set()
            self._files = [path for path in before["files"] if path not in again]

    def summarise(self) -> None:
        """Log where the files are."""
        if self._speaks and self._files:
            there = sum(Path(name).exists() for name in self._files)
            log.info("%d %s and report.json in %s", there, self._writer and self._writer.kind, self._folder)

    def _begin(self, year: int, tiles: Sequence[Tile], held: str) -> OpenYear:
        """Begin a year on rank 0, behind the step or in it."""
        assert self._writer is not None
        return (self._behind.open(self._writer, year, tiles, held) if self._behind
                else self._writer.open(year, tiles, held))  # fmt: skip

    def _report(self, folder: Path, report: Mapping[str, object]) -> None:
        if self._behind is None or not self._behind.report(folder, report):
            write_report(folder, report)

    def _coarse(self, comm: Communicator, domain: Domain, fields: YearFields) -> dict[str, NDArray[np.float64]]:
        """What lies on the coarse grid of rank 0, (K, nlat, nlon) each, NaN where there is none. Collective."""
        shape = (len(self._emulator.legend), self._emulator.coarse.nlat, self._emulator.coarse.nlon)
        cells = np.concatenate([np.empty(0, np.int64), *(part.coarse for part in domain.own)])
        inner = np.concatenate([np.empty(0, np.int64), *domain.inner])
        residual = np.concatenate([np.empty((shape[0], 0)), *(tile.residual for tile in fields.tiles)], axis=1)
        lost = np.flatnonzero((domain.placement.own_land == 0) & (fields.regridded > 0).any(axis=0))
        out = {
            "target": _on_coarse(comm, shape, cells, fields.totals[:, inner]),
            "residual": _on_coarse(comm, shape, cells, residual),
            "unplaced": _on_coarse(comm, shape, domain.placement.cells[lost], fields.regridded[:, lost]),
        }
        if fields.cut is not None:
            out["cut"] = _on_coarse(comm, shape, cells, fields.cut[:, inner])
        return out


def _writer(config: OutputConfig, emulator: Emulator, provenance: Mapping[str, str], backward: bool) -> Writer:
    """The writer of the format asked for. Raises ConfigError where its package is missing."""
    given = config.folder, emulator, provenance, config.compression, config.fractions
    if config.format == "netcdf":
        return YearWriter(*given)
    try:
        from ai4land_coupler.zarrout import ZarrWriter
    except ImportError as error:
        raise ConfigError(
            f"output.format: zarr needs the package zarr, version 3 ({error}): pip install 'ai4land_coupler[zarr]', or "
            "choose netcdf"
        ) from error
    return ZarrWriter(*given, backward=backward)


def _on_coarse(
    comm: Communicator, shape: tuple[int, int, int], cells: NDArray[np.int64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Values (K, m) of every rank's coarse cells on the whole grid (K, nlat, nlon), NaN elsewhere, on rank 0."""
    cells, values = comm.gather(cells), comm.gather(values.T).T
    out = np.full((shape[0], shape[1] * shape[2] if comm.rank == 0 else 0), np.nan)
    out[:, cells] = values
    return out.reshape(shape) if comm.rank == 0 else out
