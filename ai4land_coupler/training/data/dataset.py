"""Training data: regions, their rims, coarse totals at three resolutions, random and fixed crops."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import ConfigError
from ai4land_coupler.features import CLIMATE_CLASS, GROUPS, KOPPEN, LINES, Channel, StaticFeatures, coarse_window
from ai4land_coupler.grids import RegularGrid

FINE, COARSE = RegularGrid(3600, 7200), RegularGrid(360, 720)
RATIO = 10
CLASSES = 8
BLOCK = 4 * RATIO  # fine cells of the coarsest input, 2 degrees; crops start on multiples of it
INTERIOR = 200  # fine cells of a crop that are scored
MARGIN = 24  # fine cells of context around them, a multiple of the network's stride
FLAGS = (*KOPPEN, "land", CLIMATE_CLASS)  # channels that stay as they are
FIRST_INPUTS = ("terrain", "climate", "koppen", "lines", "place")  # what emulators up to version 1.0 saw


@dataclass(frozen=True)
class Box:
    """A region lon0..lon1, lat0..lat1 in degrees, -180 <= lon0 < lon1 <= 180."""

    lon0: float
    lon1: float
    lat0: float
    lat1: float

    def __post_init__(self) -> None:
        if not (-180 <= self.lon0 < self.lon1 <= 180 and -90 <= self.lat0 < self.lat1 <= 90):
            raise ConfigError(f"a region is lon0,lon1,lat0,lat1 in degrees and order, got {self}")

    @classmethod
    def parse(cls, text: str) -> Box:
        """Return the named region, or the one of four numbers joined by commas."""
        if text in REGIONS:
            return REGIONS[text]
        try:
            lon0, lon1, lat0, lat1 = (float(part) for part in text.split(","))
        except ValueError as error:
            names = ", ".join(REGIONS)
            raise ConfigError(f"region {text!r}: expected one of {names}, or lon0,lon1,lat0,lat1") from error
        return cls(lon0, lon1, lat0, lat1)

    def rows(self, grid: RegularGrid, rim: int = 0) -> slice:
        """Rows whose centres lie inside, and `rim` more on each side."""
        inside = np.flatnonzero((grid.lat > self.lat0) & (grid.lat < self.lat1))
        return slice(max(int(inside[0]) - rim, 0), min(int(inside[-1]) + 1 + rim, grid.nlat))

    def cols(self, grid: RegularGrid, rim: int = 0) -> slice:
        """Columns whose centres lie inside, and `rim` more on each side, cut at 180 degrees."""
        inside = np.flatnonzero((grid.lon > self.lon0) & (grid.lon < self.lon1))
        return slice(max(int(inside[0]) - rim, 0), min(int(inside[-1]) + 1 + rim, grid.nlon))


SOUTH_AMERICA = Box(-82.0, -34.0, -56.0, 13.0)
REGIONS = {"south-america": SOUTH_AMERICA}


def totals(classes: NDArray[np.uint8], blocks: int = 1) -> NDArray[np.float64]:
    """Return area-weighted fractions of the land of blocks x blocks coarse cells, (8, 360 / b, 720 / b); 0 at sea."""
    size = RATIO * blocks
    shape = (FINE.nlat // size, size, FINE.nlon // size, size)
    weight = FINE.area_rows.reshape(shape[0], size)
    sums = np.empty((CLASSES, shape[0], shape[2]))
    for number in range(CLASSES):
        counts = (classes.reshape(shape) == number + 1).sum(axis=3)  # (lat, row, lon)
        sums[number] = np.einsum("irj,ir->ij", counts, weight)
    land = sums.sum(axis=0)
    return sums / np.where(land > 0, land, 1.0)


@dataclass(frozen=True)
class Batch:
    """Crops: inputs (B, C + 8, N, N) float32; interior labels (B, M, M) uint8, 0 not land; loss weights (B, M, M)
    float32; area (B, M, M) float32 of land cells; totals of the input resolution (B, 8, M / size, M / size) with
    `size` fine cells to an edge."""

    inputs: NDArray[np.float32]
    labels: NDArray[np.uint8]
    weights: NDArray[np.float32]
    area: NDArray[np.float32]
    totals: NDArray[np.float32]
    size: int


class Crops:
    """Crops of the globe with some boxes erased, which give zeros and no labels, and others kept from the loss."""

    def __init__(
        self,
        statics: NDArray[np.float16],
        classes: NDArray[np.uint8],
        erased: tuple[Box, ...],
        withheld: tuple[Box, ...],
        rim: int,
    ) -> None:
        """Take statics (C, 3600, 7200), classes (3600, 7200); boxes are erased in place."""
        for box in erased:
            window = (box.rows(FINE), box.cols(FINE))
            classes[window] = 0
            statics[:, window[0], window[1]] = 0
        self.statics, self.classes = statics, classes
        self.totals = {blocks: totals(classes, blocks).astype(np.float32) for blocks in (1, 2, 4)}
        self.trained = np.ones(classes.shape, bool)
        for box in (*erased, *withheld):
            self.trained[box.rows(FINE, rim), box.cols(FINE, rim)] = False
        self.area = (FINE.area_rows / FINE.area_rows.max()).astype(np.float32)

    def origins(self, mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return corners (n, 2) of interiors on multiples of 2 degrees and their probability: the area of
        land in cells of more than one class that `mask` (3600, 7200) keeps."""
        mixed = (self.totals[1] > 0).sum(0) > 1
        kept = (mask & (self.classes > 0) & mixed.repeat(RATIO, 0).repeat(RATIO, 1)) * self.area[:, None]
        block = kept.reshape(FINE.nlat // BLOCK, BLOCK, FINE.nlon // BLOCK, BLOCK).sum((1, 3))
        across = INTERIOR // BLOCK
        wrapped = np.concatenate([block, block[:, : across - 1]], axis=1)
        sums = np.lib.stride_tricks.sliding_window_view(wrapped, (across, across)).sum((2, 3))
        where = np.argwhere(sums > 0)
        probability = sums[where[:, 0], where[:, 1]]
        return where * BLOCK, probability / probability.sum()

    def batch(self, corners: NDArray[np.int64], blocks: int, mask: NDArray[np.bool_]) -> Batch:
        """Return the crops whose interiors start at `corners`, coarse inputs averaged over blocks x blocks."""
        size, reach = RATIO * blocks, INTERIOR + 2 * MARGIN
        inputs, labels, weights, areas, sums = [], [], [], [], []
        for row, col in corners:
            rows = np.arange(row - MARGIN, row + INTERIOR + MARGIN)
            cols = np.arange(col - MARGIN, col + INTERIOR + MARGIN) % FINE.nlon
            crop = np.zeros((len(self.statics), reach, reach), np.float32)
            inside = (rows >= 0) & (rows < FINE.nlat)
            crop[:, inside] = self.statics[:, rows[inside][:, None], cols]
            coarse = coarse_window(self.totals[blocks], row - MARGIN, col - MARGIN, reach, reach, size)
            inputs.append(np.concatenate([crop, coarse]))
            inner = (slice(row, row + INTERIOR), cols[MARGIN:-MARGIN])
            labels.append(self.classes[inner])
            areas.append((labels[-1] > 0) * self.area[inner[0], None])
            weights.append(mask[inner] * areas[-1])
            rows_c = slice(row // size, (row + INTERIOR) // size)
            sums.append(self.totals[blocks][:, rows_c, cols[MARGIN:-MARGIN:size] // size])
        stacked = Batch(np.stack(inputs), np.stack(labels), np.stack(weights), np.stack(areas), np.stack(sums), size)
        mixed = ((stacked.totals > 0).sum(1) > 1).repeat(size, 1).repeat(size, 2)
        return replace(stacked, weights=stacked.weights * mixed)

    def random(self, rng: np.random.Generator, number: int, origins: tuple, blocks: int) -> Batch:
        """Return randomly placed crops, mirrored east-west and north-south at random."""
        corners, probability = origins
        chosen = corners[rng.choice(len(corners), number, p=probability)]
        batch = self.batch(chosen, blocks, self.trained)
        for sample in range(number):
            for axis in (-1, -2):
                if rng.random() < 0.5:
                    for part in (batch.inputs, batch.labels, batch.weights, batch.area, batch.totals):
                        part[sample] = np.flip(part[sample], axis)
        return batch


@dataclass(frozen=True)
class Perturbation:
    """Makes places harder to remember: climate and latitude are shifted, groups of channels dropped, crop by crop."""

    shifted: tuple[int, ...]
    dropped: tuple[tuple[int, ...], ...]
    drop: float
    noise: float

    @classmethod
    def of(cls, channels: tuple[Channel, ...], drop: float, noise: float) -> Perturbation:
        """Find the channels by name; the two kinds of climate classes go together, the land mask stays."""
        place = {channel.name: index for index, channel in enumerate(channels)}
        climate, koppen, lines = (GROUPS[name] for name in ("climate", "koppen", "lines"))
        groups = [climate, (*koppen, CLIMATE_CLASS), lines, ("abs_lat",)]
        if set(GROUPS["settlements"]) & set(place):
            groups += [GROUPS["settlements"], GROUPS["terrain"]]
        shifted = tuple(place[name] for name in (*climate, "abs_lat") if name in place)
        return cls(shifted, tuple(tuple(place[n] for n in group if n in place) for group in groups), drop, noise)

    def apply(self, inputs: NDArray[np.float32], rng: np.random.Generator) -> None:
        """Change inputs (B, C, N, N) in place."""
        for sample in inputs:
            moved = list(self.shifted)
            sample[moved] += rng.normal(0, self.noise, (len(moved), 1, 1)).astype(np.float32)
            for group in self.dropped:
                if rng.random() < self.drop:
                    sample[list(group)] = 0


def statistics(
    folder: Path, classes: NDArray[np.uint8], trained: NDArray[np.bool_], groups: tuple[str, ...]
) -> tuple[Channel, ...]:
    """Return the area-weighted mean and standard deviation of each static channel over the land trained on.

    Flags and classes stay as they are; lines are only scaled, so that no line is 0.
    """
    names = tuple(name for group in GROUPS if group in groups for name in GROUPS[group])
    raw = StaticFeatures(Draft(folder, tuple(Channel(name) for name in names), classes))
    weight = (trained & (classes > 0)) * FINE.area_rows[:, None]
    moments = np.zeros((2, len(names)))
    for row in range(0, FINE.nlat, 240):
        block = raw.physical(row, 0, 240, FINE.nlon)
        for channel, values in enumerate(block):
            for power in (1, 2):
                part = np.einsum("ij,ij->", values.astype(np.float64) ** power, weight[row : row + 240])
                moments[power - 1, channel] += part
    mean, square = moments / weight.sum()
    channels = []
    for name, m, s in zip(names, mean, square, strict=True):
        centre, spread = (0.0, 1.0) if name in FLAGS else (float(m), float(np.sqrt(s - m * m)))
        channels.append(Channel(name, 0.0 if name in LINES else round(centre, 6), round(spread, 6)))
    return tuple(channels)


@dataclass(frozen=True)
class Draft:
    """What stands in for an emulator before there is one: rebuilt statics and classes."""

    path: Path
    statics: tuple[Channel, ...]
    classes: NDArray[np.uint8]
    fine: RegularGrid = FINE

    def base_map(self) -> NDArray[np.uint8]:
        """Return the classes."""
        return self.classes


def global_statics(draft: Draft) -> NDArray[np.float16]:
    """Return the normalised static channels of the whole fine grid, (C, 3600, 7200)."""
    features = StaticFeatures(draft)
    out = np.empty((len(draft.statics), FINE.nlat, FINE.nlon), np.float16)
    for row in range(0, FINE.nlat, 240):
        out[:, row : row + 240] = features.window(row, 0, 240, FINE.nlon)
    return out
