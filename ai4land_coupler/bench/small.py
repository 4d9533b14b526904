"""A small emulator to try things on: seeded random weights on a made-up planet, of the same form as what ships."""

import hashlib
from dataclasses import asdict
from pathlib import Path

import netCDF4
import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from ai4land_coupler.features import CLIMATE_CLASS, CLIMATE_CLASSES, GROUPS, NATIVES
from ai4land_coupler.unet import UNet
from ai4land_coupler.unetconfig import UNetConfig

LEGEND = ("forest", "grassland", "cropland", "barren")
COARSE = (16, 32)
RATIO = 10
TILE = 40
WIDTHS = (16, 16, 16)
"""Below 16 channels the convolutions of oneDNN take a path whose bits depend on the size of the tile."""


def build(
    folder: Path,
    legend: tuple[str, ...] = LEGEND,
    seed: int = 1,
    coarse: tuple[int, int] = COARSE,
    inputs: tuple[str, ...] = tuple(GROUPS),
    prior: bool = False,
) -> Path:
    """Write an emulator with the static channels of the groups `inputs` into `folder` and return it.

    prior: its network is given the class map of the year before.
    """
    channels = [name for group in GROUPS if group in inputs for name in GROUPS[group]]
    folder.mkdir(parents=True, exist_ok=True)
    fine = (coarse[0] * RATIO, coarse[1] * RATIO)
    lat = -90 + (np.arange(fine[0]) + 0.5) * 180 / fine[0]
    lon = -180 + (np.arange(fine[1]) + 0.5) * 360 / fine[1]
    _write_statics(folder / "statics.nc", lat, lon, seed, [name for group in inputs for name in NATIVES.get(group, ())])
    _write_map(folder / "base_map.nc", lat, lon, planet(lat, lon, len(legend)))
    embedded = CLIMATE_CLASSES if CLIMATE_CLASS in channels else 0
    config = UNetConfig(len(channels), classes=len(legend), widths=WIDTHS, climate_classes=embedded, prior=prior)
    torch.manual_seed(seed)
    state = {name: (1.5 * value).to(torch.bfloat16).contiguous() for name, value in UNet(config).state_dict().items()}
    save_file(state, folder / "weights.safetensors")
    (folder / "training_record.json").write_text('{"note": "random weights"}\n')
    description = {
        "name": "small",
        "version": "0",
        "legend": list(legend),
        "fine": {"nlat": fine[0], "nlon": fine[1]},
        "coarse": {"nlat": coarse[0], "nlon": coarse[1]},
        "tile": TILE,
        "halo": 48,
        "base_year": 2019,
        "unet": asdict(config) | {"widths": list(WIDTHS)},
        "statics": [{"name": name, "mean": 0.0, "std": 1.0} for name in channels],
        "training": {"note": "random weights"},
        "sha256": {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in ("weights.safetensors", "statics.nc", "base_map.nc", "training_record.json")
        },
    }
    (folder / "emulator.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
    return folder


def planet(lat: np.ndarray, lon: np.ndarray, nclass: int) -> np.ndarray:
    """Classes (nlat, nlon), 0 water: continents over the date line and the south pole, mixed and pure coarse cells."""
    y, x = np.radians(lat)[:, None], np.radians(lon)[None, :]
    height = np.sin(2 * x + 1) * np.cos(y) + 0.6 * np.cos(3 * y + x) + 0.5 * np.sin(5 * x) * np.sin(4 * y)
    land = (height > 0.2) | (lat[:, None] < -75)
    kind = np.sin(7 * x + 3 * y) + np.sin(11 * y - 2 * x) + 0.8 * np.sin(40 * x) * np.sin(37 * y)
    classes = 1 + np.clip(((kind + 2.8) / 5.6 * nclass).astype(int), 0, nclass - 1)
    classes[lat < -75] = nclass
    return np.where(land, classes, 0).astype(np.uint8)


TOPS = {"koppen": 6, "climate_class": CLIMATE_CLASSES + 1}  # the highest value of the classes and one more


def _write_statics(path: Path, lat: np.ndarray, lon: np.ndarray, seed: int, names: list[str]) -> None:
    rng = np.random.default_rng(seed)
    with netCDF4.Dataset(path, "w") as file:
        for name, values in (("lat", lat), ("lon", lon)):
            file.createDimension(name, values.size)
            file.createVariable(name, "f8", (name,))[:] = values
        for name in names:
            variable = file.createVariable(name, "i2", ("lat", "lon"))
            variable.set_auto_scale(False)
            values = rng.integers(0, TOPS.get(name, 100), (lat.size, lon.size))
            sparse = rng.random(values.shape) < 0.1 if name in NATIVES["settlements"] else True
            variable[:] = values * sparse
            variable.setncatts({"scale_factor": 1.0 if name in TOPS else 0.02, "add_offset": 0.0})


def _write_map(path: Path, lat: np.ndarray, lon: np.ndarray, classes: np.ndarray) -> None:
    with netCDF4.Dataset(path, "w") as file:
        for name, values in (("lat", lat), ("lon", lon)):
            file.createDimension(name, values.size)
            file.createVariable(name, "f8", (name,))[:] = values
        file.createVariable("class", "u1", ("lat", "lon"))[:] = classes
