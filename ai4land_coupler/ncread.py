"""netCDF files that others made: missing values as NaN, and whatever is wrong with a file as one kind of error."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.damage import refuse_damaged
from ai4land_coupler.errors import CouplerError

MISSING = 1e19
"""Values at least this large count as missing, whatever the file's attributes say: LUH2 misspells `_FillValue`."""


class NcReader:
    """Variables and attributes of an open file; use `opened`."""

    def __init__(self, path: Path, data: Any, kind: type[CouplerError]) -> None:
        self.path = path
        self._data = data
        self._kind = kind
        self.names: tuple[str, ...] = tuple(data.variables)

    def error(self, text: str) -> CouplerError:
        """The error to raise for something that is wrong with this file."""
        return self._kind(f"{self.path}: {text}")

    def __contains__(self, name: str) -> bool:
        return name in self._data.variables

    def need(self, name: str, why: str) -> str:
        """The name again, where the file has such a variable; else an error that says why it must."""
        if name not in self:
            raise self.error(f"variable {name!r} is missing: {why}; the file has {', '.join(self.names) or 'none'}")
        return name

    def attribute(self, name: str, key: str, default: Any = "") -> Any:
        """An attribute of a variable, of the file where `name` is empty."""
        holder = self._data.variables[name] if name else self._data
        return getattr(holder, key, default)

    def text(self, name: str, key: str) -> str:
        """An attribute as text without blanks around it; empty where there is none."""
        return str(self.attribute(name, key)).strip()

    def dims(self, name: str) -> tuple[str, ...]:
        """Names of a variable's dimensions."""
        return tuple(self._data.variables[name].dimensions)

    def shape(self, name: str) -> tuple[int, ...]:
        """Lengths of a variable's dimensions."""
        return tuple(int(length) for length in self._data.variables[name].shape)

    def numbers(self, name: str, at: Any = ...) -> NDArray[np.float64]:
        """Values of a variable, or the part that `at` indexes, unpacked, as float64; NaN where missing."""
        variable = self._data.variables[name]
        try:
            variable.set_auto_maskandscale(False)
            raw = np.asarray(variable[at])
            if raw.dtype.kind not in "iuf":
                raise self.error(f"variable {name!r} holds {raw.dtype}, numbers are expected")
            values = raw.astype(np.float64)
            with np.errstate(invalid="ignore"):
                absent = np.abs(values) >= MISSING
            for key in ("_FillValue", "missing_value"):
                for fill in np.atleast_1d(getattr(variable, key, [])):
                    absent |= raw == fill
            packed = float(getattr(variable, "scale_factor", 1.0)), float(getattr(variable, "add_offset", 0.0))
        except (OSError, RuntimeError, IndexError, ValueError, TypeError, MemoryError) as reason:
            raise self.error(f"variable {name!r} cannot be read: {reason}") from reason
        if packed != (1.0, 0.0):
            values = values * packed[0] + packed[1]
        values[absent] = np.nan
        return values

    def codes(self, name: str, at: Any = ...) -> NDArray[Any]:
        """Whole numbers of a variable, or the part that `at` indexes, as stored: uint8, or signed, -1 where missing.

        Bytes that are unsigned by `_Unsigned`, or by flag_values below 0, as ESA-CCI's land cover has them, are.
        """
        variable = self._data.variables[name]
        try:
            variable.set_auto_maskandscale(False)
            raw = np.asarray(variable[at])
            fills = [np.atleast_1d(getattr(variable, key, [])) for key in ("_FillValue", "missing_value")]
        except (OSError, RuntimeError, IndexError, ValueError, TypeError, MemoryError) as reason:
            raise self.error(f"variable {name!r} cannot be read: {reason}") from reason
        if raw.dtype.kind == "f":
            return self._whole(name, self.numbers(name, at))
        if raw.dtype.kind not in "iu":
            raise self.error(f"variable {name!r} holds {raw.dtype}, class codes are expected")
        missing = np.zeros(raw.shape, np.bool_)
        for fill in (fill for part in fills for fill in part):
            missing |= raw == fill
        flags = np.atleast_1d(self.attribute(name, "flag_values", []))
        if raw.dtype == np.int8 and (
            self.text(name, "_Unsigned") == "true" or (flags.dtype.kind == "i" and (flags < 0).any())
        ):
            raw = raw.view(np.uint8)
        return raw if raw.dtype == np.uint8 and not missing.any() else np.where(missing, -1, raw.astype(np.int32))

    def _whole(self, name: str, values: NDArray[np.float64]) -> NDArray[np.int32]:
        """Class codes that a file holds as floating-point numbers."""
        known = np.where(np.isfinite(values), values, -1.0)
        if (known != np.round(known)).any():
            raise self.error(f"variable {name!r}: class codes are expected, got {known[known != np.round(known)][0]:g}")
        return known.astype(np.int32)


@contextmanager
def opened(path: Path, kind: type[CouplerError]) -> Iterator[NcReader]:
    """Open a file to read; raises `kind`, naming the file, where that fails or a read does."""
    try:
        refuse_damaged(path)
        data = netCDF4.Dataset(path)
    except (OSError, RuntimeError, ValueError) as reason:  # ValueError: names that are no text
        raise kind(f"{path} cannot be read as netCDF: {reason}") from reason
    with data:
        least, size = _least_size(data), path.stat().st_size
        if size < least:
            raise kind(f"{path} is cut short: it has {size} of at least {least} bytes; copy or make it anew")
        yield NcReader(path, data, kind)


def _least_size(data: Any) -> int:
    """Bytes that a file of the classic formats must have: the library reads zeros beyond the end. 0 for netCDF-4."""
    if not data.data_model.startswith("NETCDF3"):
        return 0
    size = 32 + sum(8 + _padded(len(name)) for name in data.dimensions)
    for name, variable in data.variables.items():
        values = int(np.prod(variable.shape, dtype=np.int64)) * np.dtype(variable.dtype).itemsize
        size += 28 + _padded(len(name)) + 4 * variable.ndim + values
    for holder in (data, *data.variables.values()):
        for key in holder.ncattrs():
            value = holder.getncattr(key)
            length = len(value.encode()) if isinstance(value, str) else np.asarray(value).nbytes
            size += 12 + _padded(len(key)) + _padded(length)
    return size


def _padded(length: int) -> int:
    return -(-length // 4) * 4
