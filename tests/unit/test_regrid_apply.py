"""What an Overlap refuses to be made of, and its sums over rows of any length, in whole numbers."""

import numpy as np
import pytest

from ai4land_coupler.errors import RegridError
from ai4land_coupler.regrid import Overlap


@pytest.mark.parametrize("empty", [[], [0], [0, 4, 29], [29]])
def test_rows_of_every_length_sum_exactly(empty):
    """Row k has k + 1 entries with areas 1, 2, ..., and the field is 3 in even columns, 5 in odd ones."""
    lengths = [0 if k in empty else k + 1 for k in range(30)]
    row = np.repeat(np.arange(30), lengths)
    col = np.concatenate([np.arange(n) for n in lengths])
    field = np.where(np.arange(40) % 2, 5.0, 3.0)
    overlap = Overlap(row, col, col + 1.0, 30, 40)
    expected = [sum((5 if j % 2 else 3) * (j + 1) for j in range(n)) for n in lengths]
    given = overlap.apply(np.stack([field, np.ones(40), -field]))
    assert given[0].tolist() == expected
    assert given[1].tolist() == [n * (n + 1) // 2 for n in lengths]
    assert given[2].tolist() == [-value for value in expected]
    assert overlap.row_sum().tolist() == given[1].tolist()


def test_fields_that_are_not_contiguous_are_summed_as_others():
    overlap = Overlap(np.array([0, 1, 1]), np.array([1, 0, 2]), np.array([2.0, 3.0, 4.0]), 2, 3)
    x = np.arange(12.0).reshape(3, 4).T
    assert overlap.apply(x).tolist() == overlap.apply(np.ascontiguousarray(x)).tolist()
    assert overlap.apply(x)[0].tolist() == [2 * 4, 3 * 0 + 4 * 8]


@pytest.mark.parametrize(
    ("row", "col", "area", "message"),
    [
        ([0, 3], [0, 0], [1, 1], r"row must be in 0\.\.2, got 0\.\.3"),
        ([-1, 1], [0, 0], [1, 1], r"row must be in 0\.\.2, got -1\.\.1"),
        ([0, 1], [0, 4], [1, 1], r"col must be in 0\.\.3, got 0\.\.4"),
        ([0, 1], [-2, 0], [1, 1], r"col must be in 0\.\.3, got -2\.\.0"),
        ([0, 1 + 2**62, 2], [0, 0, 0], [1, 1, 1], r"row must be in 0\.\.2, got 0\.\.4611686018427387905"),
        ([0, 1], [0, 0], [1, np.nan], "finite"),
        ([0, 1], [0, 0], [1, np.inf], "finite"),
        ([0, 1], [0, 0], [1, -1], "not negative"),
        ([0, 1], [0, 0], [1, 0], "above 0, got 0"),
        ([1, 0], [0, 0], [1, 1], "sorted"),
        ([0, 0], [1, 0], [1, 1], "sorted"),
        ([0, 0], [1, 1], [1, 1], "sorted"),
        ([0, 0], [1], [1, 1], "one length"),
    ],
)
def test_what_is_no_sorted_matrix_of_areas_is_refused(row, col, area, message):
    """With 4 columns, a flipped bit 62 of a row leaves row * 4 + col as it was in 64 bits."""
    with pytest.raises(RegridError, match=message):
        Overlap(np.array(row), np.array(col), np.array(area, dtype=float), 3, 4)


def test_sums_are_put_where_there_is_room():
    """Two rows over three columns by hand: 2 x0 + 3 x2 and 5 x1."""
    overlap = Overlap(np.array([0, 0, 1]), np.array([0, 2, 1]), np.array([2.0, 3.0, 5.0]), 2, 3)
    x, room = np.array([[1.0, 10.0, 100.0], [1.0, 1.0, 1.0]]), np.full((2, 2), np.nan)
    assert overlap.apply(x, room) is room
    assert room.tolist() == [[302.0, 50.0], [5.0, 5.0]]
    with pytest.raises(RegridError, match=r"room of shape \(2, 2\) float64, got \(2, 3\)"):
        overlap.apply(x, np.empty((2, 3)))
