"""Restart files: the state of a year and what it belongs to; its fields follow from it bit for bit."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler import ncfile
from ai4land_coupler.errors import OutputError, RestartError

FORMAT = "ai4land_coupler restart 1"

IDENTITY = ("emulator", "legend", "host_grid", "constraint", "weights")
"""Attributes that must agree for a restart to be accepted."""


@dataclass(frozen=True, eq=False)
class Restart:
    """state (K, n_host) of `year` in order of cell id; digest: SHA-256 of the year's fields; identity: hashes."""

    year: int
    state: NDArray[np.float64]
    digest: str
    identity: Mapping[str, str]
    provenance: Mapping[str, str]

    def write(self, path: Path) -> None:
        """Write aside and rename; an older file of that name becomes `path`.1. Raises OutputError."""
        checksum = hashlib.sha256(self.state.tobytes()).hexdigest()
        variables = {
            "year": ((), np.array(self.year, dtype=np.int64), {"long_name": "year whose state this is"}),
            "state": (
                ("class", "host_cell"),
                self.state,
                {"standard_name": "area_fraction", "units": "1", "long_name": "state in order of host cell id"},
            ),
        }
        attributes = {
            "format": FORMAT,
            "digest": self.digest,
            "checksum": checksum,
            **{f"identity_{key}": self.identity[key] for key in IDENTITY},
            **self.provenance,
        }
        try:
            if path.exists():
                path.replace(path.with_name(path.name + ".1"))
            ncfile.write(path, variables, attributes)
        except OSError as error:
            raise OutputError(
                f"restart {path} cannot be written: {error}; free the disk or choose another path"
            ) from error

    @classmethod
    def read(cls, path: Path, identity: Mapping[str, str], allow_other_weights: bool) -> "Restart":
        """Read and check against this run's identity; raises RestartError naming both sides of what differs."""
        try:
            variables, attributes = ncfile.read(path)
        except OSError as error:
            raise RestartError(f"restart {path} cannot be read: {error}") from error
        if attributes.get("format") != FORMAT or not {"year", "state"} <= set(variables):
            raise RestartError(f"{path} is not a restart of this plugin: expected format {FORMAT!r}, "
                               f"got {attributes.get('format')!r}")  # fmt: skip
        state = np.ascontiguousarray(variables["state"], dtype=np.float64)
        if hashlib.sha256(state.tobytes()).hexdigest() != attributes.get("checksum"):
            raise RestartError(f"restart {path} is damaged: its state does not have the checksum it was written with")
        theirs = {key: str(attributes.get(f"identity_{key}")) for key in IDENTITY}
        for key in IDENTITY:
            if theirs[key] != identity[key] and not (key == "weights" and allow_other_weights):
                hint = "; set restart.allow_other_weights to accept" if key == "weights" else ""
                raise RestartError(f"restart {path} belongs to another {key}: it has {theirs[key]}, this run has "
                                   f"{identity[key]}{hint}")  # fmt: skip
        return cls(int(variables["year"]), state, str(attributes.get("digest")), theirs, {})
