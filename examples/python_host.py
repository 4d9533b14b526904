"""The same coupled run from Python, in a few lines.

    mpirun -n 2 python examples/python_host.py START.nc CONFIG.yaml FIRST_YEAR YEARS

START.nc is what prepare_demo.py writes. Cells are dealt to the ranks in equal blocks.
"""

import sys

import netCDF4
import numpy as np
from mpi4py import MPI

from ai4land_coupler.component import Component
from ai4land_coupler.grids import HostGrid


def main(start: str, config: str, first_year: int, years: int) -> None:
    comm = MPI.COMM_WORLD
    with netCDF4.Dataset(start) as file:
        n = file.dimensions["cell"].size
        mine = slice(n * comm.rank // comm.size, n * (comm.rank + 1) // comm.size)
        names = [str(name).strip() for name in netCDF4.chartostring(file["class_name"][:])]
        state = dict(zip(names, np.asarray(file["state"][:, mine]), strict=True))  # fractions of land, (n,) each
        loss = np.asarray(file["forest_loss"][mine])
        grid = HostGrid(*(np.asarray(file[v][mine]) for v in ("cell_id", "vertex_lon", "vertex_lat", "land_fraction")))

    with Component.init(config, comm) as land:
        land.set_grid(grid)
        area = land.get("fine", "area")
        for year in range(first_year, first_year + years):
            if year > first_year:
                state["forest"] = state["forest"] - loss
                state["grassland"] = state["grassland"] + loss
            fine = land.step(year, state)
            forest = comm.reduce(float(area @ fine["forest"]))
            if forest is not None:
                print(f"python_host {year}: {forest / 1e12:.3f} million km2 of fine forest", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
