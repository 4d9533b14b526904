"""The baselines meet the totals, and the neighbour rule puts gains where they are derived by hand to go."""

import numpy as np
import pytest

from ai4land_coupler.errors import ConstraintError
from ai4land_coupler.training.scores import baselines


def some_map(shape: tuple[int, int] = (57, 83), classes: int = 5, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes + 1, shape).astype(np.uint8)


def other_counts(prior: np.ndarray, blocks: np.ndarray, classes: int = 5) -> np.ndarray:
    """Counts of a map drawn anew on the same land."""
    drawn = np.where(prior > 0, np.random.default_rng(9).integers(1, classes + 1, prior.shape), 0).astype(np.uint8)
    return baselines.counts_in(drawn, blocks, classes)


@pytest.mark.parametrize("rule", [baselines.allocate, baselines.allocate_at_random])
def test_the_counts_wanted_are_met_and_only_losing_classes_change(rule) -> None:
    prior = some_map()
    blocks = baselines.block_map(prior.shape, 10)
    wanted, before = other_counts(prior, blocks), baselines.counts_in(prior, blocks, 5)
    made = rule(prior, wanted, 10)
    assert np.array_equal(baselines.counts_in(made, blocks, 5), wanted)
    assert np.array_equal(made > 0, prior > 0)
    changed = made != prior
    assert (wanted < before)[blocks[changed], prior[changed] - 1].all()
    assert (wanted > before)[blocks[changed], made[changed] - 1].all()
    assert int(changed.sum()) == int(np.maximum(wanted - before, 0).sum())
    assert np.array_equal(rule(prior, before, 10), prior)


def test_a_gain_goes_next_to_its_class() -> None:
    prior = np.ones((1, 20), np.uint8)
    prior[0, 3] = 2
    # shares of class 2 within 2 cells: 1/4 at 1 (the square is cut at the edge), 1/5 at 2, 4 and 5
    made = baselines.allocate(prior, np.array([[18, 2]]), 20, radius=2)
    assert np.flatnonzero(made[0] == 2).tolist() == [1, 3]
    made = baselines.allocate(prior, np.array([[15, 5]]), 20, radius=2)
    assert np.flatnonzero(made[0] == 2).tolist() == [1, 2, 3, 4, 5]


def test_the_larger_gain_goes_first_and_losing_classes_lose_what_they_lose() -> None:
    # 3 gains two: cell 1 (share 1/5), and as class 1 loses only one, cell 3 (1/7); then 4 takes cell 5 (1/5)
    prior = np.array([[3, 1, 1, 2, 2, 2, 4]], np.uint8)
    made = baselines.allocate(prior, np.array([[1, 1, 3, 2]]), 7, radius=3)
    assert made[0].tolist() == [3, 3, 1, 3, 2, 4, 4]
    assert np.bincount(made[0], minlength=5)[1:].tolist() == [1, 1, 3, 2]


def test_neighbours_are_weighted_by_area_and_looked_for_across_blocks() -> None:
    prior = np.array([[1, 1, 1, 1, 2, 2]], np.uint8)
    made = baselines.allocate(prior, np.array([[3, 1], [0, 2]]), np.array([[0, 0, 0, 0, 1, 1]]), radius=1)
    assert made[0].tolist() == [1, 1, 1, 2, 2, 2]
    # a 2 on either side of the ones; shares within 1 cell: 1 of 1 + 1 + 9 at cell 1, 1 of 9 + 1 + 1 at cell 2
    prior = np.array([[2, 1, 1, 2]], np.uint8)
    for area, expected in (([1.0, 1, 9, 9], [2, 1, 2, 2]), ([9.0, 9, 1, 1], [2, 2, 1, 2])):
        made = baselines.allocate(prior, np.array([[1, 3]]), 4, radius=1, area=np.array([area]))
        assert made[0].tolist() == expected


def test_the_sum_over_squares() -> None:
    field = np.random.default_rng(0).integers(0, 9, (8, 11)).astype(float)
    sums = baselines.box_sum(field, 2)
    for y in range(8):
        for x in range(11):
            assert sums[y, x] == field[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].sum()


def test_filling_and_dealing() -> None:
    land = some_map() > 0
    blocks = baselines.block_map(land.shape, 20)
    wanted = other_counts(some_map(), blocks)
    dealt = baselines.place_at_random(land, wanted, 20, seed=1)
    assert np.array_equal(baselines.counts_in(dealt, blocks, 5), wanted)
    assert not np.array_equal(dealt, baselines.place_at_random(land, wanted, 20, seed=2))
    filled = baselines.fill_majority(land, wanted, 20)
    assert np.array_equal(filled > 0, land)
    assert np.array_equal(filled[land], wanted.argmax(1)[blocks[land]] + 1)
    assert baselines.whole_counts(np.array([[0.5, 0.26, 0.24]]), np.array([10])).tolist() == [[5, 3, 2]]


def test_a_large_map_takes_seconds() -> None:
    """1000 x 1000 cells of 17 classes; what is measured is that the counts of all 100 blocks are met."""
    prior = some_map((1000, 1000), 17)
    blocks = baselines.block_map(prior.shape, 100)
    wanted = other_counts(prior, blocks, 17)
    assert np.array_equal(baselines.counts_in(baselines.allocate(prior, wanted, 100), blocks, 17), wanted)


def test_counts_that_cannot_be_met_are_refused() -> None:
    prior = np.array([[1, 2, 0, 1]], np.uint8)
    for wanted in ([[1, 1]], [[4, -1]], [[1, 1], [1, 0]]):
        with pytest.raises(ConstraintError, match=r"block|wanted"):
            baselines.allocate(prior, np.array(wanted), 4)
