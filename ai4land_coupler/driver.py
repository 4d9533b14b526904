"""`ai4land run`: the component driven by a netCDF file of coarse states, LUH2's included."""

import functools
from collections.abc import Sequence
from pathlib import Path

from ai4land_coupler.comm import MPI
from ai4land_coupler.component import Component
from ai4land_coupler.config import Config
from ai4land_coupler.errors import BadInputError
from ai4land_coupler.statefile import CoarseStates

FILE_TOLERANCE = 2e-4
"""Default of state.tolerance for files, whose fractions are float32."""


def run(
    config_path: Path,
    states_path: Path,
    read_from: Path | None = None,
    write_to: Path | None = None,
    first: int | None = None,
    last: int | None = None,
    grid: str | None = None,
) -> None:
    """Drive the component through the years of a file, on every rank of MPI_COMM_WORLD; a band of cells a rank.

    grid: the cells that the states are on, a file or `latlon:STEP`, where the states' own file does not say.
    """
    comm = MPI.COMM_WORLD
    config = _with_file_tolerance(Config.load(config_path))
    with Component.init(config, comm) as land:
        legend, fraction_of, ranks = land.legend, config.state.fraction_of, (comm.Get_rank(), comm.Get_size())
        states = land.together(lambda: CoarseStates.open(states_path, legend, fraction_of, grid, *ranks))
        land.set_grid(states.grid)
        if read_from is not None:
            land.read_restart(read_from)
        for year in _chosen(states.years, first, last, config.time):
            land.step(year, land.together(functools.partial(states.read, year)))
        if write_to is not None:
            land.write_restart(write_to)


def _with_file_tolerance(config: Config) -> Config:
    if "tolerance" in config.state.model_fields_set:
        return config
    return config.model_copy(update={"state": config.state.model_copy(update={"tolerance": FILE_TOLERANCE})})


def _chosen(available: Sequence[int], first: int | None, last: int | None, time: str) -> Sequence[int]:
    first, last = first if first is not None else min(available), last if last is not None else max(available)
    inside = sorted(year for year in available if first <= year <= last)
    if not inside:
        raise BadInputError(f"no year of {first}..{last} is in the file; it has {min(available)}..{max(available)}")
    return inside if time == "forward" else inside[::-1]
