"""The same U-Net from Fortran through FTorch, beside what a step runs of it, on one window of a whole tile."""

import os
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ai4land_coupler.bench.timer import alternate
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import UsageError
from ai4land_coupler.unetconfig import REACH

LIMIT = 600.0
"""Seconds that the host may take."""


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds a tile through FTorch, float32 TorchScript, and through ours in the precision of the run, in turn.

    job: emulator (folder), precision (float32 or bfloat16), threads, repeats, host (the program that
    examples/ftorch_host/ftorch_host.f90 makes), folder.
    """
    emulator, threads = Emulator.load(job["emulator"]), job["threads"]
    network, side = emulator.network("cpu", job["precision"]), emulator.tile + 2 * emulator.halo
    model = Path(job["folder"]) / "unet.pt"
    export(emulator, side, model)
    asked = (side - 2 * emulator.halo + 2 * REACH) // 2
    given = torch.rand(1, asked, asked, emulator.unet.widths[0]).permute(0, 3, 1, 2)
    prior = torch.zeros(1, len(emulator.legend), 2 * asked, 2 * asked) if emulator.unet.prior else None
    torch.set_num_threads(threads)
    passes = job["repeats"]

    def theirs() -> list[float]:
        return _ftorch(job["host"], model, emulator, side, threads, passes)

    def ours() -> list[float]:
        with torch.inference_mode():
            return alternate({"ours": lambda: network.after_stem(given, prior, REACH)}, passes)["ours"]

    turns = [(theirs(), ours()) for _ in range(2)]
    found = {name: [x for turn in turns for x in turn[i]] for i, name in enumerate(("ftorch", "ours"))}
    medians = {name: float(np.median(seconds)) for name, seconds in found.items()}
    return {"value": medians["ftorch"] / medians["ours"], "seconds": medians, "raw": found, "side": side}


def export(emulator: Emulator, side: int, path: Path) -> None:
    """Write the float32 network on windows of side x side cells as TorchScript."""
    network, window = emulator.network("cpu", "float32"), torch.zeros(1, emulator.unet.inputs, side, side)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of TorchScript itself, which FTorch needs
        torch.jit.save(torch.jit.trace(network, window), path)


def _ftorch(host: str, model: Path, emulator: Emulator, side: int, threads: int, passes: int) -> list[float]:
    sizes = emulator.unet.inputs, len(emulator.legend), side, passes
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    ran = subprocess.run(
        [host, model, *map(str, sizes)], capture_output=True, text=True, timeout=LIMIT, env=environment
    )
    if ran.returncode:
        raise UsageError(f"--ftorch {host}: ended with {ran.returncode} and said: {ran.stderr.strip()[-500:]}")
    return [float(word) for word in ran.stdout.split()]
