"""What `ai4land train` is told: a YAML file, checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from ai4land_coupler.errors import ConfigError
from ai4land_coupler.unetconfig import STRIDE

FACTORS = (1, 2, 4)  #: coarse cells an edge of the three input resolutions, in the order of `resolutions`
PATHS = ("store", "work", "emulator", "natives")
Region = tuple[float, float, float, float]


@dataclass(frozen=True)
class TrainConfig:
    """One training run; paths are relative to the configuration file.

    Regions are lon0, lon1, lat0, lat1 in degrees, or x0, x1, y0, y1 in fine cells of a projected store. `erased` ones
    are zero in the inputs and have no labels, `withheld` ones are inputs and score the run; neither is trained on, nor
    are the `rim` fine cells around them. Schedules go linearly from their first value to their last over the run.
    """

    name: str
    store: Path  # what `ai4land prepare` wrote
    work: Path  # checkpoints, TensorBoard files, log
    emulator: Path  # the folder to write
    natives: Path | None = (
        None  # folder of the statics.nc that the static channels were derived from; else they are stored
    )
    version: str = "1.0"
    widths: tuple[int, int, int] = (48, 96, 192)
    climate_width: int = 8
    seed: int = 1
    steps: int = 3000
    batch: int = 4  # samples a process and pass
    accumulate: int = 1  # passes a step
    learning_rate: float = 2e-3
    warmup: int = 150
    weight_decay: float = 0.02
    clip: float = 1.0  # norm of the gradient
    average: float = 0.998  # decay of the averaged weights
    device: str = "auto"
    precision: str = (
        "auto"  # float32, bfloat16 (in the passes), float64 (to compare); auto: bfloat16 on GPUs that have it
    )
    threads: int = 0  # of torch on a CPU; 0 leaves its choice
    workers: int = 0  # processes that read ahead; 0 is one thread
    prefetch: int = 4  # passes read ahead by each
    years: tuple[int, int] | None = None  # first and last to train on; all
    validation_years: tuple[int, int] | None = None  # never trained on; the base map is the last year before them
    base_year: int | None = None  # of the map that ships; the last one trained on
    coarse: str = "maps"  # what the network is given of the coarse cells: the maps' own totals, or the store's `states`
    crosswalk: Path | None = None  # from the states' legend to the maps': a shipped name or a file
    prior: bool | None = None  # the year before is an input; where the store has several years
    rollout: int = 1  # years a sample
    prior_mask: tuple[float, float] = (0.0, 0.0)  # probability that the map of the year before is hidden
    teacher: tuple[float, float] = (1.0, 1.0)  # that a later year of a sample is given the observed one, not its own
    resolutions: tuple[float, float, float] = (0.6, 0.2, 0.2)  # shares of coarse cells 1, 2 and 4 edges wide
    interior: int | None = None  # fine cells of a crop that are scored; five of the widest coarse cells
    margin: int = 24  # fine cells of context around them
    flips: bool = True
    groups: dict[str, tuple[str, ...]] | None = None  # static channels dropped together
    drop: float = 0.0  # probability that a group is dropped from a sample
    noisy: tuple[str, ...] = ()  # static channels shifted by a number a sample
    noise: float = 0.0  # standard deviation of the shift
    withheld: tuple[Region, ...] = ()
    erased: tuple[Region, ...] = ()
    rim: int = 48
    tile: int | None = None  # of the emulator; the largest that fits up to 400
    halo: int = 48
    validate_every: int = 500
    checkpoint_every: int = 200
    keep: int = 3  # checkpoints
    log_every: int = 20

    def __post_init__(self) -> None:
        probabilities = (*self.prior_mask, *self.teacher, *self.resolutions, self.drop)
        counts = (
            self.batch, self.accumulate, self.rollout, self.keep, self.log_every, self.validate_every,
            self.checkpoint_every, self.prefetch,
        )  # fmt: skip
        expected = {
            f"resolutions: {len(FACTORS)} shares that sum to 1": len(self.resolutions) == len(FACTORS)
            and abs(sum(self.resolutions) - 1) < 1e-9,
            "steps of at least warmup, and 1": self.steps >= max(self.warmup, 1),
            "probabilities from 0 to 1": min(probabilities) >= 0 and max(probabilities) <= 1,
            "counts of at least 1 of what is counted": min(counts) >= 1 and min(self.workers, self.threads) >= 0,
            f"a margin that is a multiple of {STRIDE}": self.margin % STRIDE == 0 and self.margin >= 0,
            "precision auto, float32, bfloat16 or float64": self.precision
            in ("auto", "float32", "bfloat16", "float64"),
            "first and last of years in order": all(
                span is None or (len(span) == 2 and span[0] <= span[1]) for span in (self.years, self.validation_years)
            ),
            "regions of four numbers in order": all(
                len(box) == 4 and box[0] < box[1] and box[2] < box[3] for box in (*self.withheld, *self.erased)
            ),
            "coarse maps, or coarse states with a crosswalk": self.coarse == ("states" if self.crosswalk else "maps"),
            "prior: true for a rollout of several years": self.rollout == 1 or self.prior is not False,
        }
        wrong = [what for what, holds in expected.items() if not holds]
        if wrong:
            raise ConfigError(f"training {self.name}: expected {'; '.join(wrong)}; got {asdict(self)}")

    @classmethod
    def read(cls, path: str | Path) -> TrainConfig:
        """Return the configuration in a YAML file. Raises ConfigError."""
        path = Path(path)
        try:
            entries = yaml.safe_load(path.read_text())
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"{path}: is not YAML: {error}") from error
        known = {field.name for field in fields(cls)}
        if not isinstance(entries, dict) or set(entries) - known:
            found = sorted(set(entries) - known) if isinstance(entries, dict) else entries
            raise ConfigError(f"{path}: unknown entries {found}; known are {sorted(known)}")
        for key in PATHS:
            if entries.get(key) is not None:
                entries[key] = (path.resolve().parent / str(entries[key])).resolve()
        if entries.get("crosswalk") is not None:
            table = Path(str(entries["crosswalk"]))
            named = table.suffix in (".yaml", ".yml") or len(table.parts) > 1
            entries["crosswalk"] = (path.resolve().parent / table).resolve() if named else table
        try:
            return cls(**{name: _frozen(value) for name, value in entries.items()})
        except TypeError as error:
            raise ConfigError(f"{path}: {error}") from error

    def plain(self) -> dict[str, Any]:
        """Return the entries as YAML and JSON can hold them, of paths the last part."""
        return {name: value.name if isinstance(value, Path) else value for name, value in asdict(self).items()}

    @property
    def widest(self) -> int:
        """Coarse cells an edge of the coarsest input used."""
        return max(factor for factor, share in zip(FACTORS, self.resolutions, strict=True) if share > 0)


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(part) for part in value)
    return {name: _frozen(part) for name, part in value.items()} if isinstance(value, dict) else value
