"""Regridding all classes at once, beside what ESMF, SciPy and torch take for the same weights."""

import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.bench.figures import exponent
from ai4land_coupler.bench.timer import alternate
from ai4land_coupler.errors import RegridError
from ai4land_coupler.grids import HostGrid, RegularGrid
from ai4land_coupler.regrid import Overlap, Patch
from ai4land_coupler.regrid.greatcircle import GreatCircleEngine, Shares, Task

Apply = Callable[[], object]


def cubed_sphere(n: int) -> HostGrid:
    """Equiangular cubed sphere, 6 n^2 cells with great-circle edges; n = 60 has the cells of ne30pg2."""
    t = np.tan(np.linspace(-np.pi / 4, np.pi / 4, n + 1))
    a, b = np.meshgrid(t, t, indexing="ij")
    one = np.ones_like(a)
    faces = [(one, a, b), (-one, -a, b), (-a, one, b), (a, -one, b), (-b, a, one), (b, a, -one)]
    lon: list[NDArray[np.float64]] = []
    lat: list[NDArray[np.float64]] = []
    for x, y, z in faces:
        for corner, out in ((np.arctan2(y, x), lon), (np.arctan2(z, np.hypot(x, y)), lat)):
            around = [corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:]]
            out.append(np.degrees(np.stack(around, -1)).reshape(-1, 4))
    return HostGrid(np.arange(1, 6 * n * n + 1), np.concatenate(lon), np.concatenate(lat), np.ones(6 * n * n))


def weights(source: HostGrid, target: RegularGrid) -> Overlap:
    """Overlap areas by clipping, which needs no library."""
    engine = GreatCircleEngine("clipping", _no_library)
    return engine.fine(target, Patch(np.arange(target.size), source))


def _no_library(tasks: Sequence[Task]) -> list[Shares]:
    raise RegridError(f"bench: {len(tasks)} overlaps are asked of a library, those of regular cells should be clipped")


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each way, taken in turn, why one is missing; job: n of the cubed sphere, nlat, classes, repeats."""
    source, target = cubed_sphere(job["n"]), RegularGrid(job["nlat"], 2 * job["nlat"])
    overlap = weights(source, target)
    fields = np.random.default_rng(1).random((job["classes"], source.size))
    room = np.empty((job["classes"], target.size))  # the others' results have their place too
    ways: dict[str, Apply] = {"ours": lambda: overlap.apply(fields, room)}
    why: dict[str, str] = {}
    ways |= _scipy(overlap, fields, why) | _torch(overlap, fields)
    with esmf_ways(source, target, job["classes"], why) as esmf:
        seconds = alternate(ways | esmf, job["repeats"], warm=2)
    grown = [
        *growth(job["classes"], job["repeats"], [(job["n"] // 4, job["nlat"] // 4), (job["n"] // 2, job["nlat"] // 2)])
    ]
    grown.append((int(overlap.row.size), float(np.median(seconds["ours"]))))
    sizes, costs = zip(*grown, strict=True)
    return {
        "cells": {"size": sizes, "seconds": costs, "exponent": exponent(sizes, costs)},
        "source_cells": source.size, "target_cells": target.size, "entries": int(overlap.row.size),
        "classes": job["classes"], "seconds": seconds, "why": why,
    }  # fmt: skip


def growth(classes: int, repeats: int, grids: Sequence[tuple[int, int]]) -> list[tuple[int, float]]:
    """Entries and seconds of our apply between grids of (n of the cubed sphere, nlat)."""
    out = []
    for n, nlat in grids:
        overlap = weights(cubed_sphere(n), RegularGrid(nlat, 2 * nlat))
        fields = np.random.default_rng(1).random((classes, overlap.n_col))
        seconds = alternate({"ours": functools.partial(overlap.apply, fields)}, repeats)["ours"]
        out.append((int(overlap.row.size), float(np.median(seconds))))
    return out


def _scipy(overlap: Overlap, fields: NDArray[np.float64], why: dict[str, str]) -> dict[str, Apply]:
    if importlib.util.find_spec("scipy") is None:
        why["scipy"] = "SciPy is not installed"
        return {}
    from scipy.sparse import csr_matrix

    shape = (overlap.n_row, overlap.n_col)
    matrix = csr_matrix((overlap.area, (overlap.row, overlap.col)), shape=shape)
    columns = np.ascontiguousarray(fields.T)
    return {
        "scipy, a class at a time": lambda: [matrix @ field for field in fields],
        "scipy, all classes": lambda: matrix @ columns,
    }


def _torch(overlap: Overlap, fields: NDArray[np.float64]) -> dict[str, Apply]:
    import torch

    start = torch.from_numpy(np.searchsorted(overlap.row, np.arange(overlap.n_row + 1)))
    parts = start, torch.from_numpy(overlap.col), torch.from_numpy(overlap.area)
    matrix = torch.sparse_csr_tensor(*parts, size=(overlap.n_row, overlap.n_col), check_invariants=False)
    columns = torch.from_numpy(np.ascontiguousarray(fields.T))
    return {"torch sparse": lambda: matrix @ columns}


def esmf_ways(source: HostGrid, target: RegularGrid, classes: int, why: dict[str, str]) -> Any:
    """A context that gives ESMF's own apply, or nothing and the reason."""
    from ai4land_coupler.bench.esmfapply import ways

    return ways(source, target, classes, why)
