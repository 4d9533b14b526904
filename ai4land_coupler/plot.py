"""Maps of a run: the coarse state beside the fine map, before and after, and what changed."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from numpy.typing import NDArray

from ai4land_coupler.errors import OutputError
from ai4land_coupler.grids import RegularGrid

Box = tuple[float, float, float, float]
"""West, east, south and north edge in degrees."""

GLOBE: Box = (-180.0, 180.0, -60.0, 84.0)
AMAZON: Box = (-64.0, -48.0, -14.0, -3.0)
"""The region drawn where nothing changed."""
REGION_SIZE = (16.0, 11.0)
"""Degrees of longitude and latitude of the region of strongest change."""

COLOURS = {
    "forest": "#1f6b35",
    "shrub_savanna": "#9c9a3c",
    "grassland": "#cde28a",
    "wetland": "#2f9e94",
    "cropland": "#f2b134",
    "pasture": "#e3cf7a",
    "urban": "#d7263d",
    "snow_ice": "#ffffff",
    "barren": "#d8c3a5",
}
SPARE_COLOURS = ("#7b5ea7", "#c06c84", "#4f6d9a", "#8d6e63", "#5fb0b7", "#a05195", "#b5a642", "#6b7f4e")
WATER = "#d6e8f5"
UNCHANGED = "#efefec"
MAX_PIXELS = 1800
"""Fine cells along the longer side of a map; of more every n-th is drawn."""

KEY_SIZE = 12
"""Size of the key's text in points."""


@dataclass(frozen=True, eq=False)
class Year:
    """One yearly file: fine classes (nlat, nlon) uint8, 0 for none, and coarse totals (K, nlat, nlon), south first."""

    year: int
    legend: tuple[str, ...]
    classes: NDArray[np.uint8]
    target: NDArray[np.float64]

    @classmethod
    def read(cls, path: Path) -> "Year":
        """From an `ai4land_YYYY.nc`. Raises OutputError where it is not one."""
        try:
            with netCDF4.Dataset(path) as file:
                file.set_auto_mask(False)
                time, classes = file["time"], file["class"]
                start: Any = netCDF4.num2date(time[0], time.units, time.calendar)
                legend = tuple(classes.flag_meanings.split()[1:])
                return cls(start.year, legend, classes[0], file["target"][:])
        except (OSError, IndexError, AttributeError) as error:
            raise OutputError(f"{path}: a file written by ai4land_coupler is expected, got: {error}") from error

    @classmethod
    def stored(cls, store: Path, year: int) -> "Year":
        """From an `ai4land.zarr`. Raises OutputError where it has no such year."""
        from ai4land_coupler.zarrout import read_year

        fields, legend = read_year(store, year, ("class", "target"))
        return cls(year, legend, fields["class"], fields["target"])

    def mixed(self, box: Box) -> NDArray[np.float64]:
        """The coarse state in a box as colours mixed by fraction, (ny, nx, 3); water where there is no state."""
        colours = np.array([to_rgb(colour) for colour in palette(self.legend)])
        totals = np.stack([_window(total, box) for total in self.target], axis=-1)
        known = np.isfinite(totals).all(axis=-1, keepdims=True)
        return np.where(known, np.clip(np.nan_to_num(totals) @ colours[1:], 0, 1), colours[0])


def plot_year(file: Path, out: Path, region: Box | None = None) -> Path:
    """Draw the coarse state beside the fine map of one file into `out`, for a region or the globe."""
    year = Year.read(file)
    return _save(_maps([year], region or GLOBE), out)


def plot_run(folder: Path, out_dir: Path, region: Box | None = None, chosen: Sequence[int] = ()) -> list[Path]:
    """Draw the first and the last year of a run, or those chosen, and what changed, for a region and the globe.

    Without `region` that of strongest change is drawn. Returns the PNGs: map_globe, map_region and, where there are
    several years, change_globe and change_region. Raises OutputError where the folder holds no such year.
    """
    there = years_of_run(folder)
    if not there:
        raise OutputError(
            f"{folder}: no ai4land_YYYY.nc and no ai4land.zarr with a year in it; ask for them with output.folder in "
            "the configuration"
        )
    missing = sorted(set(chosen) - set(there))
    if missing:
        raise OutputError(f"{folder}: no year {missing[0]} in it; it has {sorted(there)}")
    years = [there[year]() for year in sorted(chosen or {min(there), max(there)})]
    years.sort(key=lambda year: year.year)
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, box in (("globe", GLOBE), ("region", region or strongest_change(years))):
        paths.append(_save(_maps(years, box), out_dir / f"map_{name}.png"))
        if len(years) > 1:
            paths.append(_save(_changes(years[0], years[-1], box), out_dir / f"change_{name}.png"))
    return paths


