"""What an emulator makes of the true coarse fractions of its base map, given at its own or at coarser resolution.

The network and the closing are the component's. Given at its own resolution, the fractions are closed on the true
totals. Given in blocks of coarse cells, as a host tells them whose cells are that large, the network sees them spread
evenly and the totals of the coarse cells follow by the rule for coarse hosts (`coarsehosts`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler import coarsehosts
from ai4land_coupler.constraint import quota
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.inference import TileRunner
from ai4land_coupler.tiles import TileCells, all_tiles, coarse_around, to_blocks
from ai4land_coupler.tilework import TileDraft, TileWork
from ai4land_coupler.timing import Stopwatch
from ai4land_coupler.training.scores import metrics
from ai4land_coupler.training.scores.regions import Region

SEED = 2019

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Truth:
    """The base map's land in all coarse cells of the globe: area-weighted fractions (K, n), 0 at sea; area (n,) m2."""

    emulator: Emulator
    totals: Float
    land: Float

    @classmethod
    def of(cls, emulator: Emulator) -> Truth:
        """From the base map."""
        ratio, classes, coarse = emulator.coarse.ratio_to(emulator.fine), len(emulator.legend), emulator.coarse
        totals, land = np.zeros((classes, coarse.nlat, coarse.nlon)), np.zeros((coarse.nlat, coarse.nlon))
        for row in range(coarse.nlat):
            band = slice(row * ratio, (row + 1) * ratio)
            labels = to_blocks(emulator.base_map()[band], ratio)
            area = np.repeat(emulator.fine.area_rows[band], ratio) * (labels > 0)
            land[row] = area.sum(1)
            used = np.flatnonzero(land[row])
            if used.size:
                totals[:, row, used] = metrics.area_totals(labels[used], area[used], classes)[0].T
        return cls(emulator, totals.reshape(classes, -1), land.reshape(-1))

    def spread(self, blocks: int) -> Float:
        """The state of blocks x blocks coarse cells in each of those that have land, (K, n), as a host spreads it."""
        if blocks == 1:
            return self.totals
        nlat, nlon = self.emulator.coarse.nlat // blocks, self.emulator.coarse.nlon // blocks
        shape = (len(self.totals), nlat, blocks, nlon, blocks)
        area = (self.totals * self.land).reshape(shape).sum(axis=(2, 4))
        state = area / np.maximum(area.sum(0), np.finfo(float).tiny)
        wide = state.repeat(blocks, 1).repeat(blocks, 2).reshape(len(state), -1)
        return wide * (self.land > 0)


