"""The model card of an emulator, CARD.md: written from its description and training record, so that it follows them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from ai4land_coupler.emulator import sha256_of
from ai4land_coupler.errors import EmulatorError
from ai4land_coupler.training.scoretable import METHODS, by_resolution, number
from ai4land_coupler.training.sources import SOURCES

CARD, RECORD, DESCRIPTION = "CARD.md", "training_record.json", "emulator.yaml"

NOT_FOR = """\
- **Not a forecast of change.** It is trained on the map of one year: it knows where classes sit, not how they come and
  go. From year to year its map follows the totals it is given and nothing else; a single fine cell that changes is not
  a prediction about that place.
- **Not sub-cell shares.** A fine fraction is the probability that the cell's label is that class, given the totals of
  its coarse cell. Sums over many cells are expected areas; one cell's fraction is not the share of the cell.
- **Not decisions about parcels**, farms, owners or compliance: a cell is about 5 km wide and, in mixed land, often
  wrong (above).
- **Not other legends.** Classes are those of the satellite product, merged as in the legend above. Pasture and grazed
  land, crop types, plantations and potential forest of LUH2 or HYDE are none of them; such states come in through a
  crosswalk and the `change` mode.
- **Not other climates.** Its climate fields are those of 2000 to 2025. Worlds of the deep past or the far future are
  outside what it has seen, and nothing in it responds to a changed climate.
- **Not evidence about the satellite map**: errors of the map it was trained on are in the target, in the base map and
  in the scores."""

LIMITS = """\
- One year, one product: the labels are majority classes of 0.05 degree cells, with the confusions of that product
  between shrub, savanna, grass and sparse land.
- Placement within a coarse cell is scored where no class covers 95 % of it; plain accuracy over all land flatters every
  method, the baselines too.
- Rare classes are hard: see the IoU of each class. A mean IoU over classes that cover little land moves with a few
  cells; the column `> 1 %` leaves classes under 1 % of the land out.
