"""Totals of coarse cells under host cells that are larger than they are.

A host cell tells one state for all the coarse cells under it. Spread evenly it would undo what the network says of the
differences between them. The totals are instead those closest to the network's: with q_c the coarse mean of its
fractions, a host cell h gives the coarse cell c the shares  f_hc = softmax(log q_c + beta_h),  beta_h solved so that
sum_c O_hc f_hc = S_h sum_c O_hc  over its overlaps O (the I-projection of `constraint`, a coarse cell in the place of a
pixel). A coarse cell's totals are  F_c = sum_h O_hc f_hc / sum_h O_hc.

The bits of a host cell's shares depend on its own overlaps and state alone.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.constraint import BATCH, DEEPEST_LOGIT, PROMISE, alike, newton, over_classes
from ai4land_coupler.errors import ConstraintError
from ai4land_coupler.regrid import Overlap

Float = NDArray[np.float64]
Index = NDArray[np.int64]

FLOOR = float(np.exp(DEEPEST_LOGIT))
"""Smallest q of a coarse cell, in shares of its largest, so that an offset can still lift the class."""


class HostCellError(ConstraintError):
    """A host cell whose state cannot be shared out; `host` is its 0-based place."""

    def __init__(self, host: int, what: str) -> None:
        super().__init__(f"host cell {host} of those given: {what}")
        self.host = host


def totals(q: Float, host: Index, coarse: Index, area: Float, state: Float) -> Float:
    """Totals F (K, m) of m coarse cells, fractions that sum to 1 where host cells overlap them and 0 elsewhere.

    q (K, m): coarse means of the network's fractions, at least 0; host, coarse (n,): which host cell overlaps which
    coarse cell, each pair once and in any order, and area (n,) above 0, m2; state (K, h): fractions that sum to 1.
    sum_c O_hc f_hc misses S_h sum_c O_hc by at most 1e-12 of that area. A class with S_h = 0 gets exactly 0 from h; a
    coarse cell that meets only host cells inside it gets the conservative regrid, bit for bit. Raises HostCellError.
    """
    order = np.lexsort((host, coarse))
    shares = spread(q[:, coarse], host, coarse, area, state)[:, order]
    regridded = Overlap(coarse[order], np.arange(host.size), area[order], q.shape[1], host.size).apply(shares)
    return regridded / np.maximum(regridded.sum(axis=0), np.finfo(float).tiny)


def spread(q: Float, host: Index, coarse: Index, area: Float, state: Float) -> Float:
    """Shares f (K, n) of the classes in each of n overlaps of host and coarse cells; fractions that sum to 1.

    q (K, n) of each overlap's coarse cell; the rest as in `totals`, but area may be 0: what no q is known of gets its
    host's state and takes no part. Sums run in the order of `coarse`. Raises HostCellError for the first host cell that
    has a q or a state that is not usable, or that did not converge.
    """
    shares = state[:, host]
    takes_part = area > 0
    bad = ~(np.isfinite(q).all(axis=0) & (q >= 0).all(axis=0)) & takes_part
    if bad.any():
        raise HostCellError(int(host[bad].min()), "the network's coarse means are not finite fractions")
    for cells, at in _of_one_width(np.lexsort((coarse, host)), host, takes_part, state.shape[1]):
        known = at >= 0
        weight = np.where(known, area[at], 0.0)
        weight /= weight.sum(axis=1, keepdims=True)
        for some, classes in alike(state[:, cells].T, 100 * BATCH // at.shape[1]):
            if classes.shape[1] > 1:
                wanted = state[classes.T, cells[some]]
                f = _shares(q[classes.T[:, :, None], at[some]], weight[some], wanted, cells[some])
                row, place = np.nonzero(known[some])
                shares[classes[row].T, at[some[row], place]] = f[:, row, place]
    return shares


def _shares(q: Float, weight: Float, wanted: Float, cells: Index) -> Float:
    """Shares (k, c, w) of c host cells over w coarse cells each, from q (k, c, w), weights (c, w), states (k, c)."""
    largest = over_classes(np.maximum, q)
    e = np.maximum(np.where(largest > 0, q, 1.0) / np.where(largest > 0, largest, 1.0), FLOOR)
    f = wanted / wanted.sum(axis=0)
    shares, left = newton(e, weight, f)
    stuck = np.argwhere(~(np.abs(left + (f - wanted)) <= PROMISE))
    if stuck.size:
        klass, cell = (int(i) for i in stuck[0])
        raise HostCellError(
            int(cells[cell]),
            f"a share {wanted[klass, cell]:.17g} of its state is missed by {left[klass, cell]:.3g}, {PROMISE:g} is "
            "allowed; its classes must sum to 1",
        )
    return shares


def _of_one_width(
    order: Index, host: Index, takes_part: NDArray[np.bool_], n_host: int
) -> Iterator[tuple[Index, Index]]:
    """Host cells (c,) with two overlaps or more that take part, and where these are (c, width), -1 for none.

    The width is the next power of two, so that it follows from a host cell's own overlaps.
    """
    order = order[takes_part[order]]
    count = np.bincount(host[order], minlength=n_host)
    first = np.cumsum(count) - count
    width = 1 << np.ceil(np.log2(np.maximum(count, 1))).astype(np.int64)
    for wide in np.unique(width[count > 1]):
        cells = np.flatnonzero((width == wide) & (count > 1))
        slot = np.arange(wide)
        inside = slot < count[cells, None]
        yield cells, np.where(inside, order[np.where(inside, first[cells, None] + slot, 0)], -1)
