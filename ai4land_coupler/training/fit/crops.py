"""Crops of a store: where they may lie, what of them is trained on, what they hold."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import ConfigError
from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.training.data.store import Layout, Store
from ai4land_coupler.training.fit.trainconfig import Region, TrainConfig
from ai4land_coupler.unetconfig import STRIDE

Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Rectangle:
    """Fine cells [row, row + nrow) x [col, col + ncol) of a store; columns go round after `around` cells if above 0."""

    row: int
    col: int
    nrow: int
    ncol: int
    around: int = 0

    @classmethod
    def of(cls, region: Region, layout: Layout) -> Rectangle:
        """Return the cells of a store whose centres lie in a region. Raises ConfigError where no cell does."""
        x0, x1, y0, y1 = region
        if layout.kind != "latlon":
            return cls(int(y0), int(x0), int(y1) - int(y0), int(x1) - int(x0))
        grid = RegularGrid(layout.nlat, layout.nlon)
        rows = np.flatnonzero((grid.lat > y0) & (grid.lat < y1)) - layout.row0
        cols = np.flatnonzero((grid.lon > x0) & (grid.lon < x1)) - layout.col0
        if not rows.size or not cols.size:
            raise ConfigError(f"region {region}: expected fine cells in lon0 < lon1 of -180..180 and lat0 < lat1")
        return cls(int(rows[0]), int(cols[0]), rows.size, cols.size, layout.nlon)

    def spans(self, rows: Index, cols: Index, rim: int = 0) -> tuple[Mask, Mask]:
        """Return which rows and which columns are in it or among the `rim` around it."""
        row, col = rows - (self.row - rim), cols - (self.col - rim)
        if self.around:
            col = col % self.around
        return (row >= 0) & (row < self.nrow + 2 * rim), (col >= 0) & (col < self.ncol + 2 * rim)

    def holds(self, rows: Index, cols: Index, rim: int = 0) -> Mask:
        """Return which cells (nrow, ncol) lie in it or among the `rim` around it."""
        row, col = self.spans(rows, cols, rim)
        return row[:, None] & col


@dataclass(frozen=True)
class Years:
    """Positions in a store's years: first targets of samples, targets of the validation, the base map."""

    starts: Index
    validation: tuple[int, ...]
    base: int

    @classmethod
    def of(cls, config: TrainConfig, store: Store) -> Years:
        """Return the years a configuration asks for. Raises ConfigError where a store has too few."""
        prior = has_prior(config, store)
        years = np.array(store.years)
        held = _within(years, config.validation_years) if config.validation_years else np.zeros(years.size, bool)
        given = _within(years, config.years) & ~held
        starts = [
            t for t in range(int(prior), years.size - config.rollout + 1)
            if given[t - int(prior) : t + config.rollout].all()
        ]  # fmt: skip
        if not starts:
            raise ConfigError(
                f"{store.path} has the years {store.years}: expected {config.rollout + int(prior)} in a row within "
                f"years {config.years} and outside validation_years {config.validation_years}; give a shorter rollout"
            )
        base = int(np.flatnonzero(given)[-1])
        if config.base_year is not None:
            if config.base_year not in store.years:
                raise ConfigError(f"{store.path}: base_year {config.base_year} is none of its years {store.years}")
            base = store.years.index(config.base_year)
        validation = np.flatnonzero(held) if held.any() else np.array([starts[-1] + config.rollout - 1])
        return cls(np.array(starts), tuple(int(t) for t in validation if t >= int(prior)), base)


def _within(years: Index, span: tuple[int, int] | None) -> Mask:
    return np.ones(years.size, bool) if span is None else (years >= span[0]) & (years <= span[1])


def has_prior(config: TrainConfig, store: Store) -> bool:
    """Return whether the network is given the map of the year before."""
    several = len(store.years) > 1
    if config.prior and not several:
        raise ConfigError(f"{store.path} has one year, {store.years[0]}: a prior map needs two; remove `prior`")
    return several if config.prior is None else config.prior


