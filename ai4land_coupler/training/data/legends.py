"""Legends: from the codes of a class map to the classes of an emulator; tables in YAML, shipped or the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from ai4land_coupler.errors import BadInputError, ConfigError

SHIPPED = Path(__file__).parent / "legends"
UNKNOWN = 255
CODES = 2**16


@dataclass(frozen=True, eq=False)
class Legend:
    """Classes 1..K and the class of each code 0..65535: 0 none, 255 where the table does not have it."""

    name: str
    classes: tuple[str, ...]
    table: NDArray[np.uint8]

    @classmethod
    def load(cls, name: str | Path) -> Legend:
        """A shipped legend or a file with `title`, `sources`, `to` and `codes` {class or none: [codes]}."""
        shipped, own = SHIPPED / f"{name}.yaml", Path(name)
        path = shipped if shipped.is_file() else own
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml")))
            raise ConfigError(f"legend {str(name)!r}: neither a file nor shipped; shipped: {known}")
        try:
            return _legend(path.stem, yaml.safe_load(path.read_text(encoding="utf-8")))
        except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ConfigError(f"legend {path}: {error}") from error

    @classmethod
    def plain(cls, classes: tuple[str, ...]) -> Legend:
        """Codes 1..K as they are, 0 none."""
        return _legend("plain", {"to": classes, "codes": {k: [i] for i, k in enumerate(classes, 1)} | {"none": [0]}})

    def of(self, codes: NDArray[Any], where: str) -> NDArray[np.uint8]:
        """Classes of codes of any shape; -1 counts as none. BadInputError names a code that the table lacks."""
        outside = (codes < -1) | (codes >= CODES)
        if outside.any():
            raise BadInputError(f"{where}: code {codes[outside].flat[0]} is no class code; expected 0 to {CODES - 1}")
        classes = self.table[np.where(codes < 0, 0, codes)]
        if codes.dtype.kind == "i":
            classes[codes < 0] = 0
        strange = classes == UNKNOWN
        if strange.any():
            found = np.unique(codes[strange])[:5].tolist()
            raise BadInputError(f"{where}: codes {found} are not in the legend {self.name}; add them to a legend file")
        return classes


def _legend(name: str, tree: dict[str, Any]) -> Legend:
    classes, table = tuple(map(str, tree["to"])), np.full(CODES, UNKNOWN, np.uint8)
    if not 1 <= len(set(classes)) == len(classes) < UNKNOWN - 1 or "none" in classes:
        raise ValueError(f"`to` needs 1 to 253 distinct classes, none of them `none`, got {list(classes)}")
    for klass, codes in tree["codes"].items():
        if klass != "none" and klass not in classes:
            raise ValueError(f"`codes` has {klass!r}, `to` has {list(classes)}")
        for code in codes:
            if not (isinstance(code, int) and 0 <= code < CODES) or table[code] != UNKNOWN:
                raise ValueError(f"code {code!r} of {klass!r}: expected 0 to {CODES - 1}, each once")
            table[code] = 0 if klass == "none" else 1 + classes.index(klass)
    missing = [klass for klass in classes if klass not in tree["codes"]]
    if missing:
        raise ValueError(f"`codes` says nothing of {missing}")
    return Legend(name, classes, table)
