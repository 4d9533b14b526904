"""Measure what a demo run promises, from its files alone, draw its maps and say where everything is.

    python examples/check_demo.py output/demo

Every number is computed here anew: the host's areas from start.nc, the fine totals from the fractions and class maps of
ai4land_YYYY.nc, the columns from the host's own netCDF file. Exit code 1 where a limit is passed.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

EARTH_RADIUS = 6_371_000.0


@dataclass(frozen=True)
class Measured:
    """A number with the limit it must not pass; `None` where the number is only told."""

    what: str
    value: float
    limit: float | None

    @property
    def holds(self) -> bool:
        return self.limit is None or self.value <= self.limit

    def __str__(self) -> str:
        limit = "" if self.limit is None else f"  (limit {self.limit:.0e}{'' if self.holds else ', PASSED'})"
        return f"  {self.what:<74}{self.value:9.1e}{limit}"


def row_areas(nlat: int, nlon: int) -> NDArray[np.float64]:
    """Area of a cell of each row of a global grid, (nlat,), m2."""
    edges = np.sin(np.radians(np.linspace(-90, 90, nlat + 1)))
    return EARTH_RADIUS**2 * np.diff(edges) * 2 * np.pi / nlon


def blocks(fine: NDArray[Any], ratio: int) -> NDArray[Any]:
    """A fine field (nlat, nlon) as (nlat / ratio, nlon / ratio, ratio * ratio): the fine cells of each coarse one."""
    nlat, nlon = fine.shape
    split = fine.reshape(nlat // ratio, ratio, nlon // ratio, ratio)
    return split.transpose(0, 2, 1, 3).reshape(nlat // ratio, nlon // ratio, ratio * ratio)


def prescribed(start: netCDF4.Dataset, elapsed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """State (class, cell) after `elapsed` years of the scenario, and land area (cell,) in m2."""
    names = [str(name).strip() for name in netCDF4.chartostring(start["class_name"][:])]
    state, lost = np.array(start["state"][:]), elapsed * np.asarray(start["forest_loss"][:])
    lost = np.minimum(lost, state[names.index("forest")])
    state[names.index("forest")] -= lost
    state[names.index("grassland")] += lost
    lon, lat = np.radians(start["vertex_lon"][:]), np.radians(start["vertex_lat"][:])
    area = EARTH_RADIUS**2 * (lon.max(1) - lon.min(1)) * (np.sin(lat.max(1)) - np.sin(lat.min(1)))
    return state, np.asarray(area * start["land_fraction"][:])


def areas(folder: Path, years: list[dict[str, Any]]) -> Iterator[Measured]:
    """The report's areas against the host's own arithmetic, and the report's account of the coasts."""
    off = gap = 0.0
    with netCDF4.Dataset(folder / "start.nc") as start:
        for entry in years:
            state, land = prescribed(start, entry["year"] - years[0]["year"])
            host = np.array(list(entry["host_area_km2"].values()))
            off = max(off, np.abs(host - state @ land / 1e6).max() / (land.sum() / 1e6))
            account = {k: np.array(list(entry[f"{k}_area_km2"].values())) for k in ("filled", "unplaced", "coast_gap")}
            fine = np.array(list(entry["fine_area_km2"].values()))
            closed = fine - account["filled"] + account["unplaced"] + account["coast_gap"]
            gap = max(gap, np.abs(host - closed).max() / host.sum())
    yield Measured("host area of a class in the report, off the host's own sum, of its land", off, 1e-12)
    yield Measured("host - (fine - filled + unplaced + coast_gap), of the host's land", gap, 1e-12)