def years_of_run(folder: Path) -> dict[int, Callable[[], Year]]:
    """What reads each year that a run has written, as files or in a store."""
    found: dict[int, Callable[[], Year]] = {
        int(path.stem.removeprefix("ai4land_")): functools.partial(Year.read, path)
        for path in folder.glob("ai4land_[0-9]*.nc")
    }
    if (store := folder / "ai4land.zarr").exists():
        from ai4land_coupler.zarrout import stored_years

        found |= {year: functools.partial(Year.stored, store, year) for year in stored_years(store)}
    return found


def strongest_change(years: Sequence[Year]) -> Box:
    """The box of REGION_SIZE in which the totals of mixed coarse cells changed most, the Amazon where none did."""
    first, last = years[0].target, years[-1].target
    nlat, nlon = first.shape[1:]
    lat = -90 + (np.arange(nlat) + 0.5) * 180 / nlat
    mixed = 1.0 - (last**2).sum(axis=0)
    changed = np.nan_to_num(mixed * np.abs(last - first).sum(axis=0)) * np.cos(np.radians(lat))[:, None]
    if changed.max() < 1e-6:
        return AMAZON
    width, height = round(REGION_SIZE[0] * nlon / 360) or 1, round(REGION_SIZE[1] * nlat / 180) or 1
    total = np.pad(changed, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    inside = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    row, col = np.unravel_index(np.argmax(inside), inside.shape)
    west, south = -180 + col * 360 / nlon, -90 + row * 180 / nlat
    return float(west), float(west + REGION_SIZE[0]), float(south), float(south + REGION_SIZE[1])


def palette(legend: Sequence[str]) -> list[str]:
    """Colours of water and the classes of a legend; unknown names take spare ones in their order."""
    spare = iter(SPARE_COLOURS * len(legend))
    return [WATER, *(COLOURS.get(name) or next(spare) for name in legend)]


def _maps(years: Sequence[Year], box: Box) -> Figure:
    """A row a year: the coarse state and the fine classes."""
    figure, axes = _panels(len(years), box)
    legend = years[0].legend
    for (left, right), year in zip(axes, years, strict=True):
        left.imshow(year.mixed(box), origin="lower", extent=box, interpolation="nearest")
        _frame(left, box, f"{year.year}: coarse state ({_cell(year.target[0])}), colours mixed by fraction")
        _image(right, _window(year.classes, box), box, palette(legend))
        _frame(right, box, f"{year.year}: fine map ({_cell(year.classes)})")
    shown = np.unique(np.concatenate([np.unique(_window(year.classes, box)) for year in years]))
    names = ["water", *legend]
    _key(figure, [(palette(legend)[k], names[k]) for k in (*shown[shown > 0], 0)])
    return figure


def _changes(first: Year, last: Year, box: Box) -> Figure:
    """The change of the class that lost most in the coarse state, and where the fine map changed."""
    figure, ((left, right),) = _panels(1, box)
    span = f"{first.year} to {last.year}"
    change = np.stack([_window(layer, box) for layer in last.target - first.target])
    most = int(np.argmin(np.nansum(change, axis=(1, 2))))
    limit = max(float(np.nanmax(np.abs(change[most]), initial=0.0)), 0.01)
    shown = left.imshow(change[most], origin="lower", extent=box, cmap="BrBG", vmin=-limit, vmax=limit)
    left.set_facecolor(WATER)
    _bar(figure, left, shown, "change as a fraction of the cell's land")
    _frame(left, box, f"{_spoken(first.legend[most])} in the coarse state, {span}")

    moved = (first.classes != last.classes) & (first.classes > 0) & (last.classes > 0)
    area = (_window(moved, box) * _cell_area(moved.shape, box)).sum() * 1e-6
    _frame(right, box, f"fine cells that changed class, {span}: {area:,.0f} km²")
    if _is_wide(box):
        ratio = moved.shape[0] // first.target.shape[1]
        land = _block_sum(last.classes > 0, ratio)
        share = np.where(land > 0, _block_sum(moved, ratio) / np.maximum(land, 1), np.nan)
        right.set_facecolor(WATER)
        shown = right.imshow(_window(share, box), origin="lower", extent=box, cmap="YlOrBr", vmin=0, vmax=2 * limit)
        _bar(figure, right, shown, f"share of the land cells in {_cell(share)}")
    else:
        colours = [*palette(first.legend), UNCHANGED]
        now = np.where(moved, last.classes, np.where(last.classes > 0, len(colours) - 1, 0))
        _image(right, _window(now, box), box, colours)
        kinds = np.unique(_window(np.where(moved, last.classes, 0), box))
        named = [(colours[k], f"now {first.legend[k - 1]}") for k in kinds[kinds > 0]]
        _key(figure, [*named, (UNCHANGED, "unchanged"), (WATER, "water")])
    return figure


def _panels(rows: int, box: Box) -> tuple[Figure, NDArray]:
    """A figure with `rows` rows of two maps each, as high as the box needs."""
    west, east, south, north = box
    ratio = (north - south) / (east - west) * _stretch(box)
    height = rows * (1.1 + 6.2 * ratio) + (1.5 if rows == 1 else 0.4)
    figure = Figure(figsize=(14.0, height), layout="constrained")
    return figure, figure.subplots(rows, 2, squeeze=False)


def _image(axes: Axes, picture: NDArray, box: Box, colours: Sequence[str]) -> None:
    """Class numbers as colours; a coarser screen shows their mean colour, a finer one the cells."""
    step = max(1, -(-max(picture.shape) // MAX_PIXELS))
    norm = BoundaryNorm(np.arange(len(colours) + 1) - 0.5, len(colours))
    axes.imshow(
        picture[step // 2 :: step, step // 2 :: step], origin="lower", extent=box, cmap=ListedColormap(list(colours)),
        norm=norm, interpolation="antialiased" if _is_wide(box) else "nearest", interpolation_stage="rgba",
    )  # fmt: skip


def _bar(figure: Figure, axes: Axes, shown: AxesImage, label: str) -> None:
    figure.colorbar(shown, ax=axes, location="bottom", shrink=0.7, aspect=40, pad=0.03).set_label(label)


def _frame(axes: Axes, box: Box, title: str) -> None:
    west, east, south, north = box
    axes.set_title(title, fontsize=13)
    axes.set_aspect(_stretch(box))
    axes.set_xlim(west, east)
    axes.set_ylim(south, north)
    axes.set_xlabel("degrees east")
    axes.set_ylabel("degrees north")


def _key(figure: Figure, entries: Sequence[tuple[str, str]]) -> None:
    patches = [Patch(facecolor=c, edgecolor="#777777", linewidth=0.6, label=_spoken(name)) for c, name in entries]
    width = sum(4.8 + 0.56 * len(name) for _, name in entries) * KEY_SIZE  # of one row, in points: patch, gaps and text
    rows = int(np.ceil(width / (72 * figure.get_figwidth())))
    columns = -(-len(patches) // rows)
    figure.legend(handles=patches, loc="outside lower center", ncols=columns, frameon=False, fontsize=KEY_SIZE)


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=120, facecolor="white")
    return path


def _is_wide(box: Box) -> bool:
    return box[1] - box[0] > 120


def _stretch(box: Box) -> float:
    """Height of a degree of latitude in degrees of longitude: true to scale in a region, plate carree for the globe."""
    return 1.0 if _is_wide(box) else 1.0 / float(np.cos(np.radians(0.5 * (box[2] + box[3]))))


def _window(field: NDArray, box: Box) -> NDArray:
    """The cells of a global field (nlat, nlon) in the box, whose edges go to the nearest edges of cells."""
    nlat, nlon = field.shape
    west, east, south, north = box
    rows = slice(round((south + 90) * nlat / 180), round((north + 90) * nlat / 180))
    return field[rows, round((west + 180) * nlon / 360) : round((east + 180) * nlon / 360)]


def _block_sum(mask: NDArray[np.bool_], ratio: int) -> NDArray[np.int64]:
    """How many cells of each block of ratio x ratio hold."""
    return mask.reshape(mask.shape[0] // ratio, ratio, mask.shape[1] // ratio, ratio).sum(axis=(1, 3))


def _cell_area(shape: tuple[int, ...], box: Box) -> NDArray[np.float64]:
    """Area in m2 of the cells in the box of a global grid of that shape."""
    area = RegularGrid(shape[0], shape[1]).area_rows
    return _window(np.broadcast_to(area[:, None], shape), box)


def _cell(field: NDArray) -> str:
    return f"{180 / field.shape[0]:g}°"


def _spoken(name: str) -> str:
    return name.replace("_", " ")
