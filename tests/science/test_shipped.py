"""The emulator that ships: its record belongs to its weights, meets the bars, and holds on land never trained on."""

import json
from itertools import pairwise

import pytest

from ai4land_coupler.emulator import FILES, Emulator, sha256_of
from ai4land_coupler.training.data.dataset import SOUTH_AMERICA, Box
from ai4land_coupler.training.scores.evaluate import alone, evaluate, evaluate_regions


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    return Emulator.load("igbp-0p05")


@pytest.fixture(scope="module")
def record(emulator: Emulator) -> dict:
    return json.loads((emulator.path / "training_record.json").read_text())


def test_it_fits_the_package(emulator: Emulator) -> None:
    assert sum((emulator.path / name).stat().st_size for name in (*FILES, "emulator.yaml")) < 25e6
    assert emulator.legend == (
        "forest", "shrub_savanna", "grassland", "wetland", "cropland", "urban", "snow_ice", "barren",
    )  # fmt: skip


def test_the_record_is_that_of_these_files(emulator: Emulator, record: dict) -> None:
    assert record["south_america"]["weights_sha256"] == emulator.weights_hash
    repacked = record["repacked"]
    for name, trained_on in record["data_sha256"].items():
        if name in repacked:
            assert repacked[name]["of"] == trained_on
            assert repacked[name]["sha256"] == sha256_of(emulator.path / name)
        elif (emulator.path / name).exists():
            assert trained_on == sha256_of(emulator.path / name)
    assert set(repacked) < set(record["data_sha256"])
    assert record["steps_done"] == record["steps_planned"] == record["configuration"]["steps"]
    steps = [entry["step"] for entry in record["log"]]
    assert all(a <= b for a, b in pairwise(steps))


def test_south_america_was_withheld_and_beats_the_bars(record: dict) -> None:
    withheld = record["withheld_from_training"]
    assert Box(**withheld["south_america"]) == SOUTH_AMERICA == Box(-82, -34, -56, 13)
    assert withheld["rim_cells"] >= 48
    mixed = record["south_america"]["mixed"]
    assert mixed["majority"]["accuracy"] == pytest.approx(0.713, abs=0.001)
    assert mixed["random_expected_accuracy"] == pytest.approx(0.609, abs=0.001)
    assert mixed["argmax_over_majority"] >= 0.03
    assert mixed["quota_over_random"] >= 0.09


def test_it_holds_on_a_withheld_block(emulator: Emulator, record: dict) -> None:
    block = {"lon0": 22, "lon1": 34, "lat0": -28, "lat1": -16}
    assert block in record["withheld_from_training"]["blocks"]
    scores = evaluate(emulator, ",".join(str(block[key]) for key in ("lon0", "lon1", "lat0", "lat1")))["mixed"]
    assert scores["argmax_over_majority"] >= 0.02
    assert scores["quota_over_random"] >= 0.05


def test_bfloat16_keeps_the_scores(emulator: Emulator) -> None:
    """Margins and log loss move by less than 0.002, and something does move."""
    exact, short = (
        alone(evaluate_regions(emulator, ["22,34,-28,-16"], precision=precision))["mixed"]
        for precision in ("float32", "bfloat16")
    )
    margins = "argmax_over_majority", "quota_over_random"
    assert max(abs(exact[name] - short[name]) for name in margins) < 0.002
    assert abs(exact["log_loss"]["ratio"] - short["log_loss"]["ratio"]) < 0.002
    assert exact != short
