"""Which cells of a regular grid lie wholly inside one host cell, and which are cut by a host edge.

A host cell with great-circle edges is, where convex, the meeting of half-spaces n.x >= 0. A small cell between
parallels and meridians stays within (dlon^2 + dlat^2) / 8 of the convex hull of its corners (the sagitta of its
edges), so its corners decide with that margin: all farther inside than the margin, or all farther outside of one edge.
"""

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.regrid.polygons import Polygons, angle

Float = NDArray[np.float64]
Index = NDArray[np.int64]

_ROUNDING = 1e-13
_PAIRS = 4096


def split(hosts: Polygons, grid: RegularGrid, cells: Index) -> tuple[tuple[Index, Index], Index, Index]:
    """Sort cells of a regular grid (m,), 0-based and distinct, by how host cells cover them.

    Returns ((position in `cells`, host) of every cell wholly inside a host cell), the positions of the cells that
    host edges may cut, and the host cells (ascending) that may reach those.
    """
    blocks = _Blocks.of(grid, cells)
    block, host = _near(hosts, blocks)
    inside: list[tuple[Index, Index]] = []
    touched = np.zeros(cells.size, dtype=bool)
    whole = np.zeros(cells.size, dtype=bool)
    reaching = np.zeros(hosts.count.size, dtype=bool)
    maybe: list[tuple[Index, Index]] = []
    for first in range(0, block.size, _PAIRS):
        b, h = block[first : first + _PAIRS], host[first : first + _PAIRS]
        within, near = _sides(hosts, h, blocks, b)
        place = blocks.position[b]
        asked = place >= 0
        pair, cell = np.nonzero(within & asked)
        inside.append((place[pair, cell], h[pair]))
        whole[place[pair, cell]] = True
        pair, cell = np.nonzero(near & ~within & asked)
        maybe.append((place[pair, cell], h[pair]))
    for place, h in maybe:
        open_ = ~whole[place]
        touched[place[open_]] = True
        reaching[h[open_]] = True
    empty = np.zeros(0, dtype=np.int64)
    position, owner = (np.concatenate(part) for part in zip(*inside, strict=True)) if inside else (empty, empty)
    position, first_of = np.unique(position, return_index=True)
    return (position, owner[first_of]), np.flatnonzero(touched), np.flatnonzero(reaching)
