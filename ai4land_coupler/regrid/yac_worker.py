"""The process in which YAC runs: reads polygons, writes conservative weights, and may die without harm.

Usage: python -m ai4land_coupler.regrid.yac_worker INPUT.npz OUTPUT.npz
Input: for each grid g `lon_g`, `lat_g` (corners of all cells one after the other, radians) and `count_g` (corners a
cell); `tasks` (k, 2), the source and target grid of each. Output: for each task t `row_t`, `col_t` (0-based target
and source cells) and `share_t` (the part of the target cell that the source cell covers), and `version`.
YAC gives its weights only as a file, and its import replaces sys.excepthook by one that calls MPI_Abort.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ai4land_coupler.regrid.child import NO_LIBRARY


def main(source: str, target: str) -> int:
    """Run every task of the input file; the exit status."""
    try:
        import yac.core as yac
    except Exception as reason:
        print(f"yac cannot be imported: {reason}", file=sys.stderr)
        return NO_LIBRARY
    with np.load(source) as given, tempfile.TemporaryDirectory(dir=Path(target).parent) as folder:
        result: dict[str, Any] = {"version": yac.version()}
        for number, (src, tgt) in enumerate(given["tasks"].tolist()):
            file = Path(folder, f"weights_{number}.nc")
            _weights(yac, given, src, tgt, file)
            result |= {f"{k}_{number}": v for k, v in _read(file).items()}
            file.unlink()
    partial = Path(target).with_suffix(".part.npz")
    np.savez(partial, **result)
    partial.rename(target)
    return 0


def _weights(yac: Any, given: Any, src: int, tgt: int, file: Path) -> None:
    fields, sizes = [], []
    for role, g in (("source", src), ("target", tgt)):
        count = given[f"count_{g}"]
        grid = yac.BasicGrid.unstruct_new(
            f"{role}_{file.stem}", count, given[f"lon_{g}"], given[f"lat_{g}"], np.arange(count.sum(), dtype=np.intc)
        )
        fields.append(yac.InterpField(grid.add_coordinates(yac.yac_location.YAC_LOC_CELL)))
        sizes.append(int(count.size))
    stack = yac.InterpolationStack()
    share = yac.yac_interp_method_conserv_normalisation.YAC_INTERP_CONSERV_DESTAREA
    stack.add_conservative(order=1, partial_coverage=True, normalisation=share)
    yac.compute_weights(stack, *fields).write_to_file(str(file), "source", "target", *sizes)


def _read(file: Path) -> dict[str, Any]:
    """Links of a YAC weight file, which counts from 1."""
    import netCDF4

    with netCDF4.Dataset(file) as data:
        data.set_auto_mask(False)
        if "remap_matrix" not in data.variables:  # no source cell meets a target cell
            return {"row": np.zeros(0, np.int64), "col": np.zeros(0, np.int64), "share": np.zeros(0)}
        return {
            "row": data["dst_address"][:].astype(np.int64) - 1,
            "col": data["src_address"][:].astype(np.int64) - 1,
            "share": data["remap_matrix"][:, 0].astype(np.float64),
        }


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
