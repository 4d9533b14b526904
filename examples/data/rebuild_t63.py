"""Rebuild t63_land.nc, the host grid of the examples, from the Debian package libncarg-data.

    python examples/data/rebuild_t63.py [sftlf_mod1_rectilinear_grid_2D.nc]

The file in that package is the land fraction of MPI-ESM-LR as published for CMIP5, on the T63 Gaussian grid of its
atmosphere (192 x 96). Without an argument the package is fetched by name (`apt-get download`) and unpacked into a
temporary folder; nothing is installed.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import netCDF4
import numpy as np

PACKAGE = "libncarg-data"
SOURCE = "sftlf_mod1_rectilinear_grid_2D.nc"
TARGET = Path(__file__).with_name("t63_land.nc")


def fetch(folder: Path) -> Path:
    """The source file, unpacked below `folder` from the Debian package."""
    subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=True)
    (archive,) = folder.glob(f"{PACKAGE}_*.deb")
    subprocess.run(["dpkg-deb", "--extract", archive.name, "."], cwd=folder, check=True)
    (source,) = folder.rglob(SOURCE)
    return source


def rebuild(source: Path, target: Path) -> None:
    """Write bounds (degrees, as in the source) and the land fraction (%, whole numbers) to `target`."""
    with netCDF4.Dataset(source) as old, netCDF4.Dataset(target, "w", format="NETCDF4_CLASSIC") as new:
        land = np.asarray(old["sftlf"][:])
        if not np.array_equal(land, land.astype(np.uint8)):
            raise ValueError(f"{source}: the land fraction is no longer in whole per cent; store it as float32")
        new.title = "T63 Gaussian grid of MPI-ESM-LR with its land fraction"
        new.source = f"sftlf of MPI-ESM-LR (CMIP5), file {SOURCE} of the Debian package {PACKAGE}, values unchanged"
        new.license = "package ncl: BSD-4-clause, see NOTICE"
        new.history = "made by examples/data/rebuild_t63.py"
        for name in ("lat", "lon"):
            new.createDimension(name, old[name].size)
        new.createDimension("bnds", 2)
        for name in ("lat", "lon"):
            centre = new.createVariable(name, "f8", (name,), zlib=True)
            centre.setncatts({key: old[name].getncattr(key) for key in ("standard_name", "long_name", "units")})
            centre.bounds = f"{name}_bnds"
            centre[:] = old[name][:]
            new.createVariable(f"{name}_bnds", "f8", (name, "bnds"), zlib=True)[:] = old[f"{name}_bnds"][:]
        fraction = new.createVariable("sftlf", "i1", ("lat", "lon"), zlib=True)
        fraction.setncatts({"standard_name": "land_area_fraction", "long_name": "Land Area Fraction", "units": "%"})
        fraction[:] = land


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rebuild(Path(sys.argv[1]) if len(sys.argv) > 1 else fetch(Path(folder)), TARGET)
    print(TARGET)


if __name__ == "__main__":
    main()
