"""Scores of class maps and of change, each against numbers derived by hand."""

import numpy as np
import pytest

from ai4land_coupler.errors import ConfigError
from ai4land_coupler.training.scores import calibration, metrics, rollout, scoretable

ONE_ROW = np.ones((1, 8))


def row(*classes: int) -> np.ndarray:
    return np.array([classes], np.uint8)


def test_accuracy_iou_and_their_common_part() -> None:
    # observed a on 198, b on 100, c on 2 (under 1 % of 300): hits 190 + 90 + 1
    matrix = np.array([[190.0, 8, 0], [9, 90, 1], [0, 1, 1]])
    result = metrics.scores(matrix, ("a", "b", "c"))
    assert result["accuracy"] == pytest.approx(281 / 300)
    iou = [190 / 207, 90 / 109, 1 / 3]  # unions: 198 + 199 - 190, 100 + 99 - 90, 2 + 2 - 1
    assert list(result["iou"].values()) == pytest.approx(iou)
    assert result["miou"] == pytest.approx(sum(iou) / 3)
    assert result["miou_common"] == pytest.approx(sum(iou[:2]) / 2)


def test_quantity_and_allocation_add_up_to_the_disagreement() -> None:
    # observed 6 and 4, predicted 5 and 5; three cells wrong, one of them by quantity
    quantity, allocation = metrics.disagreement(np.array([[4.0, 2], [1, 3]]))
    assert quantity == pytest.approx(0.1)
    assert allocation == pytest.approx(0.2)
    rng = np.random.default_rng(0)
    matrix = rng.random((7, 7))
    accuracy = np.diag(matrix).sum() / matrix.sum()
    assert sum(metrics.disagreement(matrix)) == pytest.approx(1 - accuracy)


def test_no_land_no_scores() -> None:
    assert metrics.scores(np.zeros((2, 2)), ("a", "b"))["accuracy"] is None


def test_figure_of_merit_of_pixels() -> None:
    base = row(1, 1, 1, 1, 2, 2, 2, 0)
    seen = row(2, 3, 1, 2, 2, 1, 2, 0)  # changes at 0, 1, 3, 5
    made = row(2, 2, 2, 1, 2, 2, 2, 0)  # changes at 0 (hit), 1 (wrong), 2 (false alarm); misses 3, 5
    area = np.array([[1.0, 2, 4, 8, 16, 32, 64, 128]])
    result = rollout.figure_of_merit(base, seen, made, area)
    assert result == {
        "hits": 1, "wrong_change": 2, "misses": 40, "false_alarms": 4, "figure_of_merit": pytest.approx(1 / 47),
    }  # fmt: skip
    assert rollout.outcome_map(base, seen, made).tolist() == [[1, 2, 4, 3, 0, 3, 0, 255]]


def test_figure_of_merit_of_blocks_forgives_small_shifts() -> None:
    base = row(1, 1, 1, 1, 1, 1, 1, 1)
    seen = row(2, 1, 1, 1, 1, 2, 1, 1)
    made = row(1, 2, 1, 1, 1, 1, 1, 2)
    values = [rollout.figure_of_merit(base, seen, made, ONE_ROW, n)["figure_of_merit"] for n in (1, 2, 4, 8)]
    assert values == pytest.approx([0, 1 / 3, 1, 1])
    # in pairs: the first is met in its block; the second is a miss in block 2 and a false alarm in block 3
    parts = rollout.figure_of_merit(base, seen, made, ONE_ROW, 2)
    assert (parts["hits"], parts["misses"], parts["false_alarms"]) == (1, 1, 1)


def test_a_block_tells_classes_lost_and_gained_apart() -> None:
    base, seen, made = row(1, 1, 2, 2), row(3, 1, 2, 2), row(1, 2, 3, 2)
    # one block: observed 1 to 3 on one; predicted 1 to 2 on one (the wrong class) and 2 to 3 on one (never observed)
    parts = rollout.figure_of_merit(base, seen, made, np.ones((1, 4)), 4)
    assert (parts["hits"], parts["wrong_change"], parts["misses"], parts["false_alarms"]) == (0, 1, 0, 1)


def test_blocks_of_one_pixel_agree_with_pixels_counted_apart() -> None:
    rng = np.random.default_rng(5)
    base, seen, made = (rng.integers(0, 4, (40, 50)).astype(np.uint8) for _ in range(3))
    area = rng.random((40, 50))
    kinds = rollout.outcome_map(base, seen, made)
    parts = rollout.figure_of_merit(base, seen, made, area)
    for name, kind in (("hits", 1), ("wrong_change", 2), ("misses", 3), ("false_alarms", 4)):
        assert parts[name] == pytest.approx(area[kinds == kind].sum())


