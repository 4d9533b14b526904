"""An emulator: a folder with the network's weights, its static fields, its base map and their description."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from ai4land_coupler.damage import refuse_damaged
from ai4land_coupler.errors import EmulatorError, GridError
from ai4land_coupler.features import CHANNELS, CLIMATE_CLASS, CLIMATE_CLASSES, Channel
from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.unetconfig import RECEPTIVE_FIELD, STRIDE, UNetConfig

SHIPPED = Path(__file__).parent / "emulators"
FILES = ("weights.safetensors", "statics.nc", "base_map.nc", "training_record.json")


@dataclass(frozen=True)
class Emulator:
    """What an emulator folder says, checked; use `Emulator.load`."""

    name: str
    version: str
    legend: tuple[str, ...]
    fine: RegularGrid
    coarse: RegularGrid
    tile: int
    halo: int
    base_year: int
    unet: UNetConfig
    statics: tuple[Channel, ...]
    training: dict[str, Any]
    path: Path
    hash: str  # sha256 of emulator.yaml
    weights_hash: str  # sha256 of weights.safetensors
    design: str  # sha256 of what emulator.yaml says of all but the weights and how they were trained

    def __post_init__(self) -> None:
        ratio = self.coarse.ratio_to(self.fine)
        names = [channel.name for channel in self.statics]
        embedded = [self.unet.climate_classes * (index == len(names) - 1) for index in range(len(names))]
        wanted = [CLIMATE_CLASSES * (name == CLIMATE_CLASS) for name in names]
        expected = {
            f"tile {self.tile} a multiple of {ratio} and {STRIDE}": self.tile % ratio + self.tile % STRIDE == 0,
            "tiles that divide the globe": self.fine.nlat % self.tile + self.fine.nlon % self.tile == 0,
            f"a halo of a multiple of {STRIDE}, above {RECEPTIVE_FIELD}": self.halo % STRIDE == 0
            and self.halo >= RECEPTIVE_FIELD,
            "distinct classes": len(set(self.legend)) == len(self.legend) == self.unet.classes,
            "known or stored static channels": all(c.stored or c.name in CHANNELS for c in self.statics),
            f"{self.unet.static_channels} static channels": len(self.statics) == self.unet.static_channels,
            f"{CLIMATE_CLASS} last and only where {CLIMATE_CLASSES} climate classes are embedded": embedded == wanted,
        }
        wrong = [what for what, holds in expected.items() if not holds]
        if wrong:
            raise EmulatorError(f"emulator {self.name} in {self.path}: expected {'; '.join(wrong)}")

    @classmethod
    def load(cls, name_or_path: str | Path) -> Emulator:
        """Return the shipped emulator of that name, or the one in that folder, every file's sha256 verified."""
        shipped = SHIPPED / str(name_or_path)
        path = shipped if shipped.is_dir() else Path(name_or_path)
        if not path.is_dir():
            raise EmulatorError(f"emulator {name_or_path!s}: neither a folder nor shipped; shipped: {shipped_names()}")
        content, description = _read_yaml(path / "emulator.yaml")
        hashes = _entry(description, "sha256", dict, path)
        _verify(path, hashes)
        return cls._from_description(description, path.resolve(), content, hashes["weights.safetensors"])

    @classmethod
    def _from_description(cls, d: dict[str, Any], path: Path, content: bytes, weights_hash: str) -> Emulator:
        try:
            return cls(
                name=str(d["name"]), version=str(d["version"]), legend=tuple(d["legend"]),
                fine=RegularGrid(**d["fine"]), coarse=RegularGrid(**d["coarse"]),
                tile=int(d["tile"]), halo=int(d["halo"]), base_year=int(d["base_year"]),
                unet=UNetConfig(**d["unet"]), statics=tuple(Channel(**entry) for entry in d["statics"]),
                training=dict(d["training"]), path=path,
                hash=hashlib.sha256(content).hexdigest(), weights_hash=weights_hash, design=_design(d),
            )  # fmt: skip
        except (LookupError, TypeError, ValueError, ArithmeticError, GridError) as error:
            raise EmulatorError(f"{path / 'emulator.yaml'}: missing or wrong entry: {error}") from error

    def base_map(self) -> NDArray[np.uint8]:
        """Return the classes of the base year (nlat, nlon), south to north, 0 water, 1.. in the legend's order."""
        return self._base_map

    @cached_property
    def _base_map(self) -> NDArray[np.uint8]:
        from netCDF4 import Dataset

        path = self.path / "base_map.nc"
        try:
            refuse_damaged(path)
            with Dataset(path) as data:
                data.set_auto_mask(False)
                classes = np.asarray(data["class"][:], np.uint8)
        except (OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError) as error:
            raise EmulatorError(f"{path} cannot be read: {error}") from error
        if classes.shape != (self.fine.nlat, self.fine.nlon) or classes.max() > len(self.legend):
            most = classes.max(initial=0)
            raise EmulatorError(f"base_map.nc: {classes.shape} classes to {most} do not fit the emulator")
        classes.flags.writeable = False
        return classes

    def network(self, device: str = "cpu", precision: str = "float32") -> Any:
        """Return the network, ready for inference in channels-last memory.

        It maps (B, static + classes, H, W) float32 to logits (B, classes, H, W) float32.
        """
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from ai4land_coupler.unet import UNet

        dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
        if precision not in dtypes:
            raise EmulatorError(f"precision {precision!r}: expected one of {sorted(dtypes)}")
        with torch.random.fork_rng(devices=[]):  # a Python host's random numbers go on as they would
            net = UNet(self.unet)
        try:
            state = load_file(self.path / "weights.safetensors")
            net.load_state_dict({name: tensor.float() for name, tensor in state.items()})
        except (OSError, RuntimeError, SafetensorError, LookupError, ValueError, TypeError, MemoryError) as error:
            raise EmulatorError(f"{self.path / 'weights.safetensors'}: {error}") from error
        net = net.in_precision(dtypes[precision]).eval().requires_grad_(False)
        return net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def shipped_names() -> list[str]:
    """Return the names of the emulators in the package."""
    return sorted(path.name for path in SHIPPED.iterdir() if (path / "emulator.yaml").is_file())


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_yaml(path: Path) -> tuple[bytes, dict[str, Any]]:
    try:
        content = path.read_bytes()
        description = yaml.safe_load(content)
    except OSError as error:
        raise EmulatorError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise EmulatorError(f"{path}: is not YAML: {error}") from error
    if not isinstance(description, dict):
        raise EmulatorError(f"{path}: expected a mapping, found {type(description).__name__}")
    return content, description


def _entry(description: dict[str, Any], key: str, kind: type, path: Path) -> Any:
    if not isinstance(description.get(key), kind):
        raise EmulatorError(f"{path / 'emulator.yaml'}: entry {key!r} is missing or no {kind.__name__}")
    return description[key]


def _design(description: dict[str, Any]) -> str:
    """SHA-256 of a description without its weights, and without what else other training changes."""
    trained = ("weights.safetensors", "training_record.json")
    files = {name: value for name, value in description["sha256"].items() if name not in trained}
    kept = {key: value for key, value in description.items() if key != "training"} | {"sha256": files}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def _verify(path: Path, hashes: dict[str, str]) -> None:
    """Raise EmulatorError where a file is not listed, missing, or not the one whose sha256 is recorded."""
    for name in FILES:
        if name not in hashes:
            raise EmulatorError(f"{path / 'emulator.yaml'}: no sha256 of {name}")
    for name, expected in hashes.items():
        file = path / str(name)
        if not file.is_file():
            raise EmulatorError(f"emulator file {file} is missing")
        found = sha256_of(file)
        if found != expected:
            raise EmulatorError(f"emulator file {file} is damaged: expected sha256 {expected}, found {found}")
