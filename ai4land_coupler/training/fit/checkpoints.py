"""Checkpoints: written aside and renamed, the last few kept."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from ai4land_coupler.errors import OutputError, RestartError


def paths(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest first."""
    return sorted(folder.glob("step-*.pt"))


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write the state of a step and remove all but the last `keep`; raises OutputError."""
    path = folder / f"step-{step:08d}.pt"
    aside = path.with_suffix(".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as stream:
            torch.save(state, stream)
            stream.flush()
        aside.replace(path)
        for old in paths(folder)[:-keep]:
            old.unlink()
    except (OSError, RuntimeError) as error:
        raise OutputError(f"checkpoint {path} cannot be written: {error}; make room and run it again") from error
    return path


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint into the host's memory; raises RestartError."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise RestartError(f"checkpoint {path} cannot be read: {error}; remove it to use the one before") from error
    return state