def test_a_rollout_is_scored_from_its_base_beside_persistence() -> None:
    base = row(1, 1, 1, 1, 2, 2, 2, 2)
    seen = np.stack([row(2, 1, 1, 1, 2, 2, 2, 2), row(2, 2, 1, 1, 2, 2, 2, 1)])
    made = np.stack([base, row(2, 1, 2, 2, 2, 2, 2, 2)])
    first, second = rollout.score_rollout(seen, made, base, ONE_ROW, ("a", "b"), [2011, 2014])
    assert (first["year"], first["lead"], second["year"], second["lead"]) == (2011, 1, 2014, 2)
    assert first["figure_of_merit"]["1"]["figure_of_merit"] == 0
    assert first["over_persistence"] == 0
    assert first["drift"]["classes"] == {"a": 1 / 8, "b": -1 / 8}
    assert first["drift"]["total"] == 1 / 8
    # year 2: observed change at 0, 1, 7; predicted at 0 (hit), 2, 3
    assert second["figure_of_merit"]["1"]["figure_of_merit"] == pytest.approx(1 / 5)
    assert second["accuracy"] == pytest.approx(4 / 8)
    assert second["persistence"]["accuracy"] == pytest.approx(5 / 8)
    assert second["over_persistence"] == pytest.approx(-1 / 8)
    assert (second["observed_change"], second["predicted_change"]) == (3 / 8, 3 / 8)
    changed = second["on_changed"]
    assert changed["accuracy"] == pytest.approx(1 / 3)
    # at 0, 1, 7 observed b, b, a and predicted b, a, b
    assert changed["iou"] == {"a": 0.0, "b": pytest.approx(1 / 3)}


def test_maps_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected"):
        rollout.score_rollout(np.ones((2, 1, 8), np.uint8), np.ones((3, 1, 8), np.uint8), row(1), ONE_ROW, ("a",))


def test_log_loss_weighs_by_area() -> None:
    assert calibration.log_loss(np.array([0.5, 0.25]), np.array([3.0, 1.0])) == pytest.approx(1.25 * np.log(2))
    assert calibration.log_loss(np.array([0.0]), np.array([1.0])) == np.inf


def test_calibration_error_by_hand() -> None:
    # three cells: likeliest a with 0.82 (right, area 1) and 0.84 (wrong, area 1), b with 1.0 (right, area 2)
    p = np.array([[0.82, 0.84, 0.0], [0.18, 0.16, 1.0]])
    result = calibration.calibration(p, np.array([1, 2, 2]), np.array([1.0, 1, 2]), ("a", "b"))
    assert result["error"] == pytest.approx(0.5 * (0.83 - 0.5))
    table = result["likeliest"]
    assert table["area_share"][16] == 0.5
    assert (table["forecast"][16], table["observed"][16]) == (pytest.approx(0.83), 0.5)
    assert (table["area_share"][19], table["observed"][19]) == (0.5, 1.0)
    assert table["forecast"][3] is None
    # of b: 0.18 and 0.16 share a bin with one hit of two; 1.0 is right; the same of a
    assert result["error_by_class"] == {"a": pytest.approx(0.5 * 0.33), "b": pytest.approx(0.5 * (0.5 - 0.17))}


def test_a_rollout_beside_what_it_must_beat() -> None:
    rng = np.random.default_rng(2)
    base = rng.integers(0, 4, (30, 40)).astype(np.uint8)
    seen = np.stack([np.where((base > 0) & (rng.random(base.shape) < share), 3, base) for share in (0.1, 0.3)])
    entries, maps = rollout.beside_baselines(
        seen.astype(np.uint8), seen.astype(np.uint8), base, np.ones(base.shape), ("a", "b", "c"), 10, [2001, 2005]
    )
    assert [entry["year"] for entry in entries["model"]] == [2001, 2005]
    assert [entry["lead"] for entry in entries["random"]] == [1, 2]
    for first, second in entries.values():
        assert first["observed_change"] < second["observed_change"]
    last = {name: rows[1] for name, rows in entries.items()}
    assert last["model"]["figure_of_merit"]["1"]["figure_of_merit"] == 1
    assert last["persistence"]["figure_of_merit"]["1"]["figure_of_merit"] == 0
    assert 0 < last["random"]["figure_of_merit"]["1"]["figure_of_merit"] < 1
    assert last["neighbours"]["figure_of_merit"]["1"]["figure_of_merit"] == pytest.approx(
        rollout.figure_of_merit(base, seen[1], maps["neighbours"], np.ones(base.shape))["figure_of_merit"]
    )
    for name in ("neighbours", "random"):
        assert np.bincount(maps[name].ravel()).tolist() == np.bincount(seen[1].ravel()).tolist()
        assert last[name]["drift"]["total"] == pytest.approx(0, abs=1e-15)
    text = scoretable.rollout_table(entries, [2])
    assert "2005     2 neighbours" in text
    assert "2001" not in text
