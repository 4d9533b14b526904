"""`ai4land run`: the component driven by a netCDF file of coarse states, LUH2's included."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path

from ai4land_coupler import resume
from ai4land_coupler.comm import MPI
from ai4land_coupler.component import Component
from ai4land_coupler.config import Config
from ai4land_coupler.errors import BadInputError, UsageError
from ai4land_coupler.statefile import CoarseStates
from ai4land_coupler.yearly import YearlyStates

FILE_TOLERANCE = 2e-4
"""Default of state.tolerance for files, whose fractions are float32."""

log = logging.getLogger(__package__)


def run(
    config_path: Path,
    states_path: Path,
    read_from: Path | None = None,
    write_to: Path | None = None,
    first: int | None = None,
    last: int | None = None,
    grid: str | None = None,
    every: int | None = None,
    go_on: bool = False,
    interpolate: bool = False,
) -> None:
    """Drive the component through the years of a file, on every rank of MPI_COMM_WORLD; a band of cells a rank.

    grid: the cells that the states are on, a file or `latlon:STEP`, where the states' own file does not say.
    A restart is written to `write_to` at the end and, with `every`, after each so many years; with `go_on` the run
    starts behind that restart where there is one. interpolate: every year, linear between the file's.
    """
    if (every is not None or go_on) and write_to is None:
        raise UsageError("restarts on the way and going on from them need the file they are in: give --restart-to FILE")
    comm = MPI.COMM_WORLD
    config = _with_file_tolerance(Config.load(config_path))
    with Component.init(config, comm) as land:
        legend, fraction_of, ranks = land.legend, config.state.fraction_of, (comm.Get_rank(), comm.Get_size())
        opened = land.together(lambda: CoarseStates.open(states_path, legend, fraction_of, grid, *ranks, land.optional))
        states = YearlyStates(opened) if interpolate else opened
        land.tell_origin(resume.origin(states_path, interpolate))
        land.set_grid(states.grid)
        years = land.together(lambda: _chosen(states.years, first, last, config.time))
        if not (go_on and write_to is not None and resume.take_up(land, write_to, states)) and read_from is not None:
            land.read_restart(read_from)
        ahead = _ahead_of(years, land.last if go_on else None, config.time)
        for year in ahead:
            land.advance(year, land.together(functools.partial(states.read, year)))
            done = years.index(year) + 1
            if write_to is not None and (done == len(years) or (every is not None and done % every == 0)):
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


def _ahead_of(years: Sequence[int], done: int | None, time: str) -> Sequence[int]:
    """The years behind the one that a run went on from, in the direction of time."""
    if done is None:
        return years
    ahead = [year for year in years if (year > done if time == "forward" else year < done)]
    if MPI.COMM_WORLD.Get_rank() == 0:
        log.info("%d of %d years are done, the last is %d; %d are ahead", len(years) - len(ahead), len(years), done,
                 len(ahead))  # fmt: skip
    return ahead
