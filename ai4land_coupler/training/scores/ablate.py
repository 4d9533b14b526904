"""What each group of inputs is worth: scores on blocks never trained on with a group taken from the network.

python -m ai4land_coupler.training.scores.ablate EMULATOR --json FILE [--region REGION ...] [--record]

A group is taken away as training drops it: its normalised channels are 0, its climate class is 0. Without the
neighbourhood, each coarse cell is run as if its own fractions held all around it. Neither the land mask nor the
neighbourhood is ever dropped in training, so that what they cost also holds the surprise.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ai4land_coupler.emulator import Emulator, sha256_of
from ai4land_coupler.features import CLIMATE_CLASS, GROUPS
from ai4land_coupler.inference import TileRunner
from ai4land_coupler.tiles import TileCells, all_tiles
from ai4land_coupler.tilework import TileWork
from ai4land_coupler.timing import Stopwatch
from ai4land_coupler.training.fit.package import write_record
from ai4land_coupler.training.scores import card
from ai4land_coupler.training.scores.evaluate import score
from ai4land_coupler.training.scores.regions import Region, parse
from ai4land_coupler.training.scores.staticmaps import Answer, Truth, answer

TAKEN = {
    "terrain": GROUPS["terrain"],
    "climate": GROUPS["climate"],
    "koppen": (*GROUPS["koppen"], CLIMATE_CLASS),
    "lines": GROUPS["lines"],
    "settlements": GROUPS["settlements"],
    "latitude": ("abs_lat",),
    "land_mask": ("land",),
}
NEIGHBOURHOOD = "neighbourhood"


@dataclass(frozen=True)
class Without(Emulator):
    """An emulator whose network does not see some static channels."""

    taken: tuple[str, ...] = ()

    @classmethod
    def of(cls, emulator: Emulator, taken: Sequence[str]) -> Without:
        """The emulator without the channels `taken`."""
        entries = {field.name: getattr(emulator, field.name) for field in fields(Emulator)}
        return cls(**entries, taken=tuple(taken))

    def network(self, device: str = "cpu", precision: str = "float32") -> Any:
        """The network with weights of 0 for what is taken, and the embedding of no climate class for every class."""
        net = super().network(device, precision)
        names = [channel.name for channel in self.statics]
        net.stem.weight[:, [i for i, name in enumerate(names) if name in self.taken and name != CLIMATE_CLASS]] = 0
        if CLIMATE_CLASS in self.taken and self.unet.climate_classes:
            net.climate.weight[:] = net.climate.weight[0].clone()
        return net


def ablate(
    emulator: Emulator,
    regions: Sequence[str] = ("withheld",),
    threads: int = 2,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Return the scores of mixed cells in the regions, by area, with all inputs and without each group of them.

    Keys are `all`, those of TAKEN that the emulator has, and `neighbourhood`. `drop_*` are the margins lost.
    """
    wheres = [Region(emulator, box) for box in parse(regions, emulator).values()]
    truth, names = Truth.of(emulator), {channel.name for channel in emulator.statics}
    runner = TileRunner(emulator, "level", "float32", threads)
    found = [answer(where, truth, runner) for where in wheres]
    table: dict[str, Any] = {"all": _mean(found)}
    for group, channels in TAKEN.items():
        if set(channels) & names:
            less = TileRunner(Without.of(emulator, channels), "level", "float32", threads)
            table[group] = _mean([answer(where, truth, less) for where in wheres])
            report(_line(group, table))
    table[NEIGHBOURHOOD] = _mean([_alone(one, runner) for one in found])
    report(_line(NEIGHBOURHOOD, table))
    for row in table.values():
        for name in ("argmax_over_majority", "quota_over_random"):
            row[f"drop_{name}"] = table["all"][name] - row[name]
    return {
        "emulator": emulator.name,
        "weights_sha256": emulator.weights_hash,
        "regions": list(regions),
        "mixed": table,
    }


def _mean(found: Sequence[Answer]) -> dict[str, float]:
    """Area-weighted means over regions of the scores of their mixed cells."""
    parts = [part for part in (score(one)["mixed"] for one in found) if part["cells"]]
    weight = np.array([part["area_km2"] for part in parts])
    rows = [
        {name: part[name] for name in ("argmax_over_majority", "quota_over_random")}
        | {"log_loss": part["log_loss"]["emulator"], "log_loss_filling": part["log_loss"]["filling"]}
        for part in parts
    ]
    return {name: float(np.average([row[name] for row in rows], weights=weight)) for name in rows[0]}


def _alone(found: Answer, runner: TileRunner) -> Answer:
    """The answer with every coarse cell run as if its own fractions held all over the globe."""
    emulator, ratio = found.where.emulator, found.where.ratio
    side, across = emulator.tile // ratio, found.where.shape[1] // ratio
    tiles = all_tiles(emulator.fine, emulator.coarse, emulator.tile)
    by_corner = {(tile.row0, tile.col0): tile for tile in tiles}
    rows, cols = found.where.window
    reach = side + 2 * -(-emulator.halo // ratio)
    fractions = np.empty_like(found.fractions)
    for place, cell in enumerate(found.used):
        row, col = rows.start + int(cell) // across * ratio, cols.start + int(cell) % across * ratio
        tile = by_corner[row // emulator.tile * emulator.tile, col // emulator.tile * emulator.tile]
        land = np.zeros((tile.size, tile.size), bool)
        y, x = row - tile.row0, col - tile.col0
        land[y : y + ratio, x : x + ratio] = found.labels[place].reshape(ratio, ratio) > 0
        cells = TileCells.of(tile, land, emulator.fine, ratio)
        everywhere = found.totals[place][:, None], np.zeros((reach, reach), np.int64)
        (fields_of_tile,) = runner.run([TileWork(cells, *everywhere, np.zeros(1, bool))], Stopwatch(), lambda: None)
        fractions[place] = cells.block(np.asarray(fields_of_tile.fractions))[0]
    return replace(found, fractions=fractions)


def _line(group: str, table: dict[str, Any]) -> str:
    row, whole = table[group], table["all"]
    return (
        f"without {group}: argmax - majority {row['argmax_over_majority']:+.4f} of "
        f"{whole['argmax_over_majority']:+.4f}, quota - random {row['quota_over_random']:+.4f} of "
        f"{whole['quota_over_random']:+.4f}, log loss {row['log_loss']:.4f} of {whole['log_loss']:.4f}"
    )


def _record(folder: Path, result: dict[str, Any]) -> None:
    """Put the result of `ablate` into the record of an emulator folder, and write its card again."""
    record = json.loads((folder / "training_record.json").read_text())
    write_record(folder, record | {"ablation": result})
    description = yaml.safe_load((folder / "emulator.yaml").read_text())
    description["sha256"]["training_record.json"] = sha256_of(folder / "training_record.json")
    (folder / "emulator.yaml").write_text(yaml.safe_dump(description, sort_keys=False, width=110))
    card.write(folder)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("emulator")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--region", action="append", help="as `ai4land evaluate` takes it (default: withheld)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", action="store_true", help="put the table into the emulator's training record")
    arguments = parser.parse_args()
    emulator = Emulator.load(arguments.emulator)
    result = ablate(
        emulator, arguments.region or ("withheld",), arguments.threads, lambda line: print(line, flush=True)
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.record:
        _record(emulator.path, result)


if __name__ == "__main__":
    main()
