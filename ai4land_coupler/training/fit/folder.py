"""The emulator folder that a run ends with: weights, static fields, base map, record, description."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from netCDF4 import Dataset
from numpy.typing import NDArray
from safetensors.torch import save_file

from ai4land_coupler.emulator import FILES, sha256_of
from ai4land_coupler.errors import ConfigError
from ai4land_coupler.features import CHANNELS, CLIMATE_CLASS, CLIMATE_CLASSES, Channel
from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.training.data.store import Store
from ai4land_coupler.training.fit.crops import Crops, Years
from ai4land_coupler.training.fit.package import commit, processor
from ai4land_coupler.training.fit.states import States
from ai4land_coupler.training.fit.trainconfig import TrainConfig
from ai4land_coupler.unet import UNet
from ai4land_coupler.unetconfig import RECEPTIVE_FIELD, STRIDE

if TYPE_CHECKING:
    from ai4land_coupler.training.fit.train import Trainer

LARGEST_TILE = 400
STRIP = 128  #: rows held in memory at once


def is_global(store: Store) -> bool:
    """Return whether the store covers a global latitude-longitude grid, as an emulator must."""
    layout = store.layout
    return layout.kind == "latlon" and layout.shape == (layout.nlat, layout.nlon)


def check(config: TrainConfig) -> None:
    """Raise ConfigError before a run whose emulator could not be written after it."""
    store = Store.open(config.store)
    States.of(Crops(store, config), Years.of(config, store))
    if not store.statics:
        raise ConfigError(f"{store.path} has no static channels: the network needs one at least; prepare it with some")
    if not is_global(store):
        return
    tile_of(config, store)
    if config.halo % STRIDE or config.halo < RECEPTIVE_FIELD:
        raise ConfigError(f"halo {config.halo}: expected a multiple of {STRIDE}, at least {RECEPTIVE_FIELD}")
    if store.climate_classes not in (0, CLIMATE_CLASSES):
        raise ConfigError(f"{store.path} has {store.climate_classes} climate classes, an emulator {CLIMATE_CLASSES}")
    if config.natives is not None:
        unknown = [name for name in store.statics if name not in CHANNELS]
        if unknown or not (config.natives / "statics.nc").is_file():
            raise ConfigError(
                f"natives {config.natives}: expected statics.nc there, and channels made from it, not {unknown}; "
                "without natives the static channels of the store are put into the emulator as they are"
            )


def tile_of(config: TrainConfig, store: Store) -> int:
    """Return fine cells an edge of the emulator's tiles. Raises ConfigError where none fits."""
    step = int(np.lcm(store.ratio, STRIDE))
    fits = [n for n in range(step, LARGEST_TILE + 1, step) if store.shape[0] % n == 0 and store.shape[1] % n == 0]
    chosen = config.tile or max(fits, default=0)
    if chosen < 1 or chosen % step or store.shape[0] % chosen or store.shape[1] % chosen:
        raise ConfigError(
            f"tile {config.tile}: expected a multiple of {step} that divides {store.shape[0]} x {store.shape[1]} cells"
        )
    return chosen


