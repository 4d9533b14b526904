"""Maps that any model must beat: nothing changes, fill with the largest class, place at random, and a neighbour rule.

All but the first take the cells wanted of each class in each block, so that a model and its baselines get the same
totals. Blocks are squares of n x n cells, or given as a map of block numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.constraint import _counts, _splitmix64
from ai4land_coupler.errors import ConstraintError

RADIUS = 5
"""Cells to each side over which the neighbour rule looks."""

Scores = Callable[[NDArray[np.int64], int], NDArray[np.float64]]


def block_map(shape: tuple[int, int], blocks: int | NDArray[np.integer]) -> NDArray[np.int64]:
    """Block number 0.. of each cell of a map (ny, nx), -1 for none; squares of `blocks` cells count row by row.

    Squares start at the first row and column; those at the far edges may be cut.
    """
    if isinstance(blocks, int | np.integer):
        across = -(-shape[1] // int(blocks))
        return (np.arange(shape[0]) // blocks)[:, None] * across + np.arange(shape[1]) // blocks
    if blocks.shape != shape:
        raise ConstraintError(f"a block number for each cell of a map of {shape} is expected, got {blocks.shape}")
    return blocks.astype(np.int64)


def counts_in(classes: NDArray[np.uint8], blocks: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """Cells of each of `number` classes in each block, (B, K), of classes 1..K, 0 off land."""
    used = (classes > 0) & (blocks >= 0)
    total = int(blocks.max(initial=-1)) + 1
    pair = blocks[used] * number + classes[used] - 1
    return np.bincount(pair, minlength=total * number).reshape(total, number)


def whole_counts(totals: NDArray[np.float64], cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cells of each class (B, K), floor or ceil of fractions (B, K) of `cells` (B,), that sum to `cells`.

    The cells left over go to the largest remainders, the lower class first among equals, as in `constraint.quota`.
    Raises CellError where the fractions of a block with land do not sum to 1.
    """
    return _counts(np.asarray(totals, np.float64), np.asarray(cells, np.int64))