@dataclass(frozen=True)
class Shape:
    """Sizes of a crop in fine cells: interior + 2 margin an edge, corners on multiples of `block`."""

    interior: int
    margin: int
    block: int
    ratio: int

    @classmethod
    def of(cls, config: TrainConfig, ratio: int) -> Shape:
        """Return the sizes of a configuration. Raises ConfigError where they do not fit the store."""
        block = ratio * config.widest
        shape = cls(config.interior or _interior(block), config.margin, block, ratio)
        if shape.interior % block or shape.edge % STRIDE:
            raise ConfigError(
                f"interior {shape.interior} with margin {shape.margin}: expected an interior of a multiple of {block} "
                f"(the widest input cell) and {STRIDE}"
            )
        return shape

    @property
    def edge(self) -> int:
        """Fine cells an edge with the margins."""
        return self.interior + 2 * self.margin

    def reach(self, size: int) -> int:
        """Fine cells around the interior that hold the margin in whole coarse cells of `size`."""
        return -(-self.margin // size) * size


def _interior(block: int) -> int:
    """A multiple of block and STRIDE near 200 cells."""
    step = int(np.lcm(block, STRIDE))
    return max(200 // step, 1) * step


@dataclass(frozen=True, eq=False)
class Crops:
    """The crops of a store as a configuration wants them."""

    store: Store
    config: TrainConfig

    @cached_property
    def shape(self) -> Shape:
        """Sizes of a crop."""
        return Shape.of(self.config, self.store.ratio)

    @cached_property
    def withheld(self) -> tuple[Rectangle, ...]:
        """Withheld regions."""
        return tuple(Rectangle.of(box, self.store.layout) for box in self.config.withheld)

    @cached_property
    def erased(self) -> tuple[Rectangle, ...]:
        """Erased regions."""
        return tuple(Rectangle.of(box, self.store.layout) for box in self.config.erased)

    @cached_property
    def area(self) -> NDArray[np.float32]:
        """Area of a fine cell of each row, of the largest."""
        return (self.store.row_area / self.store.row_area.max()).astype(np.float32)

    def row_area(self, row: int, count: int) -> NDArray[np.float32]:
        """Area of `count` rows from `row` on, 0 beyond the store."""
        rows = np.arange(row, row + count)
        inside = (rows >= 0) & (rows < self.area.size)
        return np.where(inside, self.area[np.clip(rows, 0, self.area.size - 1)], 0).astype(np.float32)

    def trained(self, row: int, col: int, nrow: int, ncol: int) -> Mask:
        """Return which cells of a window are trained on."""
        rows, cols = np.arange(row, row + nrow), np.arange(col, col + ncol)
        kept = np.ones((nrow, ncol), bool)
        for box in (*self.withheld, *self.erased):
            kept[np.ix_(*box.spans(rows, cols, self.config.rim))] = False
        return kept

    def classes(self, t: int, row: int, col: int, nrow: int, ncol: int) -> NDArray[np.uint8]:
        """Return the classes of a window in year t, 0 beyond the store and where erased."""
        return self._erase(self._window("classes", (t,), row, col, np.empty((nrow, ncol), np.uint8)), row, col)

    def static(
        self, row: int, col: int, nrow: int, ncol: int, out: NDArray[np.float16] | None = None
    ) -> NDArray[np.float16]:
        """Return the static channels (C, nrow, ncol) of a window, in `out` where given; 0 beyond the store and where
        erased."""
        if not self.store.statics:
            return np.zeros((0, nrow, ncol), np.float16)
        out = np.empty((len(self.store.statics), nrow, ncol), np.float16) if out is None else out
        return self._erase(self._window("static", (), row, col, out), row, col)

    def climate(self, row: int, col: int, nrow: int, ncol: int) -> NDArray[np.uint8]:
        """Return the climate classes of a window, 0 beyond the store and where erased."""
        return self._erase(self._window("climate", (), row, col, np.empty((nrow, ncol), np.uint8)), row, col)

    def state(self, t: int, row: int, col: int, nrow: int, ncol: int) -> NDArray[np.float32]:
        """Return the states (S, nrow, ncol) of a window of coarse cells, NaN where there is none; t counts the states'
        years."""
        out = np.empty((len(self.store.state_legend), nrow, ncol), np.float32)
        return self._window("state", (t,), row, col, out, np.nan)

    def _window(
        self, kind: str, before: tuple[int, ...], row: int, col: int, out: NDArray[Any], empty: float = 0
    ) -> NDArray[Any]:
        """Fill `out` (..., nrow, ncol) with a window, `empty` beyond the store; return it."""
        layout, (nrow, ncol) = self.store.layout, out.shape[-2:]
        ny, nx = layout.coarse_shape if kind == "state" else layout.shape
        rows = slice(min(max(row, 0), ny), max(min(row + nrow, ny), 0))
        cols = np.arange(col, col + ncol)
        cols, kept = (cols % nx, slice(0, ncol)) if self.store.wraps else _kept(cols, nx)
        inside = out[..., rows.start - row : rows.stop - row, kept]
        if inside.shape != out.shape:
            out[...] = empty
        getattr(self.store, kind)(*before, rows, cols, inside)
        return out

    def _erase(self, values: NDArray[Any], row: int, col: int) -> NDArray[Any]:
        rows, cols = (np.arange(start, start + n) for start, n in zip((row, col), values.shape[-2:], strict=True))
        for box in self.erased:
            row_in, col_in = np.ix_(*box.spans(rows, cols))
            values[..., row_in, col_in] = 0
        return values

    def totals(self, classes: NDArray[np.uint8], row: int, size: int) -> NDArray[np.float32]:
        """Return area-weighted fractions of the land (K, n, m) of coarse cells of `size`, 0 where there is none.

        classes (n size, m size) start at `row`.
        """
        k, (nrow, ncol) = len(self.store.legend), classes.shape
        n, m = nrow // size, ncol // size
        cell = (np.arange(nrow) // size * m)[:, None] + np.arange(ncol) // size
        weight = np.broadcast_to(self.row_area(row, nrow)[:, None], classes.shape)
        sums = np.bincount((cell * (k + 1) + classes).ravel(), weight.ravel(), n * m * (k + 1))
        sums = sums.reshape(n, m, k + 1)[..., 1:].transpose(2, 0, 1)
        land = sums.sum(0)
        return (sums / np.where(land > 0, land, 1.0)).astype(np.float32)

    def origins(self, t: int) -> tuple[Index, NDArray[np.float64]]:
        """Return corners (n, 2) of interiors and the sum of the probabilities up to each, (n,).

        Probable as the area of land trained on in coarse cells of more than one class in year t.
        """
        block, (ny, nx) = self.shape.block, self.store.shape
        across = self.shape.interior // block
        rows, cols = -(-ny // block), -(-nx // block)
        sums = np.stack([self._strip(t, row * block, cols) for row in range(rows)])
        missing = max(across - rows, 0), max(across - cols, 0)
        sums = np.pad(sums, ((0, missing[0]), (0, missing[1])))
        if self.store.wraps and nx % block == 0:
            sums = np.concatenate([sums, sums[:, : across - 1]], axis=1)
        inside = np.lib.stride_tricks.sliding_window_view(sums, (across, across)).sum((2, 3))
        where = np.argwhere(inside > 0)
        if not where.size:
            raise ConfigError(f"{self.store.path}: no land in mixed coarse cells is left to train on")
        probability = inside[where[:, 0], where[:, 1]].cumsum()
        return where * block, probability / probability[-1]

    def _strip(self, t: int, row: int, count: int) -> NDArray[np.float64]:
        """Area of mixed land trained on in each of `count` blocks from `row` on."""
        block, ratio = self.shape.block, self.store.ratio
        classes = self.classes(t, row, 0, block, count * block)
        mixed = (self.totals(classes, row, ratio) > 0).sum(0) > 1
        kept = (classes > 0) & self.trained(row, 0, block, count * block) & mixed.repeat(ratio, 0).repeat(ratio, 1)
        area = self.row_area(row, block).astype(np.float64) @ kept
        return area.reshape(count, block).sum(1)

    def covering(self, box: Rectangle) -> list[tuple[int, int]]:
        """Corners of interiors that cover a rectangle without overlap."""
        step, block = self.shape.interior, self.shape.block
        return [
            (row, col)
            for row in range(box.row // block * block, box.row + box.nrow, step)
            for col in range(box.col // block * block, box.col + box.ncol, step)
        ]


def _kept(cols: Index, nx: int) -> tuple[Index, slice]:
    """The columns within 0..nx - 1, and where they stand."""
    inside = np.flatnonzero((cols >= 0) & (cols < nx))
    return (cols[inside], slice(int(inside[0]), int(inside[-1]) + 1)) if inside.size else (cols[:0], slice(0, 0))
