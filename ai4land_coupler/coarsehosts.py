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

from ai4land_coupler import kernel
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
    q, shares = np.ascontiguousarray(q), state.take(host, axis=1)
    takes_part = area > 0
    bad = ~((q.min(axis=0) >= 0) & (q.max(axis=0) < np.inf)) & takes_part
    if bad.any():
        raise HostCellError(int(host[bad].min()), "the network's coarse means are not finite fractions")
    order = np.lexsort((coarse, host))
    order = order[takes_part[order]]
    count = np.bincount(host[order], minlength=state.shape[1])
    solved = (count > 1) & ((state > 0).sum(axis=0) > 1)
    order, cells = order[solved[host[order]]], np.flatnonzero(solved)
    first, wanted = np.concatenate([[0], np.cumsum(count[solved])]), state[:, solved]
    shares[:, order], left = (_by_kernel if kernel.ready() else _by_numpy)(
        q.take(order, axis=1), first, area[order], wanted
    )
    stuck = np.argwhere(~(np.abs(left) <= PROMISE))
    if stuck.size:
        klass, cell = (int(i) for i in stuck[0])
        raise HostCellError(
            int(cells[cell]),
            f"a share {wanted[klass, cell]:.17g} of its state is missed by {left[klass, cell]:.3g}, {PROMISE:g} is "
            "allowed; its classes must sum to 1",
        )
    return shares


def _by_kernel(q: Float, first: Index, area: Float, wanted: Float) -> tuple[Float, Float]:
    """Shares (K, n) of host cells, cell after cell as `first` says, from states (K, c); what they miss of these."""
    shares, left = kernel.spread(first, area, q, np.ascontiguousarray(wanted.T))
    return shares, left.T


def _by_numpy(q: Float, first: Index, area: Float, wanted: Float) -> tuple[Float, Float]:
    shares, missed = np.zeros(q.shape), np.zeros(wanted.shape)
    for cells, at in _of_one_width(first):
        known = at >= 0
        weight = np.where(known, area[at], 0.0)
        weight /= weight.sum(axis=1, keepdims=True)
        for some, classes in alike(wanted[:, cells].T, 100 * BATCH // at.shape[1]):
            given = q[classes.T[:, :, None], at[some]]
            largest = over_classes(np.maximum, given)
            e = np.maximum(np.where(largest > 0, given, 1.0) / np.where(largest > 0, largest, 1.0), FLOOR)
            total = wanted[classes.T, cells[some]]
            f = total / total.sum(axis=0)
            p, left = newton(e, weight[some], f)
            row, place = np.nonzero(known[some])
            shares[classes[row].T, at[some[row], place]] = p[:, row, place]
            missed[classes.T, cells[some]] = left + (f - total)
    return shares, missed


def _of_one_width(first: Index) -> Iterator[tuple[Index, Index]]:
    """Host cells (c,) and where their overlaps are (c, width), -1 for none.

    The width is the next power of two, so that it follows from a host cell's own overlaps.
    """
    count = np.diff(first)
    width = 1 << np.ceil(np.log2(count)).astype(np.int64)
    for wide in np.unique(width):
        cells, slot = np.flatnonzero(width == wide), np.arange(wide)
        yield cells, np.where(slot < count[cells, None], first[cells, None] + slot, -1)
