"""A slice of a finer globe on this processor: an emulator of that resolution is made up, a few of its tiles are run.

Its base map is the given emulator's, each cell repeated; its network has the same widths and random weights; relief and
climate are random numbers on a 5 minute grid. So fields mean nothing, and times and memory are those of the real thing
but for the static channels that are left out.
"""

import hashlib
import resource
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import netCDF4
import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from rich.console import Console
from safetensors.torch import save_file

from ai4land_coupler.device import choose_precision
from ai4land_coupler.emulator import FILES, Emulator
from ai4land_coupler.errors import GridError
from ai4land_coupler.features import GROUPS, NATIVES
from ai4land_coupler.inference import TileRunner
from ai4land_coupler.scale.plans import FIELD
from ai4land_coupler.tiles import Tile, TileCells, all_tiles, coarse_around
from ai4land_coupler.tilework import TileWork
from ai4land_coupler.timing import STAGES, Stopwatch
from ai4land_coupler.unet import UNet

INPUTS = ("terrain", "climate", "place")
NATIVE = (2160, 4320)
BAND = 50


@dataclass(frozen=True)
class Slice:
    """Tiles that were run, and what follows for the globe.

    first_s and year_s: processor seconds a tile in the first year, which makes what is kept, and in a later one;
    stages: wall-clock seconds a tile of the latter; kept_bytes a tile of what is kept from year to year; peak_bytes of
    this process; fixed_bytes of it for the base map, which every rank holds; field_bytes of a year's fields of the
    globe.
    """

    step: float
    tile: int
    tiles: int
    land_tiles: int
    land_cells: int
    cells_run: int
    threads: int
    precision: str
    first_s: float
    year_s: float
    stages: dict[str, float]
    kept_bytes: int
    peak_bytes: int
    fixed_bytes: int
    field_bytes: int

    @property
    def globe_year_s(self) -> float:
        """Processor seconds of a year of the globe: tiles with land times seconds a tile."""
        return self.land_tiles * self.year_s

    def of_workers(self, workers: int) -> tuple[float, float]:
        """Seconds of a year and bytes of a rank: the worker with most tiles, base map, fields and what is kept."""
        tiles = -(-self.land_tiles // workers)
        fields = self.field_bytes * tiles / self.land_tiles
        return tiles * self.year_s / self.threads, self.fixed_bytes + tiles * self.kept_bytes + fields


def measure(emulator: Emulator, step: float, tile: int, tiles: int, threads: int) -> Slice:
    """Run `tiles` tiles with land, spread over a globe of `step` degrees, twice: two years."""
    with tempfile.TemporaryDirectory() as folder:
        made = Emulator.load(build(Path(folder) / "globe", emulator, step, tile))
        land = np.flatnonzero(_land_of_tiles(made))
        if tiles > land.size:
            raise GridError(f"{tiles} tiles were asked for, the globe has {land.size} with land; ask for fewer")
        every = all_tiles(made.fine, made.coarse, made.tile)
        works = [_work(made, every[i]) for i in land[(2 * np.arange(tiles) + 1) * land.size // (2 * tiles)]]
        precision = choose_precision("auto")
        runner = TileRunner(made, "level", precision, threads)
        seconds, watch = [], Stopwatch()
        for _ in range(2):
            watch, before = Stopwatch(), time.process_time()
            runner.run(works, watch, lambda: None)
            seconds.append((time.process_time() - before) / tiles)
        cells = int(np.count_nonzero(made.base_map()))
        side = (tile + 2 * made.halo) // 2
        return Slice(
            step, tile, tiles, int(land.size), cells, sum(work.cells.size for work in works), threads, precision,
            seconds[0], seconds[1], {name: watch.seconds[name] / tiles for name in STAGES if watch.seconds[name]},
            side * side * made.unet.widths[0] * 2, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            made.base_map().nbytes, int(cells * len(made.legend) * FIELD),
        )  # fmt: skip


def show(found: Slice) -> None:
    """Print a slice and what follows for the globe."""
    stages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in found.stages.items())
    lines = [
        f"slice of {found.tiles} tiles ({found.cells_run:,} land cells), {found.precision}, {found.threads} thread(s): "
        f"{found.year_s:.2f} processor s a tile and year ({found.first_s:.2f} in the first; wall clock: {stages}), "
        f"peak of this process {found.peak_bytes / 1e9:.2f} GB",
        f"globe: {found.land_tiles} tiles with land x {found.year_s:.2f} s = {found.globe_year_s:,.0f} processor s a "
        f"year; {found.land_cells:,} land cells, {found.field_bytes / 1e9:.1f} GB of fields",
    ]
    for workers in (1, 64, 256, 1024):
        seconds, size = found.of_workers(workers)
        lines.append(
            f"  {workers} workers: {seconds:,.0f} s a year, {size / 1e9:.2f} GB a rank and what libraries take"
        )
    Console().print("\n".join(lines), highlight=False)


def build(folder: Path, emulator: Emulator, step: float, tile: int, native: tuple[int, int] = NATIVE) -> Path:
    """Write an emulator like `emulator` on a fine grid of `step` degrees, whose cells divide the given ones."""
    finer = round(180 / emulator.fine.nlat / step)
    if finer < 1 or abs(finer * step * emulator.fine.nlat - 180) > 1e-6:
        raise GridError(f"cells of {step:g} degrees do not divide those of {emulator.name}; give another step")
    folder.mkdir(parents=True)
    channels = [name for group in GROUPS if group in INPUTS for name in GROUPS[group]]
    config = replace(emulator.unet, static_channels=len(channels), climate_classes=0, prior=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        save_file({name: value.contiguous() for name, value in UNet(config).state_dict().items()}, folder / FILES[0])
    _write_statics(folder / "statics.nc", [name for group in INPUTS for name in NATIVES.get(group, ())], native)
    _write_map(folder / "base_map.nc", emulator.base_map(), finer)
    (folder / "training_record.json").write_text("{}\n")
    description = {
        "name": f"{emulator.name}-slice", "version": "0", "legend": list(emulator.legend),
        "fine": {"nlat": emulator.fine.nlat * finer, "nlon": emulator.fine.nlon * finer},
        "coarse": {"nlat": emulator.coarse.nlat, "nlon": emulator.coarse.nlon},
        "tile": tile, "halo": emulator.halo, "base_year": emulator.base_year,
        "unet": asdict(config) | {"widths": list(config.widths)},
        "statics": [{"name": name, "mean": 0.0, "std": 1.0} for name in channels],
        "training": {"note": "random weights"},
        "sha256": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES},
    }  # fmt: skip
    (folder / "emulator.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
    return folder


def _write_statics(path: Path, names: list[str], native: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    with netCDF4.Dataset(path, "w") as file:
        for name, size, first in (("lat", native[0], -90.0), ("lon", native[1], -180.0)):
            width = -2 * first / size
            file.createDimension(name, size)
            file.createVariable(name, "f8", (name,))[:] = first + (np.arange(size) + 0.5) * width
        for name in names:
            variable = file.createVariable(name, "i2", ("lat", "lon"))
            variable.set_auto_scale(False)
            variable[:] = rng.integers(0, 100, native, np.int16)
            variable.setncatts({"scale_factor": 0.02, "add_offset": 0.0})


def _write_map(path: Path, classes: NDArray[np.uint8], finer: int) -> None:
    """A map with each cell repeated, written in bands of rows."""
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("lat", classes.shape[0] * finer)
        file.createDimension("lon", classes.shape[1] * finer)
        chunk = min(BAND, classes.shape[0]) * finer, classes.shape[1] * finer  # what is written at once
        variable = file.createVariable("class", "u1", ("lat", "lon"), zlib=True, complevel=1, chunksizes=chunk)
        for row in range(0, classes.shape[0], BAND):
            band = classes[row : row + BAND].repeat(finer, axis=0).repeat(finer, axis=1)
            variable[row * finer : row * finer + len(band)] = band


def _land_of_tiles(emulator: Emulator) -> NDArray[np.bool_]:
    tiles = all_tiles(emulator.fine, emulator.coarse, emulator.tile)
    return np.array([(emulator.base_map()[tile.rows, tile.cols] > 0).any() for tile in tiles])


def _work(emulator: Emulator, tile: Tile) -> TileWork:
    """All land of a tile, every coarse cell a mixture of all classes: the most a tile can ask for."""
    ratio = emulator.coarse.ratio_to(emulator.fine)
    cells = TileCells.of(tile, emulator.base_map()[tile.rows, tile.cols] > 0, emulator.fine, ratio)
    totals = np.random.default_rng(1).dirichlet(np.ones(len(emulator.legend)), emulator.coarse.size).T
    window = coarse_around(tile, emulator.coarse, ratio, emulator.halo)
    return TileWork(cells, np.ascontiguousarray(totals), window, np.zeros(cells.coarse.size, bool))
