"""Writing an emulator folder from the averaged weights of a training run."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from ai4land_coupler.emulator import FILES, sha256_of
from ai4land_coupler.training.data.dataset import COARSE, FINE, RATIO, SOUTH_AMERICA, Box
from ai4land_coupler.training.data.rebuild import LEGEND
from ai4land_coupler.training.scores import card

if TYPE_CHECKING:
    from ai4land_coupler.training.fit.loop import TrainConfig, Training

TILE, HALO, BASE_YEAR = 240, 48, 2019


def write_emulator(state: Training) -> Path:
    """Write the folder of the configuration from the averaged weights of the run; return its path."""
    config, folder = state.config, state.config.emulator
    folder.mkdir(parents=True, exist_ok=True)
    net = state.averaged()
    weights = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in net.state_dict().items()}
    save_file(weights, folder / "weights.safetensors")
    (folder / "weights.safetensors").chmod(0o644)
    for name in ("statics.nc", "base_map.nc"):
        shutil.copyfile(config.data / name, folder / name)
    record = training_record(state)
    write_record(folder, record)
    description = {
        "name": config.name,
        "version": config.version,
        "legend": list(LEGEND),
        "fine": asdict(FINE),
        "coarse": asdict(COARSE),
        "tile": TILE,
        "halo": HALO,
        "base_year": BASE_YEAR,
        "unet": asdict(net.config) | {"widths": list(net.config.widths)},
        "statics": [asdict(channel) for channel in state.channels],
        "training": {key: record[key] for key in ("steps_done", "seed", "withheld_scores", "south_america")},
        "sha256": {name: sha256_of(folder / name) for name in FILES},
    }
    (folder / "emulator.yaml").write_text(yaml.safe_dump(description, sort_keys=False, width=110))
    card.write(folder)
    return folder


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write training_record.json."""
    (folder / "training_record.json").write_text(json.dumps(record, indent=1) + "\n")


def training_record(state: Training) -> dict[str, Any]:
    """Return everything needed to know how the weights came about."""
    config = state.config
    return {
        "configuration": _plain(config),
        "sources": json.loads((config.data / "sources.json").read_text()),
        "data_sha256": {name: sha256_of(config.data / name) for name in ("statics.nc", "base_map.nc", "training.npz")},
        "seed": config.seed,
        "first_run": None if config.start is None else first_run(config.start),
        "steps_planned": config.steps,
        "steps_done": state.step,
        "crops_seen": state.step * config.batch,
        "seconds": round(state.seconds, 1),
        "device": processor(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "commit": commit(),
        "withheld_from_training": {
            "south_america": asdict(SOUTH_AMERICA),
            "blocks": [asdict(box) for box in config.withheld],
            "rim_cells": config.rim,
            "coarse_cells_per_degree": RATIO // 5,
        },
        "withheld_scores": state.validate(),
        "south_america": None,
        "log": state.log,
    }


def first_run(work: Path) -> dict[str, Any]:
    """Return what the work folder of the run that was gone on from tells: its steps, time, channels and log."""
    checkpoint = work / "checkpoint.pt"
    state = torch.load(checkpoint, weights_only=True)
    return {
        "checkpoint_sha256": sha256_of(checkpoint),
        "steps_done": state["step"],
        "seconds": round(state["seconds"], 1),
        "channels": json.loads((work / "channels.json").read_text()),
        "log": state["log"],
    }


def _plain(config: TrainConfig) -> dict[str, Any]:
    entries = {}
    for name, value in vars(config).items():
        if isinstance(value, Path):
            value = value.name
        elif isinstance(value, tuple):
            value = [asdict(item) if isinstance(item, Box) else item for item in value]
        entries[name] = value
    return entries


def processor() -> str:
    """Return the processor's name, its threads in use and the instruction set torch chose."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = {line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")}
    name = ", ".join(sorted(names)) or platform.processor()
    return f"{name}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def commit() -> str:
    """Return the git commit the package is at, or `unknown` outside a checkout."""
    try:
        where = Path(__file__).parent
        return subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=where, check=True, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
