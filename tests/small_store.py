"""A small training store: the made-up planet of the small emulator, whose classes move from year to year."""

from pathlib import Path

import numpy as np
import small_emulator
import yaml

from ai4land_coupler.emulator import Emulator
from ai4land_coupler.features import StaticFeatures
from ai4land_coupler.training.store import Layout, Store, write_store


def build(folder: Path, years: int = 5) -> Store:
    """Write the small emulator to folder/small, a store of its statics and of moving classes to folder/store.zarr."""
    small = Emulator.load(small_emulator.build(folder / "small"))
    fine, ratio = small.fine, small_emulator.RATIO
    statics = StaticFeatures(small).window(0, 0, fine.nlat, fine.nlon)
    statics = (statics / np.maximum(statics.std((1, 2), keepdims=True), 1e-3)).astype(np.float16)
    base = small.base_map()
    land = base > 0
    maps = [np.where(land, moved(base, year), 0).astype(np.uint8) for year in range(years)]
    layout = Layout(
        legend=small.legend,
        shape=base.shape,
        ratio=ratio,
        years=tuple(range(2000, 2000 + years)),
        nlat=fine.nlat,
        nlon=fine.nlon,
        channels=small.statics,
        climate_classes=0,
    )
    return write_store(folder / "store.zarr", layout, np.stack(maps), static=statics)


def moved(base: np.ndarray, year: int) -> np.ndarray:
    """Classes after `year` years: each year the first class grows by a cell to the east where the second was."""
    classes = base.copy()
    for _ in range(year):
        grown = (np.roll(classes, 1, axis=1) == 1) & (classes == 2)
        classes[grown] = 1
    return classes


def configure(folder: Path, name: str = "run", **entries: object) -> Path:
    """Write a training configuration of the store in `folder` to folder/NAME.yaml."""
    known: dict[str, object] = {
        "name": "tiny", "store": "store.zarr", "natives": "small", "work": f"{name}/work",
        "emulator": f"{name}/emulator", "widths": [16, 16, 16], "steps": 6, "warmup": 2, "batch": 2,
        "interior": 80, "resolutions": [0.5, 0.25, 0.25], "threads": 1, "log_every": 2, "validate_every": 100,
        "checkpoint_every": 100,
    }  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(known | entries))
    return path
