"""Restart files: the state of a year and what it belongs to; its fields follow from it bit for bit."""

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler import ncfile
from ai4land_coupler.errors import OutputError, RestartError

FORMAT = "ai4land_coupler restart 2"

IDENTITY = ("emulator", "legend", "host_grid", "constraint", "weights")
"""Attributes that must agree for a restart to be accepted."""

DESIGN = "design"
"""What the emulator is beside its weights; attributes that say so let other weights be known as such."""

Variables = dict[str, tuple[tuple[str, ...], NDArray, Mapping[str, str]]]


@dataclass(frozen=True, eq=False)
class Restart:
    """What a run goes on from.

    year: the one whose fields are served, with its state (K, n_host) in order of cell id and the SHA-256 of its fields
    (digest); last: the last year stepped to, later than `year` where fields lag or are held; ahead (K, n_host): the
    state of `last` where its fields are in the making (`lag: 1`); identity: hashes of what it belongs to; first
    (K, n_host): the state of the first year of the run, from which `change` mode counts; prior (nlat, nlon): the class
    map that the network was given for `year`, where it is given one.
    """

    year: int
    state: NDArray[np.float64]
    digest: str
    last: int
    ahead: NDArray[np.float64] | None
    identity: Mapping[str, str]
    provenance: Mapping[str, str]
    first: NDArray[np.float64] | None = None
    prior: NDArray[np.uint8] | None = None

    def write(self, path: Path) -> None:
        """Write aside, read back, and rename; an older file of that name becomes `path`.1. Raises OutputError.

        At no moment is there neither: a run that is killed in here goes on from one of the two.
        """
        aside = path.parent / f"{path.name}.new"
        try:
            _refuse_no_file(path)
            ncfile.write(aside, self._variables(), self._attributes())
            Restart.read(aside, self.identity, allow_other_weights=False)
            if path.exists():
                _keep(path)
            aside.replace(path)
        except (OSError, ValueError, RestartError) as error:
            with contextlib.suppress(OSError, ValueError):
                aside.unlink(missing_ok=True)
            raise OutputError(
                f"restart {path} cannot be written: {error}; free the disk or choose another path"
            ) from error

    def _variables(self) -> Variables:
        about = {"standard_name": "area_fraction", "units": "1"}
        dims = ("class", "host_cell")
        variables: Variables = {
            "year": ((), np.array(self.year, dtype=np.int64), {"long_name": "year whose fields are served"}),
            "last": ((), np.array(self.last, dtype=np.int64), {"long_name": "last year stepped to"}),
            "state": (dims, self.state, {**about, "long_name": "state of `year` in order of host cell id"}),
        }
        if self.ahead is not None:
            variables["ahead"] = (dims, self.ahead, {**about, "long_name": "state of `last`, whose fields are to come"})
        if self.first is not None:
            variables["first"] = (dims, self.first, {**about, "long_name": "state of the first year of the run"})
        if self.prior is not None:
            notes = {"long_name": "class map of the year made before `year`, the base map at first"}
            variables["prior"] = (("lat", "lon"), self.prior, notes)
        return variables

    def _attributes(self) -> dict[str, str]:
        return {
            "format": FORMAT,
            "digest": self.digest,
            "checksum": self._checksum(),
            **{f"identity_{key}": self.identity[key] for key in (*IDENTITY, DESIGN) if key in self.identity},
            **self.provenance,
        }

    def _checksum(self) -> str:
        there = f"{self.ahead is not None}" + ("" if self.first is None else " first")
        there += "" if self.prior is None else " prior"
        whole = hashlib.sha256(f"{self.year} {self.last} {self.digest} {self.state.shape} {there}".encode())
        for part in (self.state, self.ahead, self.first, self.prior):
            if part is not None:
                whole.update(np.ascontiguousarray(part).tobytes())
        return whole.hexdigest()

    @classmethod
    def read(cls, path: Path, identity: Mapping[str, str], allow_other_weights: bool) -> "Restart":
        """Read and check against this run's identity; raises RestartError naming both sides of what differs."""
        try:
            variables, attributes = ncfile.read(path)
        except OSError as error:
            raise RestartError(f"restart {path} cannot be read: {error}") from error
        if str(attributes.get("format")) != FORMAT or not {"year", "last", "state"} <= set(variables):
            raise RestartError(f"{path} is not a restart of this plugin: expected format {FORMAT!r}, "
                               f"got {attributes.get('format')!r}")  # fmt: skip
        found = _content(path, variables, str(attributes.get("digest")))
        if found._checksum() != str(attributes.get("checksum")):
            raise RestartError(f"restart {path} is damaged: its content does not have the checksum it was written with")
        theirs = {key: str(attributes.get(f"identity_{key}")) for key in (*IDENTITY, DESIGN)}
        others = theirs["weights"] != identity["weights"] and theirs[DESIGN] == identity.get(DESIGN)
        for key in IDENTITY:
            passed = others if key == "emulator" else key == "weights" and allow_other_weights
            if theirs[key] != identity[key] and not passed:
                hint = "; set restart.allow_other_weights to accept" if key == "weights" else ""
                raise RestartError(f"restart {path} belongs to another {key}: it has {theirs[key]}, this run has "
                                   f"{identity[key]}{hint}")  # fmt: skip
        if (found.first is None) == (identity["constraint"] == "change"):
            raise RestartError(f"restart {path} is damaged: the state of the first year belongs to `change` mode alone")
        return found


def _content(path: Path, variables: Mapping[str, NDArray], digest: str) -> Restart:
    try:
        year, last = int(variables["year"]), int(variables["last"])
        state, ahead, first = (
            np.ascontiguousarray(variables[name], dtype=np.float64) if name in variables else None
            for name in ("state", "ahead", "first")
        )
        prior = np.ascontiguousarray(variables["prior"], dtype=np.uint8) if "prior" in variables else None
    except (TypeError, ValueError) as error:
        raise RestartError(f"restart {path} is damaged: {error}") from error
    assert state is not None
    return Restart(year, state, digest, last, ahead, {}, {}, first, prior)


def _refuse_no_file(path: Path) -> None:
    """OSError where a restart would take the place of a folder or a device."""
    if not path.name or (path.exists() and not path.is_file()):
        raise OSError("this is not the name of a file")


def _keep(path: Path) -> None:
    """Give the file the name `path`.1 too; where links are not possible, instead."""
    older, link = path.with_name(path.name + ".1"), path.with_name(path.name + ".1.new")
    try:
        link.unlink(missing_ok=True)
        os.link(path, link)
        link.replace(older)
    except OSError:
        path.replace(older)
