"""The configuration: one YAML file, validated; pydantic and PyYAML are imported here only."""

import difflib
import os
import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from ai4land_coupler.errors import ConfigError


class Section(BaseModel):
    """Frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Table = Annotated[
    Annotated[dict[str, dict[str, float]], Tag("(mapping)")] | Annotated[str, Tag("(name)")],
    Discriminator(lambda value: "(name)" if isinstance(value, str) else "(mapping)"),
]
"""A crosswalk: the name of a shipped one, a file, or {source: {target: share}} itself."""


class StateConfig(Section):
    """What the host puts: names, meaning and tolerance of its fractions."""

    legend: tuple[str, ...] | None = None
    crosswalk: Table | None = None
    fraction_of: Literal["land", "cell"] = "land"
    tolerance: Annotated[float, Field(gt=0, lt=0.1)] = 1e-5

    @model_validator(mode="after")
    def _check(self) -> "StateConfig":
        if self.legend is not None and self.crosswalk is not None:
            raise ValueError("give `legend` or `crosswalk`, not both: the keys of the crosswalk are the legend")
        for name, row in (self.crosswalk if isinstance(self.crosswalk, dict) else {}).items():
            if abs(sum(row.values()) - 1.0) > 1e-9 or min(row.values(), default=0.0) < 0:
                raise ValueError(f"crosswalk: the shares of {name!r} must be positive and sum to 1, got {row}")
        return self


class RegridConfig(Section):
    """How host cells are put on the coarse grid."""

    engine: Literal["auto", "latlon", "esmf", "yac", "file"] = "auto"
    file: Path | None = None
    cache: Path | None = None
    coverage: Literal["any", "global"] = "any"

    @model_validator(mode="after")
    def _check(self) -> "RegridConfig":
        if (self.engine == "file") and self.file is None:
            raise ValueError("`engine: file` needs `file`, a weight file in ESMF or SCRIP names")
        return self


class ConstraintConfig(Section):
    """How fine fractions are tied to the coarse totals."""

    mode: Literal["level", "change", "none"] = "level"


class WorkersConfig(Section):
    """Ranks that run the U-Net, and their threads."""

    per_device: Annotated[int, Field(ge=1)] = 1
    threads: Annotated[int, Field(ge=1, le=1024)] = 1


class OutputConfig(Section):
    """Where the years go, a netCDF file each or all in a zarr store, and which hold fractions beside the class map.

    behind: how many years may be written while the run goes on; 0: a step ends when its year is on disk.
    """

    folder: Path
    format: Literal["netcdf", "zarr"] = "netcdf"
    fractions: Literal["none", "all"] | tuple[int, ...] = "none"
    compression: Annotated[int, Field(ge=0, le=9)] = 1
    behind: Annotated[int, Field(ge=0, le=100)] = 1


class RestartConfig(Section):
    """Whether a restart made with other weights is accepted."""

    allow_other_weights: bool = False


class Config(Section):
    """The whole configuration; `emulator` is the only key a user must give."""

    emulator: str
    state: StateConfig = StateConfig()
    time: Literal["forward", "backward"] = "forward"
    regrid: RegridConfig = RegridConfig()
    constraint: ConstraintConfig = ConstraintConfig()
    workers: WorkersConfig = WorkersConfig()
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    lag: Literal[0, 1] = 0
    on_bad_input: Literal["fail", "hold"] = "fail"
    record: Path | None = None
    output: OutputConfig | None = None
    restart: RestartConfig = RestartConfig()

    @classmethod
    def load(cls, path: str | Path) -> "Config":
        """Read a YAML file; relative paths in it refer to its folder. Raises ConfigError."""
        path = Path(path)
        try:
            return cls.parse(path.read_text(encoding="utf-8"), path.resolve().parent, source=str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"configuration {path} cannot be read: {error}") from error

    @classmethod
    def parse(cls, text: str, folder: Path, source: str = "configuration") -> "Config":
        """Validate YAML text; relative paths refer to `folder`. ConfigError names the key and the nearest one."""
        try:
            tree = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
            raise ConfigError(f"{source} is not valid YAML: {error}") from error
        if not isinstance(tree, dict):
            raise ConfigError(f"{source} must be a mapping with at least the key `emulator`, got {type(tree).__name__}")
        return validated(cls, _absolute(tree, folder), source)

    def text(self) -> str:
        """The whole configuration as YAML, defaults included; stands in every output as provenance."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


Model = TypeVar("Model", bound=Section)


def validated(model: type[Model], tree: dict[str, Any], source: str) -> Model:
    """The section that a mapping describes. ConfigError names the source and the key, and the nearest one known."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{source}: " + "; ".join(_explain(entry, model) for entry in error.errors())) from error


PATH_KEYS = {"regrid": ("file", "cache"), "output": ("folder",)}


def _absolute(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same tree with relative paths resolved; a folder given as emulator counts as one where it holds a slash."""
    out = dict(tree)
    for section, keys in PATH_KEYS.items():
        part = out.get(section)
        if isinstance(part, dict):
            out[section] = part | {k: str(folder / part[k]) for k in keys if isinstance(part.get(k), str)}
    state = out.get("state")
    if isinstance(state, dict) and isinstance(state.get("crosswalk"), str) and _is_path(state["crosswalk"]):
        out["state"] = state | {"crosswalk": str(folder / state["crosswalk"])}
    if isinstance(out.get("record"), str):
        out["record"] = str(folder / out["record"])
    emulator = out.get("emulator")
    if isinstance(emulator, str) and (os.sep in emulator or emulator.startswith(".")):
        out["emulator"] = str((folder / emulator).resolve())
    return out


def _is_path(name: str) -> bool:
    """Whether a crosswalk is a file rather than a shipped name."""
    return os.sep in name or name.endswith((".yaml", ".yml"))


def _explain(entry: Any, model: type[Section]) -> str:
    where = ".".join(str(part) for part in entry["loc"] if part not in ("(mapping)", "(name)"))
    if entry["type"] == "extra_forbidden":
        known = _keys_at(model, entry["loc"][:-1])
        near = difflib.get_close_matches(str(entry["loc"][-1]), known, n=1, cutoff=0.0)
        return f"unknown key `{where}`; did you mean `{near[0]}`? known here: {', '.join(known)}"
    if entry["type"] == "missing":
        return f"the key `{where}` is required"
    got = f", got {_shown(entry['input'])}" if not isinstance(entry["input"], dict) else ""
    message = entry["msg"].removeprefix("Value error, ")
    return f"{where}: {message}{got}" if where else message


def _shown(value: Any) -> str:
    """A value as it stands in the file, cut to fit a line, whatever it is."""
    try:
        return reprlib.repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"a very long {type(value).__name__}"


def _keys_at(root: type[Section], location: tuple[Any, ...]) -> list[str]:
    model: Any = root
    for part in location:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        options = getattr(annotation, "__args__", (annotation,))
        models = [a for a in options if isinstance(a, type) and issubclass(a, Section)]
        if not models:
            return []
        model = models[0]
    return list(model.model_fields)
