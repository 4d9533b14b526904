"""Where people live, as network inputs: places and their people in boxes around a fine cell.

Box sums are exact integers and only + - * / sqrt follow, so that a value depends on its position alone. The shares of
a small box in a large one do not see how many places a country's gazetteer lists.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler import kernel
from ai4land_coupler.natives import Field, Lines, Window, box_sums

RADII = (0, 1, 3, 8, 20)  # fine cells: boxes of 1, 3, 7, 17 and 41 cells, 0.05 to 2 degrees
SHARES = ((1, 8), (3, 20))  # radii of the small and the large box of a share
RIM = max(RADII)
LISTED = 1 << 12
"""Totals below this have their roots in a list."""
_RADII = np.array(RADII, np.int64)
_SHARES = np.array([[RADII.index(radius) for radius in pair] for pair in SHARES], np.int64)


def _side(radius: int) -> int:
    return 2 * radius + 1


SETTLEMENTS = tuple(
    name
    for kind in ("places", "people")
    for name in (
        *(f"{kind}_{_side(radius)}" for radius in RADII),
        *(f"{kind}_{_side(small)}_of_{_side(large)}" for small, large in SHARES),
    )
)


@dataclass(frozen=True)
class Settlements:
    """Numbers of places, and of their people in units of `people.scale`, in the fine cells that have some."""

    places: Lines
    people: Lines

    def fields(self, window: Window) -> dict[str, Field]:
        """Return the fields of SETTLEMENTS in the window, (nrow, ncol) each.

        places_n, people_n: fourth root of the sum over a box of n cells; _of_: root of the mean density in the small
        box over that in the large one, to whose sum one place or one unit of people is added.
        """
        fields: list[Field] = []
        for lines in (self.places, self.people):
            values = lines.packed(window, RIM)
            if kernel.ready():
                fields += [*kernel.settled(values, RIM, _RADII, _SHARES, lines.scale, _small_roots(lines.scale))]
            else:
                fields += _fields(values, lines.scale)
        return dict(zip(SETTLEMENTS, fields, strict=True))


def _fields(values: NDArray[np.int64], scale: float) -> list[Field]:
    """The fields of one kind, in the order of SETTLEMENTS."""
    sums = dict(zip(RADII, box_sums(values, *RADII), strict=True))
    shares = [(sums[small] * _side(large) ** 2) / ((sums[large] + 1) * _side(small) ** 2) for small, large in SHARES]
    return [*(_roots(total, scale) for total in sums.values()), *(np.sqrt(x).astype(np.float32) for x in shares)]


@functools.lru_cache(maxsize=4)
def _small_roots(scale: float) -> Field:
    return _roots(np.arange(LISTED), scale)


def _roots(total: NDArray[np.int64], scale: float) -> Field:
    return np.sqrt(np.sqrt(total * scale)).astype(np.float32)
