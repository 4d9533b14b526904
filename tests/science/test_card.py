"""Model cards say what the description and the record say, so that none can go stale."""

import json
from pathlib import Path

import pytest
import small_emulator
from typer.testing import CliRunner

from ai4land_coupler.cli import app
from ai4land_coupler.emulator import Emulator, sha256_of, shipped_names
from ai4land_coupler.errors import EmulatorError
from ai4land_coupler.training.scores import card
from ai4land_coupler.training.scores.evaluate import evaluate_regions


@pytest.mark.parametrize("name", shipped_names())
def test_the_card_that_ships_is_that_of_its_weights_and_record(name: str) -> None:
    emulator = Emulator.load(name)
    text = (emulator.path / card.CARD).read_text()
    assert text == card.render(emulator.path), "write it anew with `ai4land evaluate --card`, or card.write"
    record = json.loads((emulator.path / card.RECORD).read_text())
    assert emulator.weights_hash in text
    assert sha256_of(emulator.path / card.RECORD) in text
    mixed = record["south_america"]["mixed"]
    for value in (mixed["argmax"]["accuracy"], mixed["majority"]["accuracy"], mixed["quota"]["accuracy"]):
        assert f"| {value:.4f} |" in text
    for region, scores in record.get("regions", {}).items():
        assert f"| {region} |" in text
        assert scores["weights_sha256"] == emulator.weights_hash
    for heading in ("Data", "Training", "Scores", "Calibration", "What it must not be used for", "Known limits"):
        assert f"\n## {heading}\n" in text


RECORD = {
    "configuration": {"seed": 7, "name": "small"},
    "sources": {"itur 0.4.0": "ab" * 32, "else 1.0": "cd" * 32},
    "seed": 7, "steps_planned": 3, "steps_done": 3, "crops_seen": 12, "seconds": 120.0, "device": "abacus",
    "versions": {"torch": "2"}, "commit": "0" * 40,
    "withheld_from_training": {
        "south_america": {"lon0": -82, "lon1": -34, "lat0": -56, "lat1": 13}, "blocks": [], "rim_cells": 4,
    },
    "withheld_scores": None, "south_america": None,
}  # fmt: skip


def test_scores_go_into_record_and_card_and_the_folder_still_loads(tmp_path: Path) -> None:
    folder = small_emulator.build(tmp_path / "small")
    weights = sha256_of(folder / "weights.safetensors")
    row = {f"{drop}{name}": 0.71234 for drop in ("", "drop_") for name in ("argmax_over_majority", "quota_over_random")}
    ablation = {"weights_sha256": weights, "regions": ["withheld"], "mixed": {"lines": row | {"log_loss": 0.5}}}
    (folder / card.RECORD).write_text(json.dumps(RECORD | {"ablation": ablation}))
    with pytest.raises(EmulatorError, match="damaged"):
        Emulator.load(folder)
    card.add_scores(folder, {"emulator": "small", "weights_sha256": weights, "regions": {}})
    emulator = Emulator.load(folder)
    assert "None yet" in (folder / card.CARD).read_text()
    result = evaluate_regions(emulator, ["south-america", "-150,-40,-61,33"], [22.5], threads=1)
    card.add_scores(folder, result)
    text = (folder / card.CARD).read_text()
    assert Emulator.load(folder).weights_hash == weights
    record = json.loads((folder / card.RECORD).read_text())
    assert record["south_america"]["mixed"] == result["regions"]["south-america"]["mixed"]
    for name, shown in (("south-america", "south-america (never seen)"), ("-150,-40,-61,33", "-150,-40,-61,33")):
        own = result["regions"][name]
        wide = own["coarser"]["22.5"]
        for degrees, part in (("11.25", own), ("22.5", wide)):
            mixed = part["mixed"]
            start = f"| {shown} | {degrees} | {mixed['argmax']['accuracy']:.4f} | {mixed['majority']['accuracy']:.4f} |"
            assert start in text
    for expected in (
        weights,
        "MIT (package); ITU-R P.1511-2",
        "| else 1.0 | see NOTICE |",
        "| lines | 0.7123 | 0.7123 | 0.5000 |",
    ):
        assert expected in text
    (folder / card.CARD).write_text(text + "better than it is\n")
    with pytest.raises(EmulatorError, match=r"CARD\.md is damaged"):
        Emulator.load(folder)


def test_scores_of_other_weights_are_refused(tmp_path: Path) -> None:
    folder = small_emulator.build(tmp_path / "small")
    with pytest.raises(EmulatorError, match="scores are of weights"):
        card.add_scores(folder, {"emulator": "small", "weights_sha256": "0" * 64, "regions": {}})


def test_a_card_has_scores_in_float32_alone() -> None:
    asked = CliRunner().invoke(app, ["evaluate", "--card", "--precision", "bfloat16"])
    assert asked.exit_code == 2
    assert "float32" in asked.output
