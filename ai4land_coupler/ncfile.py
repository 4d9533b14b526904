"""Small netCDF files read and written whole; streams of yearly fields are written by output.py."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.damage import refuse_damaged


def write(
    path: Path,
    variables: Mapping[str, tuple[tuple[str, ...], NDArray[Any], Mapping[str, str]]],
    attributes: Mapping[str, Any],
) -> None:
    """Write variables {name: (dimension names, values, attributes)} aside and rename to `path`. Raises OSError."""
    aside = path.with_name(path.name + ".part")
    try:
        with netCDF4.Dataset(aside, "w", format="NETCDF4") as file:
            for name, (dims, values, notes) in variables.items():
                for dim, length in zip(dims, values.shape, strict=True):
                    if dim not in file.dimensions:
                        file.createDimension(dim, length)
                variable = file.createVariable(name, values.dtype, dims, zlib=bool(dims), complevel=1)
                variable.setncatts(dict(notes))
                variable[...] = values
            file.setncatts(dict(attributes))
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.replace(path)
    except RuntimeError as error:
        raise OSError(str(error)) from error
    finally:
        aside.unlink(missing_ok=True)


def read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """All variables and global attributes of a file. Raises OSError where it is missing or damaged."""
    try:
        refuse_damaged(path)
        with netCDF4.Dataset(path) as file:
            file.set_auto_mask(False)
            variables = {name: np.asarray(variable[...]) for name, variable in file.variables.items()}
            return variables, {name: file.getncattr(name) for name in file.ncattrs()}
    except (RuntimeError, LookupError, AttributeError, ValueError, TypeError, MemoryError) as error:
        raise OSError(f"{path}: {error}") from error


def attributes(path: Path) -> dict[str, Any]:
    """The global attributes of a file. Raises OSError where it is missing or damaged."""
    try:
        refuse_damaged(path)
        with netCDF4.Dataset(path) as file:
            return {name: file.getncattr(name) for name in file.ncattrs()}
    except (RuntimeError, AttributeError, ValueError, TypeError) as error:
        raise OSError(f"{path}: {error}") from error
