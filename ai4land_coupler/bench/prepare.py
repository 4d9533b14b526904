"""What the sessions of a bench are given: emulator, configurations and host cells, as files."""

import json
from pathlib import Path
from typing import Any

from ai4land_coupler.bench import small
from ai4land_coupler.bench.hostfile import crowd, global_host
from ai4land_coupler.device import choose_precision
from ai4land_coupler.emulator import Emulator

DOUBLE = 8


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Write into job["folder"]: globe.bin, empty.bin and crowd.bin (job["bytes"] a class), and configurations.

    job["emulator"] is empty for the small one, else a shipped name or folder; job["layouts"]: [ranks, threads] each;
    job["precision"] of the network.
    Returns the emulator's folder, number of classes, and host cells.
    """
    folder = Path(job["folder"])
    emulator = Emulator.load(job["emulator"] or small.build(folder / "emulator"))
    globe = global_host(emulator)
    globe.write(folder / "globe.bin")
    crowd(emulator, 0).write(folder / "empty.bin")
    crowd(emulator, job["bytes"] // DOUBLE).write(folder / "crowd.bin")
    base = {"emulator": str(emulator.path), "precision": job["precision"]}
    for ranks, threads in job["layouts"]:
        text = json.dumps({**base, "workers": {"threads": threads}})  # JSON is YAML
        (folder / f"ranks{ranks}.yaml").write_text(text)
    output = {"folder": str(folder / "years")}
    threads = job["layouts"][0][1]
    text = json.dumps({**base, "workers": {"threads": threads}, "output": output})
    (folder / "output.yaml").write_text(text)
    return {
        "emulator": f"{emulator.name} {emulator.version}", "emulator_hash": emulator.hash, "path": str(emulator.path),
        "precision": choose_precision(job["precision"]), "classes": len(emulator.legend), "host_cells": globe.grid.size,
        "land_cells": int((globe.grid.land_fraction > 0).sum()),
    }  # fmt: skip
