"""Small files of exactly the form of LUH2's and LUH3's, for tests."""

from collections.abc import Sequence
from pathlib import Path

import netCDF4
import numpy as np

STATES = ("primf", "primn", "secdf", "secdn", "urban", "c3ann", "c4ann", "c3per", "c4per", "c3nfx", "pastr", "range")
FILL = np.float32(1e20)


def write_states(
    path: Path,
    values: np.ndarray,
    years: Sequence[int],
    luh3: bool = False,
    lat: np.ndarray | None = None,
    lon: np.ndarray | None = None,
    calendar: str = "noleap",
) -> Path:
    """Write states (S, year, nlat, nlon), north first and from 180 W unless axes are given; NaN becomes 1e20.

    luh3: days since 0850, `_FillValue` spelt `_fillvalue`, thirteen states.
    """
    nlat, nlon = values.shape[2:]
    lat = 90 - (np.arange(nlat) + 0.5) * 180 / nlat if lat is None else lat
    lon = -180 + (np.arange(nlon) + 0.5) * 360 / nlon if lon is None else lon
    names = (*STATES, "pltns") if luh3 else STATES
    with netCDF4.Dataset(path, "w") as file:
        _axes(file, lat, lon)
        file.createDimension("time", None)
        time = file.createVariable("time", "f8", ("time",))
        if luh3:
            time.setncatts({"units": "days since 0850-01-01 00:00:00"} | ({"calendar": calendar} if calendar else {}))
            time[:] = (np.array(years) - 850) * 365.0
        else:
            time.setncatts({"units": "years since 850-01-01 0:0:0", "calendar": "noleap"})
            time[:] = np.array(years) - 850.0
        for name, part in zip(names, values, strict=True):
            _float(file, name, ("time", "lat", "lon"), part, "_fillvalue" if luh3 else "_Fillvalue")
        for name in ("secmb", "secma"):
            _float(file, name, ("time", "lat", "lon"), np.full(values.shape[1:], 37.5), "_Fillvalue")
    return path


def write_static(path: Path, icwtr: np.ndarray, lat: np.ndarray | None = None, lon: np.ndarray | None = None) -> Path:
    """Write icwtr (nlat, nlon) and cell areas in km2, as staticData_quarterdeg.nc has them."""
    nlat, nlon = icwtr.shape
    lat = 90 - (np.arange(nlat) + 0.5) * 180 / nlat if lat is None else lat
    lon = -180 + (np.arange(nlon) + 0.5) * 360 / nlon if lon is None else lon
    with netCDF4.Dataset(path, "w") as file:
        _axes(file, lat, lon)
        _float(file, "icwtr", ("lat", "lon"), icwtr, "_Fillvalue")
        _float(file, "carea", ("lat", "lon"), np.full(icwtr.shape, 769.3), "_Fillvalue")
    return path


def _axes(file: netCDF4.Dataset, lat: np.ndarray, lon: np.ndarray) -> None:
    file.createDimension("bounds", 2)
    for name, values in (("lat", lat), ("lon", lon)):
        file.createDimension(name, values.size)
        axis = file.createVariable(name, "f8", (name,))
        axis.setncatts({"units": "degrees_north" if name == "lat" else "degrees_east", "bounds": f"{name}_bounds"})
        axis[:] = values
        half = np.abs(np.diff(values)).min() / 2
        file.createVariable(f"{name}_bounds", "f8", (name, "bounds"))[:] = values[:, None] + [-half, half]


def _float(file: netCDF4.Dataset, name: str, dims: tuple[str, ...], values: np.ndarray, fill: str) -> None:
    variable = file.createVariable(name, "f4", dims)
    variable.setncatts({"units": "1", "standard_name": "area_fraction", fill: FILL, "missing_value": FILL})
    variable[:] = np.where(np.isfinite(values), values, FILL)