- Given coarser states it does less: the rows at 1 and 2 degrees say how much, beside baselines of the same state."""


def add_scores(folder: Path, result: dict[str, Any]) -> Path:
    """Put scores of `evaluate_regions` into the record of an emulator folder, and write its card; return the card.

    South America goes to `south_america`, its accuracies also into emulator.yaml; other regions by name to `regions`,
    without their reliability tables. Scores that other weights got are dropped. Raises EmulatorError where the result
    is that of other weights.
    """
    record, description = _read(folder)
    weights = sha256_of(folder / "weights.safetensors")
    if result["weights_sha256"] != weights:
        raise EmulatorError(f"{folder}: the scores are of weights {result['weights_sha256']}, here are {weights}")
    kept = {name: old for name, old in record.get("regions", {}).items() if old["weights_sha256"] == weights}
    for name, scores in result["regions"].items():
        entry = {"emulator": result["emulator"], "weights_sha256": weights, "region": name} | scores
        if name == "south-america":
            record["south_america"] = entry
            description["training"]["south_america"] = {
                part: {method: round(scores[part][method]["accuracy"], 4) for method in METHODS}
                for part in ("all", "mixed")
            }
        else:
            kept[name] = _without_tables(entry)
    record["regions"] = kept
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    description["sha256"][RECORD] = sha256_of(folder / RECORD)
    _write(folder / DESCRIPTION, description)
    return write(folder)


def write(folder: Path) -> Path:
    """Write the card of an emulator folder and its sha256 into emulator.yaml; return the card."""
    card = folder / CARD
    card.write_text(render(folder))
    _, description = _read(folder)
    description["sha256"][CARD] = sha256_of(card)
    _write(folder / DESCRIPTION, description)
    return card


def render(folder: Path) -> str:
    """Return the card that the description and the record of an emulator folder make."""
    record, description = _read(folder)
    parts = [
        _head(description),
        "## Data\n\n" + _data(description, record),
        "## Training\n\n" + _training(record),
        "## Scores\n\n" + _scores(record),
        "## Calibration\n\n" + _calibration(record),
        *(["## Ablation\n\n" + _ablation(record["ablation"])] if record.get("ablation") else []),
        "## What it must not be used for\n\n" + NOT_FOR,
        "## Known limits\n\n" + LIMITS,
        "## Files\n\n"
        + _table(
            ("file", "sha256"),
            ((name, digest) for name, digest in sorted(description["sha256"].items()) if name != CARD),
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _head(d: dict[str, Any]) -> str:
    fine, coarse = 180 / d["fine"]["nlat"], 180 / d["coarse"]["nlat"]
    unet = d["unet"]
    return (
        f"# Model card: {d['name']} {d['version']}\n\n"
        f"A U-Net that refines land-use fractions of {coarse:g} degree cells, or coarser ones, to {fine:g} degree,\n"
        "with the totals closed exactly. `ai4land evaluate --card` writes this card from `emulator.yaml` and\n"
        "`training_record.json`.\n\n"
        f"- Legend: {', '.join(d['legend'])}\n"
        f"- Base map: {d['base_year']}\n"
        f"- Network: widths {', '.join(map(str, unet['widths']))}; {unet['static_channels']} static channels"
    )


def _data(d: dict[str, Any], record: dict[str, Any]) -> str:
    known = {f"{source.package} {source.version}": source for source in SOURCES}
    rows = [
        (name, known[name].licence if name in known else "see NOTICE", f"`{digest[:16]}`")
        for name, digest in record.get("sources", {}).items()
    ]
    inputs = ", ".join(channel["name"] for channel in d["statics"])
    return (
        f"Target: the class map of {d['base_year']} alone. Inputs: coarse fractions of the legend, and {inputs}. None\n"
        "is derived from satellite vegetation or land cover but the land mask and the coarse fractions themselves.\n\n"
        + _table(("package", "licence and source", "sha256"), rows)
    )


def _training(record: dict[str, Any]) -> str:
    held = record["withheld_from_training"]
    config = record["configuration"]
    blocks = "; ".join(_box(box) for box in held["blocks"])
    settings = {
        key: value for key, value in config.items() if key not in ("withheld", "data", "work", "emulator", "name")
    }
    versions = ", ".join(f"{name} {value}" for name, value in record["versions"].items())
    withheld = record.get("withheld_scores") or {}
    return (
        f"- Split: South America ({_box(held['south_america'])}) erased from inputs and targets, and never used to "
        f"choose anything; blocks withheld for choices: {blocks} (lon, lat); around all a rim of {held['rim_cells']} "
        "fine cells.\n"
        f"- {record['steps_done']} of {record['steps_planned']} steps, {record['crops_seen']} crops, "
        f"{record['seconds'] / 60:.0f} minutes on {record['device']}; seed {record['seed']}; {versions}; "
        f"commit {record['commit']}.\n"
        "- Loss: area-weighted cross-entropy of the closed fractions over mixed cells, weights averaged over steps.\n"
        f"- Settings: {', '.join(f'{key} {value}' for key, value in settings.items())}.\n"
        f"- On the withheld blocks at the end of training: {', '.join(f'{k} {v:.4f}' for k, v in withheld.items())}."
    )


SCORE_COLUMNS = (
    "region", "state", "argmax", "majority", "margin", "quota", "random", "margin", "log loss / filling's",
    "cal. error", "mIoU quota", "better baseline", "mIoU > 1 %",
)  # fmt: skip


def _scores(record: dict[str, Any]) -> str:
    regions = dict(record.get("regions", {}))
    south_america = record.get("south_america")
    if south_america:
        regions = {"south-america (never seen)": south_america} | regions
    if not regions:
        return "None yet: `ai4land evaluate --card` writes them."
    rows = [row for name, scores in regions.items() for row in _score_rows(name, scores)]
    text = (
        "Area-weighted. Accuracy, log loss and calibration error are over mixed cells (no class covers 95 % of the\n"
        "land of the cell the state is given for), mean IoU over all land of the region. `state` is the resolution of\n"
        "the state in degrees; `argmax` the likeliest class, beside filling each cell of the state with its largest\n"
        "class; `quota` the class map that keeps the totals, beside placing the same totals at random (expected).\n"
        "The better baseline of mean IoU is the better of those two. Regions but South America hold land trained on;\n"
        "those named by four numbers are blocks withheld from training (where the record lists them).\n\n"
        + _table(SCORE_COLUMNS, rows)
    )
    if not south_america:
        return text
    return text + "\n\nIoU of each class, South America, all land:\n\n" + _iou(south_america["all"])


def _score_rows(name: str, scores: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    for degrees, part in _resolutions(scores):
        mixed, every = part["mixed"], part["all"]
        if not mixed.get("cells") or "argmax" not in mixed:
            continue
        loss, calibrated = mixed.get("log_loss"), mixed.get("calibration")
        better = max(every["majority"]["miou"], every["random"]["miou"])
        yield (
            name,
            degrees,
            f"{mixed['argmax']['accuracy']:.4f}",
            f"{mixed['majority']['accuracy']:.4f}",
            f"{mixed['argmax_over_majority']:+.4f}",
            f"{mixed['quota']['accuracy']:.4f}",
            f"{mixed['random_expected_accuracy']:.4f}",
            f"{mixed['quota_over_random']:+.4f}",
            number(loss["ratio"]) if loss else "-",
            f"{calibrated['error']:.4f}" if calibrated else "-",
            f"{every['quota']['miou']:.3f}",
            f"{better:.3f}",
            number(every["quota"].get("miou_common")),
        )


def _resolutions(scores: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Scores by resolution; those of records older than several resolutions are of the emulator's own."""
    if "state_degrees" not in scores:
        return [("own", scores)]
    return list(by_resolution(scores))


