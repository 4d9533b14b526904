"""States of the years between those of a file."""

from types import SimpleNamespace

import numpy as np
import pytest

from ai4land_coupler.yearly import YearlyStates


@pytest.fixture
def decades() -> tuple[YearlyStates, dict[int, np.ndarray], list[int]]:
    """Years of a file in no order, the states it holds, and a note of each that is read."""
    rng = np.random.default_rng(0)
    held = {}
    for year in (1800, 1700, 1750):
        parts = rng.random((3, 50))
        held[year] = parts / parts.sum(axis=0)
    read: list[int] = []

    def of(year: int) -> dict[str, np.ndarray]:
        read.append(year)
        return {str(k): row for k, row in enumerate(held[year])}

    return YearlyStates(SimpleNamespace(years=tuple(held), grid=None, read=of)), held, read


def as_array(state: dict[str, np.ndarray]) -> np.ndarray:
    return np.stack([state[str(k)] for k in range(3)])


def test_every_year_lies_on_the_line_between_its_neighbours(decades) -> None:
    yearly, held, _ = decades
    assert yearly.years == tuple(range(1700, 1801))
    for year in (1700, 1750, 1800):
        assert np.array_equal(as_array(yearly.read(year)), held[year])
    for year in (1701, 1712, 1749, 1751, 1799):
        before, after = (1700, 1750) if year < 1750 else (1750, 1800)
        found = as_array(yearly.read(year))
        expected = held[before] + (held[after] - held[before]) * (year - before) / 50
        assert np.abs(found - expected).max() < 1e-15
        assert np.abs(found.sum(axis=0) - 1).max() < 1e-15


def test_both_directions_give_the_same_bits_and_read_each_state_once(decades) -> None:
    yearly, _, read = decades
    forwards = {year: as_array(yearly.read(year)) for year in yearly.years}
    assert read == [1700, 1750, 1800]
    for year in yearly.years[::-1]:
        assert as_array(yearly.read(year)).tobytes() == forwards[year].tobytes()
    assert read == [1700, 1750, 1800, 1750, 1700]
