"""The sparse matrix of overlap areas."""

import numpy as np
import pytest

from ai4land_coupler.errors import RegridError
from ai4land_coupler.regrid import Overlap


def test_triplets_are_sorted_summed_and_zeros_dropped():
    overlap = Overlap.from_triplets([2, 0, 2, 1, 0], [1, 3, 1, 0, 2], [1.0, 2.0, 4.0, 0.0, 8.0], n_row=3, n_col=4)
    assert overlap.row.tolist() == [0, 0, 2]
    assert overlap.col.tolist() == [2, 3, 1]
    assert overlap.area.tolist() == [8.0, 2.0, 5.0]


def test_apply_is_the_sum_of_area_times_value():
    overlap = Overlap.from_triplets([0, 0, 2], [2, 3, 1], [8.0, 2.0, 5.0], n_row=4, n_col=4)
    x = np.array([[1.0, 10.0, 100.0, 1000.0], [1.0, 1.0, 1.0, 1.0]])
    assert overlap.apply(x).tolist() == [[8 * 100 + 2 * 1000, 0, 50, 0], [10, 0, 5, 0]]
    assert overlap.row_sum().tolist() == [10, 0, 5, 0]
    assert overlap.col_sum().tolist() == [0, 5, 8, 2]


def test_no_entries_at_all():
    overlap = Overlap.from_triplets([], [], [], n_row=3, n_col=0)
    assert overlap.apply(np.zeros((2, 0))).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert overlap.col_sum().tolist() == []


def test_a_row_sums_to_the_same_bits_alone_and_among_others():
    random = np.random.default_rng(1)
    row = np.repeat(np.arange(50), random.integers(1, 40, 50))
    col = np.concatenate([random.choice(200, n, replace=False) for n in np.bincount(row)])
    area, x = random.random(row.size) * 10.0 ** random.integers(-8, 8, row.size), random.random((3, 200))
    together = Overlap.from_triplets(row, col, area, 50, 200).apply(x)
    for r in range(50):
        alone = Overlap.from_triplets(np.zeros((row == r).sum()), col[row == r], area[row == r], 1, 200).apply(x)
        assert alone[:, 0].tobytes() == together[:, r].tobytes()


@pytest.mark.parametrize(
    ("row", "col", "area", "message"),
    [
        ([0, 3], [0, 0], [1.0, 1.0], r"row must be in 0\.\.2, got 0\.\.3"),
        ([0, 1], [0, -1], [1.0, 1.0], r"col must be in 0\.\.1, got -1\.\.0"),
        ([0], [0], [np.nan], "finite"),
        ([0], [0], [-1.0], "not negative"),
        ([0, 1], [0], [1.0], "one length"),
    ],
)
def test_nonsense_is_refused(row, col, area, message):
    with pytest.raises(RegridError, match=message):
        Overlap.from_triplets(row, col, area, n_row=3, n_col=2)


def test_unsorted_entries_are_refused_by_the_class_itself():
    with pytest.raises(RegridError, match="sorted"):
        Overlap(np.array([1, 0]), np.array([0, 0]), np.array([1.0, 1.0]), 2, 1)


def test_fields_of_another_length_are_refused():
    with pytest.raises(RegridError, match=r"expected fields of shape \(K, 2\)"):
        Overlap.from_triplets([0], [1], [1.0], 1, 2).apply(np.zeros((1, 3)))
