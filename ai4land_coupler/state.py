"""The host's state: judged, brought to the emulator's legend, and divided by its sum."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler import climate
from ai4land_coupler.config import StateConfig
from ai4land_coupler.crosswalk import Crosswalk, load, matrix
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import BadInputError, ConfigError
from ai4land_coupler.grids import HostGrid

ROUNDING = 1e-9
"""Negative values down to minus this count as 0."""


@dataclass(frozen=True, eq=False)
class StateLegend:
    """The names a host puts, and the table that takes their fractions to the emulator's legend.

    climate (5, n): share of each climate group in each host cell, where the table depends on it and the grid is known.
    """

    table: Crosswalk
    climate: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, config: StateConfig, legend: Sequence[str]) -> "StateLegend":
        """From the configuration; raises ConfigError where it does not lead to the emulator's legend."""
        if config.crosswalk is None:
            names = tuple(config.legend or legend)
            if sorted(names) != sorted(legend):
                raise ConfigError(
                    f"state.legend {list(names)} must name the emulator's classes {list(legend)} in any order; "
                    "for other classes give `state.crosswalk`"
                )
            return cls(matrix("state.legend", {name: {name: 1.0} for name in names}, legend))
        if isinstance(config.crosswalk, str):
            table = load(config.crosswalk)
            if sorted(table.target) != sorted(legend):
                raise ConfigError(
                    f"state.crosswalk: {config.crosswalk} leads to {list(table.target)}, the emulator's classes are "
                    f"{list(legend)}"
                )
            return cls(table.to(legend))
        strange = sorted({k for row in config.crosswalk.values() for k in row} - set(legend))
        if strange:
            raise ConfigError(f"state.crosswalk leads to {strange}; the emulator knows {list(legend)}")
        return cls(matrix("state.crosswalk", config.crosswalk, legend))

    @property
    def names(self) -> tuple[str, ...]:
        """The names a host puts."""
        return self.table.source

    @property
    def needed(self) -> tuple[str, ...]:
        """Names without those that count as 0 where they are not put."""
        return tuple(name for name in self.names if name not in self.table.optional)

    def on(self, cells: HostGrid, emulator: Emulator) -> "StateLegend":
        """The same on these cells: with their climate, where the table depends on it."""
        return replace(self, climate=climate.of_cells(cells, emulator)) if self.table.by_climate else self


def refuse_missing(values: Mapping[str, NDArray[np.float64]], legend: StateLegend, ncell: int) -> None:
    """BadInputError where a rank with cells has not put every class."""
    missing = [name for name in legend.needed if name not in values]
    if missing and ncell:
        raise BadInputError(f"class {missing[0]!r} was not put since the last step; put {len(missing)}: {missing}")


def judge(
    values: Mapping[str, NDArray[np.float64]],
    legend: StateLegend,
    config: StateConfig,
    cell_id: NDArray[np.int64],
    land_fraction: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The state (K, n) in the emulator's legend, each column a share of land that sums to 1, 0 in cells without land.

    values: {name: (n,)} of this rank's cells, all classes where it has any. Raises BadInputError naming class and cell
    for a value that is not finite, negative or above what the cell holds, and for sums off by more than
    `config.tolerance`.
    """
    if not cell_id.size:
        return np.empty((len(legend.table.target), 0))
    x = np.stack([values[name] if name in values else np.zeros(cell_id.size) for name in legend.names])
    land = land_fraction > 0
    whole = land_fraction if config.fraction_of == "cell" else np.ones_like(land_fraction)
    _refuse(~np.isfinite(x) & land, x, legend, cell_id, "a finite fraction", "look for missing values in the host")
    _refuse((x < -ROUNDING) & land, x, legend, cell_id, "a fraction of at least 0", "clip rounding before put")
    above = (x > whole + config.tolerance) & land
    _refuse(above, x, legend, cell_id, f"at most 1 of the {config.fraction_of}", "check units: fractions, not percent")
    x = np.where(land, np.maximum(x, 0.0), 0.0)
    total = x.sum(axis=0)
    off = np.flatnonzero(land & ((np.abs(total - whole) > config.tolerance) | (total <= 0)))
    if off.size:
        worst = off[np.abs(total - whole)[off].argmax()]
        raise BadInputError(
            f"the classes of host cell {cell_id[worst]} must sum to {whole[worst]:.9g} within {config.tolerance:g} "
            f"(fractions of {config.fraction_of}), they sum to {total[worst]:.9g} ({off.size} cells are off); "
            "check state.fraction_of, or raise state.tolerance"
        )
    x = legend.table.apply(x, legend.climate)
    return x / np.where(land, x.sum(axis=0), 1.0)


def _refuse(
    bad: NDArray[np.bool_],
    x: NDArray[np.float64],
    legend: StateLegend,
    cell_id: NDArray[np.int64],
    want: str,
    mend: str,
) -> None:
    if bad.any():
        klass, cell = (int(i[0]) for i in np.nonzero(bad))
        raise BadInputError(
            f"class {legend.names[klass]!r} of host cell {cell_id[cell]}: expected {want}, got {x[klass, cell]:g} "
            f"({int(bad.sum())} such values); {mend}"
        )
