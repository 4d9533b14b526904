"""What a run leaves behind: a netCDF file a year, report.json, and a line a year on the log."""

import logging
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.comm import Communicator
from ai4land_coupler.config import OutputConfig
from ai4land_coupler.domain import Domain
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.output import YearWriter, write_report
from ai4land_coupler.report import YearReport, run_report
from ai4land_coupler.tiles import Tile
from ai4land_coupler.timing import Stopwatch
from ai4land_coupler.year import YearFields

log = logging.getLogger(__package__)


class Publisher:
    """Writes where `output` asks for it, and tells rank 0's log what each year was."""

    def __init__(
        self, config: OutputConfig | None, emulator: Emulator, provenance: Mapping[str, str], speaks: bool
    ) -> None:
        self._emulator = emulator
        self._provenance = provenance
        self._speaks = speaks
        self._folder = config.folder if config else None
        self._reports: list[YearReport] = []
        self._files: list[str] = []
        self._writer: YearWriter | None = None
        if config:
            self._writer = YearWriter(config.folder, emulator, provenance, config.compression, config.fractions)
            if speaks:
                self._writer.check_writable()

    def write(self, comm: Communicator, domain: Domain, fields: YearFields) -> None:
        """Write the year's file; raises OutputError on every rank. Collective."""
        if self._writer is None:
            return
        own = {cells.tile.index: i for i, cells in enumerate(domain.own)}
        with_fractions = self._writer.has_fractions(fields.year)

        def local(tile: Tile) -> dict[str, NDArray]:
            cells, of_tile = domain.own[own[tile.index]], fields.tiles[own[tile.index]]
            out = {
                "class": cells.grid(of_tile.classes, 0),
                "filled": cells.grid(domain.placement.filled[cells.coarse_of_cell], 0),
            }
            if with_fractions:
                names = zip(self._emulator.legend, of_tile.fractions, strict=True)
                out |= {name: cells.grid(fraction, np.nan) for name, fraction in names}
            return out

        target, residual = self._coarse(comm, domain, fields)
        path = self._writer.write(comm, fields.year, domain.tiles, domain.owner, local, target, residual)
        self._files.append(str(path))

    def tell(self, comm: Communicator, report: YearReport, watch: Stopwatch) -> None:
        """Finish the year's report with its seconds, log it and rewrite report.json. Collective."""
        watch.finish()
        before = self._reports[-1] if self._reports else None
        self._reports.append(report)
        if self._speaks:
            log.info(report.line(before))
        folder = self._folder
        if folder is not None:
            whole = run_report(self._reports, self._provenance, self._files)
            comm.together(lambda: write_report(folder, whole) if self._speaks else None)

    def summarise(self) -> None:
        """Log where the files are."""
        if self._speaks and self._files:
            log.info("%d yearly files and report.json in %s", len(self._files), self._folder)

    def _coarse(
        self, comm: Communicator, domain: Domain, fields: YearFields
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Totals and residuals (K, nlat, nlon) on the coarse grid, NaN where no fine cell is delivered."""
        shape = (len(self._emulator.legend), self._emulator.coarse.nlat, self._emulator.coarse.nlon)
        cells = np.concatenate([np.empty(0, np.int64), *(part.coarse for part in domain.own)])
        own = np.concatenate([np.empty((shape[0], 0)), *(tile.residual for tile in fields.tiles)], axis=1)
        cells, values = comm.gather_concatenated(cells), comm.gather_concatenated(own.T)
        target, residual = np.full((2, shape[0], shape[1] * shape[2]), np.nan)
        target[:, cells], residual[:, cells] = fields.totals[:, cells], values.T
        return target.reshape(shape), residual.reshape(shape)
