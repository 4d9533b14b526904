"""Going on with `ai4land run` from its own restart, once it is sure that this is the same run."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml
from numpy.typing import NDArray

from ai4land_coupler import ncfile
from ai4land_coupler.component import Component
from ai4land_coupler.config import Config
from ai4land_coupler.errors import RestartError
from ai4land_coupler.grids import HostGrid
from ai4land_coupler.restart import IDENTITY, Restart

SAME = 1e-12
"""How far two fractions may be apart and count as one state."""

FREE = {"emulator", "record", "lag", "regrid.cache", "output.folder", "output.behind"}
"""Keys that may differ: the emulator is told by its hash, the others change no field."""

log = logging.getLogger(__package__)


class States(Protocol):
    """What a run reads its years from."""

    @property
    def years(self) -> tuple[int, ...]: ...

    @property
    def grid(self) -> HostGrid: ...

    def read(self, year: int) -> dict[str, NDArray[np.float64]]: ...


def origin(states: Path, interpolate: bool) -> dict[str, str]:
    """What outputs and restarts say of where the states came from."""
    years = "every year, linear between those of the file" if interpolate else "those of the file"
    return {"states_file": states.name, "states_years": years}


def take_up(land: Component, path: Path, states: States) -> bool:
    """Go on from the restart at `path`, or where that is damaged from `path`.1; whether there was one. Collective.

    Raises RestartError, naming both sides, for a restart of another configuration, emulator, grid or other states.
    """
    used = land.agreed(lambda: last_whole(path))
    if used is None:
        return False
    land.agreed(lambda: refuse_another_run(used, land.config, land.origin))
    land.read_restart(used)
    land.together(lambda: _refuse_other_states(land, used, states))
    return True


def last_whole(path: Path) -> Path | None:
    """`path`, where that is damaged or lost `path`.1, and None where neither is there; RestartError for none whole."""
    failure: RestartError | None = None
    for file in (path, path.with_name(path.name + ".1")):
        if not file.exists():
            continue
        try:
            _refuse_damaged(file)
        except RestartError as error:
            failure = failure or error
        else:
            if file != path:
                log.warning("going on from %s: %s", file, failure or f"{path} is not there")
            return file
    if failure is not None:
        raise failure
    return None


def _refuse_damaged(path: Path) -> None:
    try:
        written = ncfile.attributes(path)
    except OSError as error:
        raise RestartError(f"restart {path} cannot be read: {error}") from error
    Restart.read(path, {key: str(written.get(f"identity_{key}")) for key in IDENTITY}, allow_other_weights=False)


def refuse_another_run(path: Path, config: Config, about: Mapping[str, str]) -> None:
    """RestartError where the restart's configuration or `about` differs from this run's in what its fields are of."""
    try:
        written = ncfile.attributes(path)
        theirs = yaml.safe_load(str(written.get("configuration", "")))
    except (OSError, yaml.YAMLError) as error:
        raise RestartError(f"restart {path} cannot be read: {error}") from error
    before, now = _flat(theirs or {}), _flat(yaml.safe_load(config.text()))
    for key in sorted((before.keys() | now.keys()) - FREE):
        if before.get(key) != now.get(key) and not key.startswith("restart."):
            raise RestartError(
                f"restart {path} was written with {key}: {before.get(key)}, this run has {key}: {now.get(key)}; "
                "take up a run with the configuration it began with, or leave --resume out to start anew"
            )
    if written.get("states_years") != about["states_years"]:
        raise RestartError(
            f"restart {path} is of a run through these years: {written.get('states_years')}; this run takes "
            f"{about['states_years']}; take it up with the same --interpolate, or leave --resume out to start anew"
        )


def _refuse_other_states(land: Component, path: Path, states: States) -> None:
    year, kept = land.served_state
    if year not in states.years:
        raise RestartError(
            f"restart {path} is of {year}; the file of states has {min(states.years)}..{max(states.years)} without it"
        )
    found = land.judged(states.read(year))
    off = np.abs(found - kept)
    if off.size and off.max() > SAME:
        k, cell = (int(i) for i in np.unravel_index(int(off.argmax()), off.shape))
        name, where = land.emulator.legend[k], int(states.grid.cell_id[cell])
        raise RestartError(
            f"restart {path} is of other states: in {year} it has {kept[k, cell]:.9g} of {name} in cell {where}, "
            f"the file has {found[k, cell]:.9g} ({int((off.max(axis=0) > SAME).sum())} cells differ); take up a run "
            "with the states it began with, or leave --resume out to start anew"
        )


def _flat(tree: Any, above: str = "") -> dict[str, Any]:
    """A configuration as {"state.tolerance": 1e-5, ...}."""
    if not isinstance(tree, dict):
        return {above: tree}
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= _flat(value, f"{above}.{key}" if above else str(key))
    return out
