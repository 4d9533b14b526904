"""Reads damaged files one after the other, each made from a good one. Prints a line of JSON a file.

usage: read_damaged.py FOLDER SEED FIRST LAST     (numbers of files; what is wrong with a file follows from its number)

FOLDER/trace names the file being read; a file that takes longer than LIMIT s ends the process by SIGALRM, and memory
is limited to ROOM bytes above what the process has once everything was read well.
"""

import hashlib
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import small_emulator
import yaml
from damage import Rng, bytes_damaged, netcdf_rewritten, yaml_rewritten

from ai4land_coupler import errors, weights
from ai4land_coupler.answer import Answer
from ai4land_coupler.config import Config
from ai4land_coupler.emulator import FILES, Emulator, sha256_of
from ai4land_coupler.features import StaticFeatures
from ai4land_coupler.gridfile import read_grid
from ai4land_coupler.grids import HostGrid, RegularGrid
from ai4land_coupler.recordfile import GRID, Call, Put, Record, RecordedGrid, RecordWriter
from ai4land_coupler.regrid import Overlap, Patch, cache
from ai4land_coupler.regrid.fileengine import FileEngine
from ai4land_coupler.restart import Restart
from ai4land_coupler.statefile import CoarseStates

LIMIT = 20.0
ROOM = 1 << 30
KEY = "0" * 64
IDENTITY = {name: name for name in ("emulator", "legend", "host_grid", "constraint", "weights")}
CLASSES = small_emulator.LEGEND

Damage = Callable[[Path, Path, Rng], str]


@dataclass(frozen=True)
class Kind:
    """A kind of file: a good one, how it is damaged, how it is read, and what reading it may raise.

    sealed: reading a damaged one may not give anything but the content of the good one.
    """

    good: Path
    damages: tuple[Damage, ...]
    read: Callable[[Path], Any]
    errors: tuple[type[errors.CouplerError], ...]
    sealed: bool = False


