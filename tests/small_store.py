"""A small training store: the made-up planet of the small emulator, whose classes move from year to year."""

from pathlib import Path

import numpy as np
import small_emulator
import yaml

from ai4land_coupler.emulator import Emulator
from ai4land_coupler.features import CLIMATE_CLASS, CLIMATE_CLASSES, GROUPS, StaticFeatures
from ai4land_coupler.training.data.store import Layout, Store, write_store

COARSE = (8, 16)


def build(folder: Path, years: int = 5, climate: bool = False) -> Store:
    """Write the small emulator to folder/small, a store of its statics and of moving classes to folder/store.zarr."""
    inputs = tuple(group for group in GROUPS if climate or group != CLIMATE_CLASS)
    small = Emulator.load(small_emulator.build(folder / "small", coarse=COARSE, inputs=inputs))
    base, fine = small.base_map(), small.fine
    statics = StaticFeatures(small).window(0, 0, fine.nlat, fine.nlon)
    layout = Layout(
        legend=small.legend,
        shape=base.shape,
        ratio=small_emulator.RATIO,
        years=tuple(range(2000, 2000 + years)),
        nlat=fine.nlat,
        nlon=fine.nlon,
        channels=small.statics[:-1] if climate else small.statics,
        climate_classes=CLIMATE_CLASSES if climate else 0,
    )
    maps = np.stack([moved(base, year) for year in range(years)])
    static = statics[: len(layout.channels)].astype(np.float16)
    return write_store(folder / "store.zarr", layout, maps, static, statics[-1].astype(np.uint8) if climate else None)


def moved(base: np.ndarray, year: int) -> np.ndarray:
    """Classes after `year` years: each year the first class grows by a cell to the east where the second was."""
    classes = base.copy()
    for _ in range(year):
        classes[(np.roll(classes, 1, axis=1) == 1) & (classes == 2)] = 1
    return classes


def configure(folder: Path, name: str = "run", **entries: object) -> Path:
    """Write a training configuration of the store in `folder` to folder/NAME.yaml."""
    known: dict[str, object] = {
        "name": "tiny", "store": "store.zarr", "natives": "small", "work": f"{name}/work",
        "emulator": f"{name}/emulator", "widths": [16, 16, 16], "steps": 6, "warmup": 2, "batch": 2,
        "interior": 40, "resolutions": [0.5, 0.25, 0.25], "threads": 1, "log_every": 2, "validate_every": 100,
        "checkpoint_every": 100, "withheld": [[0, 60, 0, 40]], "rim": 8, "prefetch": 2,
    }  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(known | entries))
    return path