def persistence(prior: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The null model: nothing changes."""
    return prior.copy()


def fill_majority(
    land: NDArray[np.bool_], wanted: NDArray[np.integer], blocks: int | NDArray[np.integer]
) -> NDArray[np.uint8]:
    """Fill the land (ny, nx) of each block with its largest class (the lower among equals); wanted (B, K) cells."""
    numbers = block_map(land.shape, blocks)
    land = land & (numbers >= 0)
    return np.where(land, wanted.argmax(1)[numbers] + 1, 0).astype(np.uint8)


def place_at_random(
    land: NDArray[np.bool_], wanted: NDArray[np.integer], blocks: int | NDArray[np.integer], seed: int = 0
) -> NDArray[np.uint8]:
    """Deal wanted (B, K) cells of each class at random to the land (ny, nx) of each block: right counts, no skill."""
    numbers = block_map(land.shape, blocks)
    cell = np.flatnonzero(land & (numbers >= 0))
    block = numbers.reshape(-1)[cell]
    _agree(np.bincount(block, minlength=len(wanted)), np.asarray(wanted))
    order = cell[np.lexsort((_draw(cell, seed), block))]
    out = np.zeros(land.size, np.uint8)
    out[order] = np.repeat(np.tile(np.arange(1, wanted.shape[1] + 1), len(wanted)), np.asarray(wanted).reshape(-1))
    return out.reshape(land.shape)


def allocate(
    prior: NDArray[np.uint8],
    wanted: NDArray[np.integer],
    blocks: int | NDArray[np.integer],
    radius: int = RADIUS,
    area: NDArray[np.float64] | None = None,
) -> NDArray[np.uint8]:
    """Change a map to wanted counts by the neighbour rule, the rule-based allocator that models are compared with.

    prior (ny, nx) uint8 holds 1..K, 0 off land; wanted (B, K) cells of each class in each block, the sum of a block its
    land cells; `area` (ny, nx) weighs neighbours, all alike where left out. In each block a class that gains takes
    cells of classes that lose: those with the largest share of the gaining class in the land within `radius` cells
    (a square of the prior map, cut at its edges; across blocks), no more of a losing class than it loses. The class
    that gains most goes first, the lower among equals; cells with equal shares go in the order of a hash of their
    number. Returns the map; its counts are those wanted, and a block without change is returned as it was.
    """
    weight = (prior > 0) * (np.ones(prior.shape) if area is None else area)
    around = np.maximum(box_sum(weight, radius), np.finfo(float).tiny).reshape(-1)

    def share(cells: NDArray[np.int64], klass: int) -> NDArray[np.float64]:
        return (box_sum(weight * (prior == klass), radius).reshape(-1) / around)[cells]

    return _convert(prior, np.asarray(wanted), block_map(prior.shape, blocks), share)


def allocate_at_random(
    prior: NDArray[np.uint8], wanted: NDArray[np.integer], blocks: int | NDArray[np.integer], seed: int = 0
) -> NDArray[np.uint8]:
    """Change a map to wanted counts (B, K) with the cells of losing classes that change drawn at random."""

    def drawn(cells: NDArray[np.int64], klass: int) -> NDArray[np.float64]:
        return _draw(cells, seed * 1009 + klass).astype(np.float64)

    return _convert(prior, np.asarray(wanted), block_map(prior.shape, blocks), drawn)


def _convert(
    prior: NDArray[np.uint8], wanted: NDArray[np.integer], blocks: NDArray[np.int64], score: Scores
) -> NDArray[np.uint8]:
    """Give gains to the cells of losing classes with the highest score, block by block, gaining class by class."""
    total, number = wanted.shape
    if int(blocks.max(initial=-1)) >= total or int(prior.max(initial=0)) > number:
        raise ConstraintError(
            f"wanted holds {total} blocks and {number} classes, the maps {int(blocks.max()) + 1} and {int(prior.max())}"
        )
    change = wanted.astype(np.int64)
    present = counts_in(prior, blocks, number)
    _agree(np.pad(present.sum(1), (0, total - len(present))), change)
    change[: len(present)] -= present
    losing = np.maximum(-change, 0)
    out, flat = prior.reshape(-1).copy(), blocks.reshape(-1)
    at = np.flatnonzero((out > 0) & (flat >= 0))
    at = at[losing[flat[at], out[at] - 1] > 0]
    scores = _scores_of_pairs(at, flat[at], change, score)
    order = np.argsort(-change, axis=1, kind="stable")
    for place in range(int((change > 0).sum(1).max(initial=0))):
        gains = np.take_along_axis(change, order[:, place : place + 1], axis=1)[:, 0]
        chosen, klass = [], []
        for k, (cells, values) in scores.items():
            now = (order[flat[cells], place] == k) & (losing[flat[cells], out[cells] - 1] > 0)
            now &= out[cells] == prior.reshape(-1)[cells]
            chosen.append((cells[now], values[now]))
            klass.append(np.full(int(now.sum()), k))
        if not chosen:
            break
        cells, values = (np.concatenate(parts) for parts in zip(*chosen, strict=True))
        taken = _best(cells, values, flat[cells], out[cells] - 1, np.maximum(gains, 0), losing)
        new = np.concatenate(klass)[taken]
        np.subtract.at(losing, (flat[cells[taken]], out[cells[taken]] - 1), 1)
        out[cells[taken]] = new + 1
    return out.reshape(prior.shape)


def _scores_of_pairs(
    at: NDArray[np.int64], block: NDArray[np.int64], change: NDArray[np.int64], score: Scores
) -> dict[int, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """For each class k that gains anywhere: the cells that may become it, and their scores."""
    pairs = {}
    for k in np.flatnonzero((change > 0).any(0)):
        cells = at[change[block, k] > 0]
        pairs[int(k)] = cells, score(cells, int(k) + 1)
    return pairs


def _best(
    cells: NDArray[np.int64],
    values: NDArray[np.float64],
    block: NDArray[np.int64],
    klass: NDArray[np.integer],
    gains: NDArray[np.int64],
    losing: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Positions of the gains (B,) best cells of each block, no more of a class in a block than losing (B, K)."""
    draw = _splitmix64(cells + 1)
    order = np.lexsort((draw, -values, klass, block))
    group = block[order] * losing.shape[1] + klass[order]
    order = order[_rank(group) < losing[block[order], klass[order]]]
    order = order[np.lexsort((draw[order], -values[order], block[order]))]
    return order[_rank(block[order]) < gains[block[order]]]


def _rank(group: NDArray[np.integer]) -> NDArray[np.int64]:
    """Place 0.. of each element within its run of equals."""
    start = np.flatnonzero(np.r_[True, group[1:] != group[:-1]]) if group.size else np.zeros(0, np.int64)
    return np.arange(group.size) - np.repeat(start, np.diff(np.r_[start, group.size]))


def box_sum(field: NDArray[np.float64], radius: int) -> NDArray[np.float64]:
    """Sum over the square of 2 radius + 1 cells around each cell of (ny, nx), cut at the edges."""
    for axis in (0, 1):
        size = field.shape[axis]
        sums = np.zeros(tuple(n + (a == axis) for a, n in enumerate(field.shape)))
        np.cumsum(field, axis=axis, out=sums[1:] if axis == 0 else sums[:, 1:])
        last, first = np.minimum(np.arange(size) + radius + 1, size), np.maximum(np.arange(size) - radius, 0)
        field = sums.take(last, axis) - sums.take(first, axis)
    return field


def _draw(cells: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """A number for each cell that looks drawn at random, from its number and a seed."""
    return _splitmix64(_splitmix64(cells + 1).astype(np.int64) ^ np.int64(seed * 0x9E3779B9 + 1))


def _agree(cells: NDArray[np.int64], wanted: NDArray[np.integer]) -> None:
    wrong = np.flatnonzero((wanted.sum(1) != cells) | (wanted < 0).any(1)) if len(wanted) == len(cells) else [0]
    if len(wrong):
        b = int(wrong[0])
        got = int(wanted[b].sum()) if b < len(wanted) else "none"
        raise ConstraintError(
            f"block {b}: counts wanted for its {int(cells[b])} land cells, each 0 or more, are expected; "
            f"their sum is {got}"
        )
