"""Years of a time axis, as makers of land-use files mean them."""

from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.ncread import NcReader


def years(file: NcReader, name: str = "time") -> tuple[int, ...]:
    """Calendar years of an axis.

    `years since` counts whole years, as LUH2 does from 850. `days since` without a calendar, or of the standard one,
    where all steps are whole years of 365 days, is noleap: LUH3 counts so from 0850. An axis without units, or called
    `year`, holds the years. Raises the file's error where it gives no years.
    """
    values, units = file.numbers(name), file.text(name, "units")
    calendar = str(file.attribute(name, "calendar", "standard")).strip().lower()
    try:
        if not np.isfinite(values).all():
            raise ValueError("it has missing values")
        if units.startswith("years since"):
            first = int(units.split()[2].split("-")[0])
            return tuple(first + int(np.floor(value)) for value in values)
        if " since " not in units:
            if not ((values == np.round(values)) & (np.abs(values) < 1e5)).all():
                raise ValueError(f"{values[:3].tolist()} are no years")
            return tuple(int(value) for value in values)
        if calendar in ("standard", "gregorian", "proleptic_gregorian", "") and _whole_years(values, units):
            calendar = "noleap"
        dates: Any = [netCDF4.num2date(value, units, calendar) for value in values]
    except (ValueError, IndexError, TypeError, AttributeError, OverflowError) as reason:
        raise file.error(f"{name!r} with units {units!r} gives no years: {reason}") from reason
    return tuple(int(date.year) for date in dates)


def _whole_years(values: NDArray[np.float64], units: str) -> bool:
    """Whether days go by whole years of 365, for longer than leap days could stay unseen."""
    step = np.diff(values)
    return units.startswith("days since") and values.size > 4 and bool((step % 365 == 0).all())
