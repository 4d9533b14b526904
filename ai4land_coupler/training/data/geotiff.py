"""GeoTIFF maps on latitude and longitude; the only user of rasterio, which knows their many forms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.errors import BadInputError, UsageError

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class GeoTiff:
    """The first band of a north-up GeoTIFF in degrees, its rows from the south."""

    path: Path
    lat: Float
    lon: Float
    nodata: float | None

    @classmethod
    def open(cls, path: Path) -> GeoTiff:
        """Read where its cells are. BadInputError for another projection or a turned map."""
        with _opened(path) as data:
            place = data.transform
            if data.crs is not None and not data.crs.is_geographic:
                raise BadInputError(f"{path}: expected degrees of latitude and longitude, it is in {data.crs}")
            if place.b or place.d or place.a <= 0 or place.e >= 0:
                raise BadInputError(f"{path}: expected north up and no turn, its transform is {tuple(place)[:6]}")
            lat = place.f + place.e * (np.arange(data.height) + 0.5)
            return cls(path, lat[::-1], place.c + place.a * (np.arange(data.width) + 0.5), data.nodata)

    @property
    def name(self) -> str:
        """The file."""
        return str(self.path)

    def codes(self, rows: slice, cols: slice) -> NDArray[Any]:
        """Whole numbers (nrow, ncol), -1 where missing."""
        values = self._read(rows, cols)
        if values.dtype == np.uint8 and self.nodata is None:
            return values
        missing = self._missing(values)
        whole = np.where(missing, -1, values)
        if whole.dtype.kind == "f" and (whole != np.round(whole)).any():
            raise BadInputError(f"{self.path}: expected class codes, got {whole[whole != np.round(whole)][0]:g}")
        return whole.astype(np.int32)

    def numbers(self, rows: slice, cols: slice) -> Float:
        """Values (nrow, ncol) float64, NaN where missing."""
        values = self._read(rows, cols)
        return np.where(self._missing(values), np.nan, values.astype(np.float64))

    def _missing(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, np.bool_)
        return missing if self.nodata is None or np.isnan(self.nodata) else missing | (values == self.nodata)

    def _read(self, rows: slice, cols: slice) -> NDArray[Any]:
        n = self.lat.size
        with _opened(self.path) as data:
            window = ((n - rows.stop, n - rows.start), (cols.start, cols.stop))
            try:
                return np.asarray(data.read(1, window=window))[::-1]
            except Exception as error:
                raise BadInputError(f"{self.path} cannot be read: {error}; copy it anew") from error


def _opened(path: Path) -> Any:
    try:
        import rasterio
    except ImportError as error:
        raise UsageError(
            f"{path}: GeoTIFF needs rasterio, which is not installed: pip install 'ai4land_coupler[train]'"
        ) from error
    try:
        return rasterio.open(path)
    except rasterio.errors.RasterioError as error:
        raise BadInputError(f"{path} cannot be read as GeoTIFF: {error}") from error
