"""Land use since 1700 at fine resolution: make the states and the configuration of a run back from the base map.

    python examples/hyde/prepare.py HYDE.nc output/hyde
    cd output/hyde && mpirun -n 2 ai4land run run.yaml states.nc --restart restart.nc --restart-every 1 --resume; cd -
    python examples/hyde/check.py output/hyde
    ai4land plot output/hyde/years --series --years 1700,1850,1990

HYDE.nc holds one land-use class a cell (HYDE 1, Klein Goldewijk 2001) in `landuse` on (year, lat, lon), 0.5 degree, 0
without data. Classes become fractions by counting areas in cells of 2 degrees, whose land fraction is the share of
them that has data. The run goes backward from the satellite map that the emulator ships: in `change` mode the year it
starts with, the last of HYDE, shows that map, and every other year that map plus HYDE's change since.
"""

import argparse
from pathlib import Path

import netCDF4
import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.crosswalk import load

CROSSWALK = "hyde1-igbp"
CONFIGURATION = """\
emulator: {emulator}
time: backward
state: {{crosswalk: {crosswalk}}}
constraint: {{mode: {mode}}}
output: {{folder: years, format: zarr, fractions: all}}
"""


def read(path: Path) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Years, and classes (year, lat, lon) from the south and 180 W."""
    with netCDF4.Dataset(path) as file:
        file.set_auto_mask(False)
        classes, lat, lon = file["landuse"][:], file["lat"][:], file["lon"][:]
        years = np.asarray(file["year"][:], dtype=np.int64)
    if lat[0] > lat[-1]:
        classes, lat = classes[:, ::-1], lat[::-1]
    expected = -90 + (np.arange(lat.size) + 0.5) * 180 / lat.size, -180 + (np.arange(lon.size) + 0.5) * 360 / lon.size
    if not (np.allclose(lat, expected[0]) and np.allclose(lon, expected[1])):
        raise SystemExit(f"{path}: a global grid from 180 W is expected, got {lat[:2]}..., {lon[:2]}...")
    return years, np.ascontiguousarray(classes)


def fractions(classes: NDArray[np.uint8], codes: list[int], each: int) -> tuple[NDArray[np.float64], NDArray]:
    """Fractions of land (class, year, lat, lon) on cells of each x each, and their land fraction (lat, lon)."""
    nlat, nlon = classes.shape[1:]
    if (classes > 0).any(axis=0).sum() != (classes > 0).all(axis=0).sum():
        raise SystemExit("land that has a class in one year has none in another")
    edges = np.sin(np.radians(np.linspace(-90, 90, nlat + 1)))
    area = np.broadcast_to(np.diff(edges)[:, None], (nlat, nlon))

    def summed(field: NDArray) -> NDArray[np.float64]:
        return field.reshape(*field.shape[:-2], nlat // each, each, nlon // each, each).sum(axis=(-3, -1))

    land = summed(np.where(classes[0] > 0, area, 0.0))
    found = np.stack([[summed(np.where(layer == code, area, 0.0)) for layer in classes] for code in codes])
    return found / np.where(land > 0, land, 1.0), land / summed(area)


def write(path: Path, years: NDArray[np.int64], names: list[str], states: NDArray, land: NDArray) -> None:
    """A file of states as `ai4land run` takes it."""
    nlat, nlon = land.shape
    with netCDF4.Dataset(path, "w") as file:
        for name, start, size, units in (("lat", -90, nlat, "degrees_north"), ("lon", -180, nlon, "degrees_east")):
            file.createDimension(name, size)
            axis = file.createVariable(name, "f8", (name,))
            axis.setncatts({"units": units, "standard_name": {"lat": "latitude", "lon": "longitude"}[name]})
            axis[:] = start + (np.arange(size) + 0.5) * abs(2 * start) / size
        file.createDimension("time", None)
        time = file.createVariable("time", "f8", ("time",))
        time.setncatts({"units": "years since 1-01-01", "calendar": "noleap"})
        time[:] = years - 1
        file.createVariable("land_fraction", "f8", ("lat", "lon"))[:] = land
        for name, values in zip(names, states, strict=True):
            file.createVariable(name, "f8", ("time", "lat", "lon"), zlib=True)[:] = values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("hyde", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--emulator", default="igbp-0p05", help="shipped name or folder")
    parser.add_argument("--mode", default="change", help="constraint.mode")
    parser.add_argument("--cells", type=int, default=4, help="cells of HYDE along an edge of a host cell")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    codes = load(CROSSWALK).codes
    years, classes = read(given.hyde)
    states, land = fractions(classes, list(codes), given.cells)
    write(given.out / "states.nc", years, list(codes.values()), states, land)
    emulator = Path(given.emulator).resolve() if Path(given.emulator).is_dir() else given.emulator
    text = CONFIGURATION.format(emulator=emulator, crosswalk=CROSSWALK, mode=given.mode)
    (given.out / "run.yaml").write_text(text, encoding="utf-8")
    print(f"{given.out}: {len(years)} years {years.min()}..{years.max()}, {int((land > 0).sum())} host cells with land")


if __name__ == "__main__":
    main()