def fractions(path: Path, names: list[str]) -> Iterator[Measured]:
    """Fine fractions of one year against the totals they were closed on, coarse cell by coarse cell."""
    with netCDF4.Dataset(path) as file:
        file.set_auto_mask(False)
        target = file["target"][:]
        nlat, nlon = file["lat"].size, file["lon"].size
        ratio = nlat // target.shape[1]
        area = row_areas(nlat, nlon)
        worst = sums = 0.0
        for row in range(target.shape[1]):
            rows = slice(row * ratio, (row + 1) * ratio)
            value = np.stack([np.squeeze(file[name][..., rows, :]) for name in names]).astype(np.float64)
            land = np.isfinite(value[0])
            weight = blocks(np.where(land, area[rows, None], 0.0), ratio)[0]
            mean = np.stack([(blocks(np.nan_to_num(one), ratio)[0] * weight).sum(-1) for one in value])
            some = weight.sum(-1) > 0
            off = mean[:, some] / weight.sum(-1)[some] - target[:, row, some]
            worst = max(worst, np.abs(off).max(initial=0.0))
            sums = max(sums, np.abs(value.sum(0)[land] - 1).max(initial=0.0))
    yield Measured(f"{path.stem}: fine mean - total of a coarse cell and class, of its land", worst, 1e-12)
    yield Measured(f"{path.stem}: sum over the classes of a fine cell - 1", sums, 1e-15 * len(names))


def class_map(path: Path) -> Iterator[Measured]:
    """Cells of each class in the map against the floor and the ceiling of their quota, base map (`filled` 2) apart."""
    with netCDF4.Dataset(path) as file:
        file.set_auto_mask(False)
        target, drawn, filled = file["target"][:], np.squeeze(file["class"][:]), np.squeeze(file["filled"][:])
    ratio = drawn.shape[0] // target.shape[1]
    cells = blocks(drawn, ratio)
    own = blocks(filled, ratio).max(-1) < 2
    quota = target * (cells > 0).sum(-1)
    worst = 0.0
    for k in range(target.shape[0]):
        count, some = (cells == k + 1).sum(-1), own & np.isfinite(quota[k])
        worst = max(worst, (np.abs(count - quota[k])[some]).max(initial=0.0))
    # a count is the floor or the ceiling of its quota exactly where it is less than one cell off
    yield Measured(f"{path.stem}: cells of a class in a coarse cell - their quota", worst, 1 - 1e-9)


def columns(folder: Path, years: list[dict[str, Any]]) -> Iterator[Measured]:
    """What the host wrote into its own file."""
    with netCDF4.Dataset(folder / "start.nc") as start, netCDF4.Dataset(folder / "host_history.nc") as history:
        if [int(year) for year in history["year"][:]] != [entry["year"] for entry in years]:
            raise SystemExit("host_history.nc and report.json do not hold the same years")
        last = len(years) - 1
        state, land = prescribed(start, years[last]["year"] - years[0]["year"])
        given = np.asarray(history["given"][last]).reshape(state.shape)
        received = np.asarray(history["received"][last]).reshape(state.shape)
    yield Measured("host_history: state given - prescribed", np.abs(given - state).max(), 1e-15)
    yield Measured(
        "host_history: sum over the classes of a column - 1", np.abs(received.sum(0) - 1)[land > 0].max(), 1e-13
    )
    roundtrip = (0.5 * np.abs(received - state).sum(0) * land).sum() / land.sum()
    yield Measured("round trip host - fine - host, share of land that changed class", roundtrip, None)


def main(folder: Path) -> int:
    report = json.loads((folder / "report.json").read_text())
    years = report["years"]
    files = [folder / f"ai4land_{entry['year']:04d}.nc" for entry in years]
    names = list(years[0]["host_area_km2"])
    measured = [
        *areas(folder, years),
        *columns(folder, years),
        *fractions(files[-1], names),
        *(number for path in dict.fromkeys((files[0], files[-1])) for number in class_map(path)),
    ]
    seconds = [entry["seconds"] for entry in years]
    total = sum(entry["total"] for entry in seconds)
    print(f"measured from the files, years {years[0]['year']} to {years[-1]['year']}:")
    print("\n".join(map(str, measured)))
    stages = ", ".join(f"{stage} {sum(s[stage] for s in seconds) / len(seconds):.2f}" for stage in seconds[0])
    print(f"seconds a model year: {stages}; {100 * (1 - sum(s['unet'] for s in seconds) / total):.0f} % is not U-Net")
    draw = [sys.executable, "-m", "ai4land_coupler", "plot", str(folder)]
    subprocess.run(draw, check=True, stdout=subprocess.DEVNULL)
    print("results:")
    for path in sorted(folder.iterdir()):
        print(f"  {path}  {path.stat().st_size / 1e6:.1f} MB")
    return 0 if all(one.holds for one in measured) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