def _iou(part: dict[str, Any]) -> str:
    rows = [(name, *(number(part[method]["iou"][name]) for method in METHODS)) for name in part["argmax"]["iou"]]
    return _table(("class", *METHODS), [*rows, ("mean", *(number(part[method]["miou"]) for method in METHODS))])


def _calibration(record: dict[str, Any]) -> str:
    scores = record.get("south_america")
    if not scores or "calibration" not in scores["mixed"]:
        return "Not measured yet: `ai4land evaluate --card` does."
    calibrated = scores["mixed"]["calibration"]
    table = calibrated["likeliest"]
    columns = zip(*(table[key] for key in ("from", "to", "area_share", "forecast", "observed")), strict=True)
    rows = [
        (f"{low:.2f} to {high:.2f}", f"{share:.4f}", f"{forecast:.3f}", f"{seen:.3f}")
        for low, high, share, forecast, seen in columns
        if forecast is not None
    ]
    return (
        f"Expected calibration error over South America's mixed cells, {calibrated['bins']} bins of equal width,\n"
        f"weighted by area: {calibrated['error']:.4f} for the likeliest class, in the mean of the classes' own\n"
        f"{calibrated['error_of_classes']:.4f}. How often the likeliest class is right:\n\n"
        + _table(("fraction", "share of area", "mean fraction", "right"), rows)
    )


def _ablation(rows: Any) -> str:
    """A table of what the record says of runs without some inputs: rows by name, or a list of them."""
    named = [{"run": name} | row for name, row in rows.items()] if isinstance(rows, dict) else list(rows)
    columns = list(dict.fromkeys(key for row in named for key in row))
    return _table(columns, ([_plain(row.get(key, "-")) for key in columns] for row in named))


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return ", ".join(str(part) for part in value) if isinstance(value, list | tuple) else str(value)


def _box(box: dict[str, float]) -> str:
    return f"{box['lon0']:g}..{box['lon1']:g}, {box['lat0']:g}..{box['lat1']:g}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _without_tables(scores: dict[str, Any]) -> dict[str, Any]:
    """Scores less the reliability tables."""
    if not isinstance(scores, dict):
        return scores
    return {key: _without_tables(value) for key, value in scores.items() if key not in ("likeliest", "all_classes")}


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return json.loads((folder / RECORD).read_text()), yaml.safe_load((folder / DESCRIPTION).read_text())


def _write(path: Path, description: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(description, sort_keys=False, width=110))
