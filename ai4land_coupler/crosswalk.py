"""Crosswalks: tables from one legend to another, shares in percent, by climate where a constant would be nonsense.

A table is a YAML file, shipped or the user's own: `title`, `sources`, `to` (the target classes) and `percent`, a row a
source class. A row is {target: percent}, or such rows for the Koeppen main groups A to E; each sums to 100. `optional`
names source classes that need not be given, which count as 0 then; `codes` the codes of a file's source classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from ai4land_coupler.errors import ConfigError

SHIPPED = Path(__file__).parent / "crosswalks"
GROUPS = ("A", "B", "C", "D", "E")
"""Koeppen's main groups: tropical, dry, temperate, cold, polar; climate classes 1 to 5 of maps of groups."""

KEYS = ("title", "sources", "to", "percent", "optional", "codes")

Row = Mapping[str, Fraction]


@dataclass(frozen=True, eq=False)
class Crosswalk:
    """A table, checked; use `load`.

    shares (G, K, S): what of each source class is each target class; G is 1, or 5 where it depends on the climate.
    """

    name: str
    title: str
    sources: tuple[str, ...]
    source: tuple[str, ...]
    target: tuple[str, ...]
    shares: NDArray[np.float64]
    optional: tuple[str, ...] = ()
    codes: Mapping[int, str] = field(default_factory=dict)

    @property
    def by_climate(self) -> bool:
        """Whether the shares depend on the climate."""
        return self.shares.shape[0] > 1

    def apply(self, values: NDArray[np.float64], climate: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Take fractions (S, ...) of the source classes to the target's (K, ...).

        climate (5, ...): share of each main group in each cell, summing to 1; needed where `by_climate`. A cell's
        result depends on its own values alone: sums run class by class, element by element.
        """
        flat = values.reshape(len(self.source), -1)
        out = np.zeros((len(self.target), flat.shape[1]))
        fixed = (self.shares == self.shares[0]).all(axis=(0, 1))
        parts = None if climate is None else climate.reshape(len(GROUPS), -1)
        if parts is None and not fixed.all():
            raise ConfigError(f"crosswalk {self.name} depends on the climate, and none is given")
        for s, klass in enumerate(flat):
            for g, shares in enumerate(self.shares[:1] if fixed[s] else self.shares):
                here = klass if fixed[s] or parts is None else klass * parts[g]
                for k in np.flatnonzero(shares[:, s]):
                    out[k] += shares[k, s] * here
        return out.reshape(len(self.target), *values.shape[1:])

    def to(self, legend: Sequence[str]) -> Crosswalk:
        """The same table with the target classes in another order."""
        order = [self.target.index(name) for name in legend]
        return replace(self, target=tuple(legend), shares=self.shares[:, order])

    def table(self) -> str:
        """The table as text: a line a source class and climate, shares in percent."""
        lines = [self.title, ""]
        for s, name in enumerate(self.source):
            rows = self.shares[:, :, s]
            same = bool((rows == rows[0]).all())
            for g, row in enumerate(rows[:1] if same else rows):
                shown = ", ".join(f"{k} {100 * x:.6g}" for k, x in zip(self.target, row, strict=True) if x)
                lines.append(f"{name if g == 0 else '':32s} {'' if same else GROUPS[g]:1s}  {shown}")
        return "\n".join([*lines, "", *(f"Source: {text}" for text in self.sources)])


def matrix(name: str, rows: Mapping[str, Mapping[str, float]], target: Sequence[str]) -> Crosswalk:
    """A table from rows of fractions, which depends on no climate."""
    shares = np.array([[[rows[source].get(k, 0.0) for source in rows] for k in target]])
    return Crosswalk(name, name, (), tuple(rows), tuple(target), shares)


def shipped_names() -> list[str]:
    """Names of the tables in the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def find(name: str | Path) -> Path:
    """The file of a shipped name, or the file of that path. ConfigError where it is neither."""
    shipped, own = SHIPPED / f"{name}.yaml", Path(name)
    if shipped.is_file():
        return shipped
    if own.is_file():
        return own
    raise ConfigError(f"crosswalk {str(name)!r}: neither a file nor shipped; shipped: {', '.join(shipped_names())}")


def load(name: str | Path) -> Crosswalk:
    """Read a shipped table or a file. ConfigError names the row that is wrong."""
    path = find(name)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"crosswalk {path} cannot be read: {error}") from error
    try:
        return _table(path.stem, tree)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ConfigError(f"crosswalk {path}: {error}") from error


def _table(name: str, tree: Any) -> Crosswalk:
    missing = [key for key in KEYS[:4] if not isinstance(tree, dict) or not tree.get(key)]
    strange = sorted(set(tree) - set(KEYS)) if isinstance(tree, dict) else []
    if missing or strange:
        raise ValueError(f"expected the keys {', '.join(KEYS[:4])}, lacks {missing}, has {strange} beside them")
    target, rows = tuple(map(str, tree["to"])), {str(key): row for key, row in tree["percent"].items()}
    source, optional = tuple(rows), tuple(tree.get("optional", ()))
    codes = {int(code): str(klass) for code, klass in tree.get("codes", {}).items()}
    for klass in {*optional, *codes.values()} - set(source):
        raise ValueError(f"{klass!r} is in no row of `percent`")
    if len(set(target)) != len(target):
        raise ValueError(f"`to` names a class twice: {target}")
    groups = GROUPS if any(_by_climate(row) for row in rows.values()) else GROUPS[:1]
    shares = np.zeros((len(groups), len(target), len(source)))
    for s, (klass, row) in enumerate(rows.items()):
        for g, group in enumerate(groups):
            part = _row(klass, group, row, target)
            shares[g, :, s] = [float(part.get(k, Fraction(0)) / 100) for k in target]
    return Crosswalk(
        name, str(tree["title"]), tuple(map(str, tree["sources"])), source, target, shares, optional, codes
    )


def _by_climate(row: Mapping[str, Any]) -> bool:
    return any(isinstance(value, Mapping) for value in row.values())


def _row(klass: str, group: str, row: Mapping[str, Any], target: Iterable[str]) -> Row:
    """The shares of a source class in one climate, exactly as written."""
    if _by_climate(row):
        if sorted(row) != list(GROUPS):
            raise ValueError(f"{klass!r}: expected the climates {', '.join(GROUPS)}, got {', '.join(map(str, row))}")
        row, klass = row[group], f"{klass} {group}"
    strange = sorted(set(row) - set(target))
    if strange:
        raise ValueError(f"{klass!r} leads to {strange}; `to` has {list(target)}")
    part = {k: Fraction(str(value)) for k, value in row.items()}
    total = sum(part.values(), Fraction(0))
    if total != 100 or min(part.values()) < 0:
        raise ValueError(f"{klass!r}: positive shares that sum to 100 are expected, they sum to {float(total):g}")
    return part
