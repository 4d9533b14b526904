"""States of every year where a file holds one every ten or fifty years."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.grids import HostGrid
from ai4land_coupler.statefile import CoarseStates

State: TypeAlias = dict[str, NDArray[np.float64]]


class YearlyStates:
    """Every year between the first and the last of a file, linear in the fractions between the file's own years.

    A mean of two states sums to what they sum to; the step divides by that sum. The years of the file are as they are.
    The two states around the last year asked for stay in memory.
    """

    def __init__(self, states: CoarseStates) -> None:
        self._states = states
        self._known = sorted(states.years)
        self._kept: dict[int, State] = {}

    @property
    def years(self) -> tuple[int, ...]:
        """All years from the file's first to its last, ascending."""
        return tuple(range(self._known[0], self._known[-1] + 1))

    @property
    def grid(self) -> HostGrid:
        """This rank's cells."""
        return self._states.grid

    def read(self, year: int) -> State:
        """State of a year, {class: (n,)}; 0 where there is no land."""
        at = int(np.searchsorted(self._known, year))
        if self._known[at] == year:
            return self._of(year)[0]
        before, after = self._known[at - 1], self._known[at]
        share = (year - before) / (after - before)
        one, other = self._of(before, after)
        return {name: (1.0 - share) * one[name] + share * other[name] for name in one}

    def _of(self, *years: int) -> tuple[State, ...]:
        """The file's own states of one or two years."""
        self._kept = {year: self._kept[year] if year in self._kept else self._states.read(year) for year in years}
        return tuple(self._kept.values())