def write_emulator(trainer: Trainer, scores: dict[str, float]) -> Path:
    """Write the folder of the configuration from the averaged weights; return its path.

    Of a store that is no global grid only weights, record and network.yaml are written: a component cannot load them.
    """
    config, store, folder = trainer.config, trainer.samples.crops.store, trainer.config.emulator
    folder.mkdir(parents=True, exist_ok=True)
    net = trainer.averaged()
    write_weights(net, folder / "weights.safetensors")
    _write_json(folder / "training_record.json", record(trainer, scores))
    climate = (Channel(CLIMATE_CLASS),) if store.climate_classes else ()
    channels = [replace(channel, stored=config.natives is None) for channel in store.channels]
    description: dict[str, Any] = {
        "name": config.name,
        "version": config.version,
        "legend": list(store.legend),
        "unet": asdict(net.config) | {"widths": list(net.config.widths)},
        "statics": [asdict(channel) for channel in (*channels, *climate)],
        "training": {"steps_done": trainer.step, "seed": config.seed, "validation": scores},
    }
    if config.crosswalk is not None:
        description["training"] |= {"coarse": config.coarse, "crosswalk": config.crosswalk.name}
    if not is_global(store):
        description["store"] = store.layout.attributes()
        (folder / "network.yaml").write_text(yaml.safe_dump(description, sort_keys=False, width=110))
        return folder
    if config.natives is None:
        write_statics(folder / "statics.nc", store)
    else:
        shutil.copyfile(config.natives / "statics.nc", folder / "statics.nc")
    base = trainer.samples.years.base
    write_base_map(folder / "base_map.nc", store, base)
    nlat, nlon = store.shape
    description |= {
        "fine": {"nlat": nlat, "nlon": nlon},
        "coarse": {"nlat": nlat // store.ratio, "nlon": nlon // store.ratio},
        "tile": tile_of(config, store),
        "halo": config.halo,
        "base_year": store.years[base],
        "sha256": {name: sha256_of(folder / name) for name in FILES},
    }
    (folder / "emulator.yaml").write_text(yaml.safe_dump(description, sort_keys=False, width=110))
    return folder


def write_weights(net: UNet, path: Path) -> None:
    """Write the weights of a folded network as bfloat16."""
    save_file({name: value.to(torch.bfloat16).cpu().contiguous() for name, value in net.state_dict().items()}, path)
    path.chmod(0o644)


def write_base_map(path: Path, store: Store, t: int) -> None:
    """Write the class map of a year of a global store, 0 none and 1.. in the order of the legend, as CF netCDF."""
    with _opened(path, f"Land use and cover classes of {store.years[t]}", store) as data:
        variable = data.createVariable("class", "u1", ("lat", "lon"), zlib=True, complevel=4)
        meanings = " ".join(name.replace(" ", "_") for name in ("none", *store.legend))
        numbers = np.arange(len(store.legend) + 1, dtype=np.uint8)
        variable.setncatts(
            {"standard_name": "land_cover", "units": "1", "flag_values": numbers, "flag_meanings": meanings}
        )
        for rows, cols in _strips(store):
            variable[rows] = store.classes(t, rows, cols)


def write_statics(path: Path, store: Store) -> None:
    """Write the static channels of a global store, before normalisation, as int16, and its climate classes."""
    low = np.full((len(store.statics), 1, 1), np.inf)
    high = -low
    for rows, cols in _strips(store):
        values = store.static(rows, cols).astype(np.float64)
        low = np.minimum(low, values.min((1, 2), keepdims=True))
        high = np.maximum(high, values.max((1, 2), keepdims=True))
    spread = np.maximum(high - low, 1e-6) / 65000
    with _opened(path, "Static inputs of a land-use emulator", store) as data:
        for channel, middle, step in zip(store.channels, ((low + high) / 2).ravel(), spread.ravel(), strict=True):
            packing = {"scale_factor": step * channel.std, "add_offset": middle * channel.std + channel.mean}
            _create(data, channel.name, packing)
        if store.climate_classes:
            _create(data, CLIMATE_CLASS, {"scale_factor": 1.0, "add_offset": 0.0})
        for rows, cols in _strips(store):
            packed = np.round((store.static(rows, cols) - (low + high) / 2) / spread).astype(np.int16)
            for channel, values in zip(store.channels, packed, strict=True):
                data[channel.name][rows] = values
            if store.climate_classes:
                data[CLIMATE_CLASS][rows] = store.climate(rows, cols).astype(np.int16)


def _create(data: Any, name: str, packing: dict[str, float]) -> None:
    variable = data.createVariable(name, "i2", ("lat", "lon"), zlib=True, complevel=4, shuffle=True)
    variable.set_auto_maskandscale(False)
    variable.setncatts(packing)


def _strips(store: Store) -> Iterator[tuple[slice, NDArray[np.int64]]]:
    """Rows and all columns of a store, a strip after another."""
    for row in range(0, store.shape[0], STRIP):
        yield slice(row, min(row + STRIP, store.shape[0])), np.arange(store.shape[1])


@contextmanager
def _opened(path: Path, title: str, store: Store) -> Iterator[Any]:
    """A new file with the axes of a global store."""
    grid = RegularGrid(*store.shape)
    axes = {
        "lat": (grid.lat, "latitude", "degrees_north", "Y"),
        "lon": (grid.lon, "longitude", "degrees_east", "X"),
    }
    with Dataset(path, "w") as data:
        data.Conventions = "CF-1.11"
        data.title = title
        for name, (values, standard, units, letter) in axes.items():
            data.createDimension(name, values.size)
            axis = data.createVariable(name, "f8", (name,))
            axis.setncatts({"standard_name": standard, "units": units, "axis": letter})
            axis[:] = values
        yield data


def record(trainer: Trainer, scores: dict[str, float]) -> dict[str, Any]:
    """Return everything needed to know how the weights came about."""
    config, crops = trainer.config, trainer.samples.crops
    years, known = trainer.samples.years, crops.store.years
    return {
        "configuration": config.plain(),
        "store": crops.store.layout.attributes() | {"shape": list(crops.store.shape), "years": list(known)},
        "years": {
            "first_targets": [known[t] for t in years.starts],
            "validation": [known[t] for t in years.validation],
            "base": known[years.base],
        },
        "seed": config.seed,
        "steps_planned": config.steps,
        "steps_done": trainer.step,
        "crops_seen": trainer.samples_seen,
        "processes": trainer.team.size,
        "seconds": round(trainer.seconds, 1),
        "device": processor() if trainer.device.type == "cpu" else torch.cuda.get_device_name(trainer.device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "commit": commit(),
        "validation": scores,
        "log": trainer.log,
    }


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n")