def arrays(*parts: Any) -> str:
    """SHA-256 of arrays, numbers and text."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return whole.hexdigest()


def read_restart(path: Path) -> str:
    read = Restart.read(path, IDENTITY, False)
    return arrays(read.year, read.last, read.digest, read.state, read.ahead)


def read_record(path: Path) -> str:
    """What a replay reads; where a checksum fails, which that tells, an error."""
    record = Record(path)
    calls = range(len(record.calls))
    sealed = record.head_intact and all(record.intact(i) for i in calls)
    grid, same = record.grid()
    if not (sealed and same):
        raise errors.OutputError(f"{path}: the record was altered")
    return arrays(record.attributes, record.legend, record.calls, *(record.restart(i) for i in calls), *vars(grid))


def write_record(path: Path, cells: HostGrid, restart: Path) -> None:
    """A grid that was refused, one that was taken, a restart and two steps."""
    writer = RecordWriter(path, 2, CLASSES, "emulator: small\n", {"emulator": "small", "versions": "1 2 3"})
    where = np.zeros(cells.size, np.int64), np.arange(cells.size)
    writer.append(Call("set_grid", status=4, message="wrong"), grid=dict.fromkeys(GRID, cells.cell_id))
    writer.grid(RecordedGrid(cells, *where))
    writer.append(Call("set_grid"))
    writer.append(Call("read_restart", arguments="r.nc"), restart=restart.read_bytes())
    for year in (2001, 2002):
        put = Put(np.full((len(CLASSES), cells.size), 0.25), np.ones((len(CLASSES), 2), np.uint8))
        writer.append(Call("step", year, answer=Answer(year, "d" * 64, "c" * 64, "")), put)
    writer.close(whole=True)


def read_weights(path: Path) -> str:
    grid = RegularGrid(4, 8)
    cells = np.arange(8)
    hosts = HostGrid(cells + 1, *RegularGrid(2, 4).corners(cells), np.ones(8))

    class Polygons:
        def check(self, hosts: HostGrid) -> None: ...

    engine = FileEngine(path, Polygons())
    engine.check(hosts)
    overlap = engine.coarse(grid, [Patch(np.arange(grid.size), hosts)])[0]
    return arrays(overlap.row, overlap.col, overlap.area)


def read_cells(path: Path) -> str:
    grid = read_grid(str(path)).grid
    assert np.isfinite(grid.vertex_lon).all()
    return arrays(grid.cell_id, grid.vertex_lon, grid.vertex_lat, grid.land_fraction)


def read_states(path: Path) -> str:
    states = CoarseStates.open(path, CLASSES, "land")
    return arrays(states.grid.vertex_lon, states.years, *(states.read(year)[CLASSES[0]] for year in states.years[:2]))


def read_config(path: Path) -> str:
    return Config.load(path).text()


def read_cache(path: Path) -> str:
    found = cache.load(path, KEY, 6, 5)
    return arrays(found.row, found.col, found.area) if found else "none"


def whole_emulator(folder: Path) -> str:
    emulator = Emulator.load(folder)
    emulator.network()
    features = StaticFeatures(emulator).window(0, 0, 16, 16)
    return arrays(emulator.base_map(), features)


def in_emulator(good: Path, name: str, sealed: bool) -> Callable[[Path], str]:
    """Reads an emulator in which one file was damaged; unsealed: with the sha256 of the damaged one."""
    place = good.with_name("damaged_" + name.replace(".", "_") + ("" if sealed else "_resealed"))
    shutil.copytree(good, place)

    def read(path: Path) -> str:
        shutil.copyfile(path, place / name)
        if not sealed:
            description = yaml.safe_load((good / "emulator.yaml").read_text())
            description["sha256"][name] = sha256_of(place / name)
            (place / "emulator.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
        return whole_emulator(place)

    return read


def copy_as(good: Path, kind: str) -> Path:
    """The same netCDF file in another of its formats."""
    out = good.with_name(f"{kind}_{good.name}")
    with netCDF4.Dataset(good) as source, netCDF4.Dataset(out, "w", format=kind) as target:
        source.set_auto_maskandscale(False)
        target.setncatts({key: source.getncattr(key) for key in source.ncattrs()})
        for name, dim in source.dimensions.items():
            target.createDimension(name, len(dim))
        for name, variable in source.variables.items():
            dtype = np.int32 if variable.dtype == np.int64 else variable.dtype
            made = target.createVariable(name, dtype, variable.dimensions)
            made.set_auto_maskandscale(False)
            made[...] = variable[...]
            made.setncatts({key: variable.getncattr(key) for key in variable.ncattrs() if key != "_FillValue"})
    return out


def make_kinds(folder: Path) -> dict[str, Kind]:
    """Write the good files."""
    rng = np.random.default_rng(1)
    state, regular = rng.random((4, 30)), RegularGrid(4, 8)
    Restart(2001, state, "d" * 64, 2002, state[::-1], IDENTITY, {"version": "0"}).write(folder / "restart.nc")
    cells = HostGrid(np.arange(32) + 1, *regular.corners(np.arange(32)), np.ones(32))
    write_record(folder / "record.nc", cells, folder / "restart.nc")
    weights.make("latlon:90", "latlon:45", "latlon", folder / "weights.nc")
    row = np.repeat(np.arange(6), 2)
    cache.store(folder / "cache.safetensors", KEY, "e", Overlap(row, np.tile([0, 4], 6), rng.random(12), 6, 5))
    (folder / "config.yaml").write_text(
        "emulator: small\nstate:\n  fraction_of: land\n  tolerance: 1.0e-5\nregrid:\n  engine: auto\n  file: w.nc\n"
        "workers:\n  threads: 2\noutput:\n  folder: out\n  fractions: [2001, 2002]\nlag: 1\non_bad_input: hold\n"
    )
    write_grids(folder)
    good = small_emulator.build(folder / "emulator", coarse=(8, 16))
    nc, text, raw = (bytes_damaged, netcdf_rewritten), (bytes_damaged, yaml_rewritten), (bytes_damaged,)
    config, emulator = (errors.ConfigError,), (errors.EmulatorError,)
    kinds = {
        "restart": Kind(folder / "restart.nc", nc, read_restart, (errors.RestartError,), sealed=True),
        "record": Kind(folder / "record.nc", nc, read_record, (errors.OutputError,)),
        "weights": Kind(folder / "weights.nc", nc, read_weights, (errors.RegridError,)),
        "cache": Kind(folder / "cache.safetensors", raw, read_cache, (errors.RegridError,), sealed=True),
        "configuration": Kind(folder / "config.yaml", text, read_config, config),
        "description": Kind(good / "emulator.yaml", text, in_emulator(good, "emulator.yaml", True), emulator),
    }
    for name in ("scrip.nc", "cf.nc", "ugrid.nc"):
        kinds[name] = Kind(folder / name, nc, read_cells, (errors.GridError,))
    kinds["states"] = Kind(folder / "states.nc", nc, read_states, (errors.BadInputError, errors.GridError))
    for name, kind in list(kinds.items()):
        if kind.damages == nc and not kind.sealed and name != "record":
            old = "NETCDF3_64BIT_OFFSET" if name != "weights" else "NETCDF3_64BIT_DATA"
            kinds[f"{name} classic"] = Kind(copy_as(kind.good, old), raw, kind.read, kind.errors)
    for name in FILES:
        kinds[name] = Kind(good / name, raw, in_emulator(good, name, True), emulator, sealed=True)
        if not name.endswith(".json"):
            way = nc if name.endswith(".nc") else raw
            kinds[f"{name} resealed"] = Kind(good / name, way, in_emulator(good, name, False), emulator)
    return kinds


def write_grids(folder: Path) -> None:
    """A grid in SCRIP, CF and UGRID form and states on the second."""
    grid = RegularGrid(4, 8)
    lon, lat = grid.corners(np.arange(grid.size))
    with netCDF4.Dataset(folder / "scrip.nc", "w") as file:
        file.createDimension("grid_size", grid.size)
        file.createDimension("grid_corners", 4)
        file.createDimension("grid_rank", 2)
        file.createVariable("grid_dims", "i4", ("grid_rank",))[:] = (8, 4)
        file.createVariable("grid_imask", "i4", ("grid_size",))[:] = 1
        for name, values in (("lon", lon), ("lat", lat)):
            variable = file.createVariable(f"grid_corner_{name}", "f8", ("grid_size", "grid_corners"))
            variable.units = "degrees"
            variable[:] = values
    with netCDF4.Dataset(folder / "ugrid.nc", "w") as file:
        file.createDimension("node", 4 * grid.size)
        file.createDimension("face", grid.size)
        file.createDimension("corner", 4)
        mesh = file.createVariable("mesh", "i4", ())
        mesh.setncatts(
            {
                "cf_role": "mesh_topology", "topology_dimension": 2, "node_coordinates": "node_lon node_lat",
                "face_node_connectivity": "faces",
            }
        )  # fmt: skip
        for name, values, units in (("lon", lon, "degrees_east"), ("lat", lat, "degrees_north")):
            variable = file.createVariable(f"node_{name}", "f8", ("node",))
            variable.units = units
            variable[:] = values.ravel()
        faces = file.createVariable("faces", "i4", ("face", "corner"), fill_value=-1)
        faces.start_index = 0
        faces[:] = np.arange(4 * grid.size).reshape(-1, 4)
    for name in ("cf.nc", "states.nc"):
        with netCDF4.Dataset(folder / name, "w") as file:
            _write_cf(file, grid, states=name == "states.nc")


def _write_cf(file: netCDF4.Dataset, grid: RegularGrid, states: bool) -> None:
    file.createDimension("bnds", 2)
    for name, centre, edges in (("lat", grid.lat, grid.lat_edges), ("lon", grid.lon, grid.lon_edges)):
        file.createDimension(name, centre.size)
        variable = file.createVariable(name, "f8", (name,))
        variable[:] = centre
        variable.setncatts({"units": "degrees_" + {"lat": "north", "lon": "east"}[name], "bounds": f"{name}_bnds"})
        file.createVariable(f"{name}_bnds", "f8", (name, "bnds"))[:] = np.stack([edges[:-1], edges[1:]], 1)
    file.createVariable("land_fraction", "f8", ("lat", "lon"))[:] = 0.5
    if states:
        file.createDimension("time", 2)
        time = file.createVariable("time", "f8", ("time",))
        time[:] = (0, 365)
        time.setncatts({"units": "days since 2001-01-01", "calendar": "noleap"})
        for name in CLASSES:
            file.createVariable(name, "f8", ("time", "lat", "lon"), zlib=True)[:] = 0.25


def attempt(kind: Kind, bad: Path, good: str) -> tuple[str, str]:
    """How reading ends: refused, same, other, or what it must not do."""
    try:
        content = kind.read(bad)
    except kind.errors as error:
        return "refused", str(error)
    except BaseException as error:
        return "WRONG", f"{type(error).__name__}: {error}"
    if content == good:
        return "same", ""
    return ("WRONG", "accepted with another content") if kind.sealed else ("other", "")


def main() -> None:
    folder, seed, first, last = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    work = folder / f"from{first}"
    work.mkdir()
    kinds = make_kinds(work)
    good = {name: kind.read(kind.good) for name, kind in kinds.items()}
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    ceiling = pages * os.sysconf("SC_PAGE_SIZE") + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (ceiling, ceiling))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for number in range(first, last):
        name = list(kinds)[number % len(kinds)]
        kind, rng = kinds[name], np.random.default_rng([seed, number])
        bad = work / f"bad{number}{kind.good.suffix}"  # HDF5 may keep a damaged file open
        how = kind.damages[int(rng.integers(len(kind.damages)))](kind.good, bad, rng)
        (folder / "trace").write_text(f"{number} {name}: {how}")
        signal.setitimer(signal.ITIMER_REAL, LIMIT)
        end, text = attempt(kind, bad, good[name])
        signal.setitimer(signal.ITIMER_REAL, 0)
        if end == "WRONG":
            shutil.copyfile(bad, folder / f"wrong{number}{kind.good.suffix}")
        print(json.dumps([number, name, how, end, text[-1500:]]), flush=True)
        bad.unlink()
    print(json.dumps([-1, "peak", "", "peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))


if __name__ == "__main__":
    main()
