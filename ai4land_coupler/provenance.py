"""What made a file: versions, hashes and configuration."""

import platform
from functools import cache
from importlib import metadata

from ai4land_coupler import __version__, comm, crosswalk, kernel
from ai4land_coupler.config import Config
from ai4land_coupler.emulator import Emulator, sha256_of

LIBRARIES = ("torch", "numpy", "mpi4py", "netCDF4")


def collect(emulator: Emulator, config: Config, precision: str, device: str = "cpu") -> dict[str, str]:
    """Global attributes for outputs, restarts and reports."""
    return {
        "ai4land_coupler_version": __version__,
        "emulator": f"{emulator.name} {emulator.version}",
        "emulator_hash": emulator.hash,
        "weights_hash": emulator.weights_hash,
        "tile": f"{emulator.tile} fine cells, halo {emulator.halo}",
        "precision": precision,
        "device": device,
        "processor": processor(),
        "versions": ", ".join(f"{name} {_version(name)}" for name in LIBRARIES)
        + f", Python {platform.python_version()}",
        "cells": kernel.name(),
        "mpi": comm.library(),
        "configuration": config.text(),
    } | _crosswalk(config)


def _crosswalk(config: Config) -> dict[str, str]:
    """The table that a configuration names, and the hash of its text."""
    named = config.state.crosswalk
    return {"crosswalk": f"{named} {sha256_of(crosswalk.find(named))}"} if isinstance(named, str) else {}


@cache
def processor() -> str:
    """Model name of the processor, as the system states it."""
    return _cpuinfo().get("model name", platform.processor() or platform.machine())


@cache
def processor_flags() -> frozenset[str]:
    """Instruction sets the processor has, as /proc/cpuinfo names them; empty where the system does not say."""
    return frozenset(_cpuinfo().get("flags", "").split())


@cache
def _cpuinfo() -> dict[str, str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            pairs = (line.split(":", 1) for line in file if ":" in line)
            return {key.strip(): value.strip() for key, value in pairs}
    except OSError:
        return {}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
