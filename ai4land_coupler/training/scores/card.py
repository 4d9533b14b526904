"""The model card of an emulator, CARD.md: written from its description and training record, so that it follows them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from ai4land_coupler.emulator import sha256_of
from ai4land_coupler.errors import EmulatorError
from ai4land_coupler.training.data.sources import SOURCES
from ai4land_coupler.training.scores.cardtext import LIMITS, NOT_FOR, ONE_YEAR, SEVERAL_YEARS
from ai4land_coupler.training.scores.scoretable import METHODS, by_resolution, number

CARD, RECORD, DESCRIPTION = "CARD.md", "training_record.json", "emulator.yaml"


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
        *_ablation(record, description),
        "## What it must not be used for\n\n" + (ONE_YEAR if _of_one_year(record) else SEVERAL_YEARS) + "\n" + NOT_FOR,
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


def _of_one_year(record: dict[str, Any]) -> bool:
    return len(record.get("store", {}).get("years", [0])) == 1


def _data(d: dict[str, Any], record: dict[str, Any]) -> str:
    known = {f"{source.package} {source.version}": source for source in SOURCES}
    rows = [
        (name, known[name].licence if name in known else "see NOTICE", f"`{digest[:16]}`")
        for name, digest in record.get("sources", {}).items()
    ]
    inputs = ", ".join(channel["name"] for channel in d["statics"])
    text = f"Inputs: coarse fractions of the legend, and {inputs}."
    if "store" in record:
        return f"Target: class maps of {_plain(record['store']['years'])}, from the user's own store. {text}"
    return (
        f"Target: the class map of {d['base_year']} alone. {text} None is derived from satellite vegetation or land\n"
        "cover but the land mask and the coarse fractions themselves.\n\n"
        + _table(("package", "licence and source", "sha256"), rows)
    )


def _training(record: dict[str, Any]) -> str:
    lines = []
    if held := record.get("withheld_from_training"):
        blocks = "; ".join(_box(box) for box in held["blocks"])
        lines.append(
            f"Split: South America ({_box(held['south_america'])}) erased from inputs and targets, and never used to "
            f"choose anything; blocks withheld for choices: {blocks} (lon, lat); around all a rim of "
            f"{held['rim_cells']} fine cells."
        )
    if first := record.get("first_run"):
        lines.append(
            f"Goes on from the averaged weights of a run of {first['steps_done']} steps, "
            f"{first['seconds'] / 60:.0f} minutes, checkpoint `{first['checkpoint_sha256'][:16]}`."
        )
    versions = ", ".join(f"{name} {value}" for name, value in record["versions"].items())
    lines.append(
        f"{record['steps_done']} of {record['steps_planned']} steps, {record['crops_seen']} crops, "
        f"{record['seconds'] / 60:.0f} minutes on {record['device']}; seed {record['seed']}; {versions}; "
        f"commit {record['commit']}."
    )
    lines.append("Loss: area-weighted cross-entropy of the closed fractions; the weights are averages over steps.")
    settings = {key: value for key, value in record["configuration"].items() if key not in NO_SETTINGS}
    lines.append("Settings: " + ", ".join(f"{key} {value}" for key, value in settings.items()) + ".")
    if scores := record.get("withheld_scores") or record.get("validation"):
        shown = ", ".join(f"{name} {_plain(value)}" for name, value in scores.items())
        lines.append(f"On what was withheld, at the end of training: {shown}.")
    return "\n".join(f"- {line}" for line in lines)


NO_SETTINGS = ("withheld", "data", "work", "emulator", "name", "start", "version")
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


ABLATION = {
    "argmax_over_majority": "argmax - majority", "quota_over_random": "quota - random", "log_loss": "log loss",
    "drop_argmax_over_majority": "argmax lost", "drop_quota_over_random": "quota lost",
}  # fmt: skip


def _ablation(record: dict[str, Any], description: dict[str, Any]) -> list[str]:
    """The section on what each group of inputs is worth, where the record has it for these weights."""
    found = record.get("ablation")
    if not found or found["weights_sha256"] != description["sha256"]["weights.safetensors"]:
        return []
    rows = ((name, *(f"{row[key]:.4f}" for key in ABLATION)) for name, row in found["mixed"].items())
    text = (
        f"Mixed cells of {_plain(found['regions'])}, with a group of inputs taken from the trained network (its\n"
        "channels at their mean); `neighbourhood`: each coarse cell run as if its own fractions held all around it.\n\n"
    )
    return ["## Ablation\n\n" + text + _table(("without", *ABLATION.values()), rows)]


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