@dataclass(frozen=True, eq=False)
class Answer:
    """What the emulator makes of a region's state, in the C coarse cells of its window that have land.

    used (C,): their places in the window; labels (C, n) uint8, 0 off land; area (C, n) m2, 0 off land; fractions
    (C, K, n) of the closed fields; totals (C, K) they are closed on; state (H, K), of the host cells with land, and
    host (C,), which of them a coarse cell lies in; counts (H, K) and coarse_counts (C, K) of fine land cells.
    """

    where: Region
    used: NDArray[np.int64]
    labels: NDArray[np.uint8]
    area: Float
    fractions: Float
    totals: Float
    state: Float
    host: NDArray[np.int64]
    counts: NDArray[np.int64]
    coarse_counts: NDArray[np.int64]

    @cached_property
    def maps(self) -> dict[str, NDArray[np.uint8]]:
        """Class maps (ny, nx) of the window, 0 off land; and flags: `mixed`, land of host cells without a class on
        95 % of it, and where they are larger `mixed_coarse`, the same of coarse cells."""
        land, where = self.labels > 0, self.where
        share = self.coarse_counts / self.coarse_counts.sum(axis=1, keepdims=True)
        ids = where.to_coarse(where.cell_id)[self.used]
        chosen = {
            "observed": self.labels,
            "argmax": ((self.fractions.argmax(axis=1) + 1) * land).astype(np.uint8),
            "quota": quota(self.fractions, land, ids, share if where.blocks == 1 else self.totals),
            "majority": metrics.majority_map(self.state[self.host], land),
            "mixed": (metrics.mixed(self.counts)[self.host][:, None] & land).astype(np.uint8),
        }
        if where.blocks > 1:
            chosen["mixed_coarse"] = (metrics.mixed(self.coarse_counts)[:, None] & land).astype(np.uint8)
        maps = {name: self._map(values) for name, values in chosen.items()}
        hosts = where.to_hosts(where.observed)
        some = hosts.any(axis=1)
        dealt = np.zeros_like(hosts)
        dealt[some] = metrics.random_map(hosts[some], SEED)
        return maps | {"random": where.from_blocks(dealt, where.side)}

    def cells(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask of the window (ny, nx) in the coarse cells, (C, n)."""
        return self.where.to_coarse(mask)[self.used]

    def _map(self, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        where = self.where
        blocks = np.zeros((where.shape[0] * where.shape[1] // where.ratio**2, where.ratio**2), np.uint8)
        blocks[self.used] = values
        return where.from_blocks(blocks, where.ratio)


def answer(where: Region, truth: Truth, runner: TileRunner) -> Answer:
    """Refine the true state of a region, averaged over its host cells, with a runner in mode `level`."""
    classes = len(where.emulator.legend)
    labels, area = where.to_coarse(where.observed), where.to_coarse(where.area * (where.observed > 0))
    used = np.flatnonzero((labels > 0).any(axis=1))
    labels, area = labels[used], area[used]
    totals, coarse_counts = metrics.area_totals(labels, area, classes)
    hosts = where.to_hosts(where.observed)
    some = np.flatnonzero(hosts.any(axis=1))
    state, counts = metrics.area_totals(hosts[some], where.to_hosts(where.area)[some] * (hosts[some] > 0), classes)
    host = np.searchsorted(some, where.host_of_coarse[used])
    works = _works(where, truth.spread(where.blocks))
    watch = Stopwatch()
    if where.blocks == 1:
        fields = runner.run(works, watch, lambda: None)
    else:
        drafts = runner.draft(works, watch, lambda: None)
        totals = _of_hosts(where, works, drafts, area.sum(1), host, state, used)
        final = np.zeros_like(truth.totals)
        final[:, _coarse_ids(where, used)] = totals.T
        fields = runner.close(_works(where, final), drafts, watch)
    fractions = np.zeros((used.size, classes, where.ratio**2))
    for work, tile in zip(works, fields, strict=True):
        fractions[_places(where, used, work.cells)] = work.cells.block(np.asarray(tile.fractions))
    return Answer(where, used, labels, area, fractions, totals, state, host, counts, coarse_counts)


def _of_hosts(
    where: Region,
    works: Sequence[TileWork],
    drafts: Sequence[TileDraft],
    land: Float,
    host: NDArray[np.int64],
    state: Float,
    used: NDArray[np.int64],
) -> Float:
    """Totals (C, K) of coarse cells with land (C,) m2 from what the network says of them and the states of hosts.

    Cells under a host of one class were not run; they have its state.
    """
    means = np.full((state.shape[1], used.size), np.nan)
    for work, draft in zip(works, drafts, strict=True):
        means[:, _places(where, used, work.cells)] = draft.means
    means = np.where(np.isnan(means), state[host].T, means)
    return np.ascontiguousarray(coarsehosts.totals(means, host, np.arange(host.size), land, state.T).T)


def _works(where: Region, totals: Float) -> list[TileWork]:
    """The tiles that hold land of the window, given totals (K, n) of all coarse cells of the globe."""
    emulator = where.emulator
    works = []
    for cells in _tiles(where):
        around = coarse_around(cells.tile, emulator.coarse, where.ratio, emulator.halo)
        works.append(TileWork(cells, totals, around, np.zeros(cells.coarse.size, bool)))
    return works


def _coarse_ids(where: Region, used: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index in the global coarse grid of coarse cells of the window, (C,)."""
    rows, cols = where.window
    row, col = np.divmod(used, where.shape[1] // where.ratio)
    return (row + rows.start // where.ratio) * where.emulator.coarse.nlon + col + cols.start // where.ratio


def _places(where: Region, used: NDArray[np.int64], cells: TileCells) -> NDArray[np.int64]:
    """Where the coarse cells of a tile stand among those of the window that have land."""
    return np.searchsorted(_coarse_ids(where, used), cells.coarse)


def _tiles(where: Region) -> Iterator[TileCells]:
    emulator = where.emulator
    delivered = np.zeros(emulator.base_map().shape, bool)
    delivered[where.window] = where.observed > 0
    for tile in all_tiles(emulator.fine, emulator.coarse, emulator.tile):
        inside = delivered[tile.rows, tile.cols]
        if inside.any():
            yield TileCells.of(tile, inside, emulator.fine, where.ratio)
