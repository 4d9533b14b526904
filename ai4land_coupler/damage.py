"""Files that the netCDF library must not be shown: it would never come back, or end the process."""

from pathlib import Path

from ai4land_coupler.classicheader import overfull
from ai4land_coupler.heaps import endless


def refuse_damaged(path: Path) -> None:
    """Raise OSError for such a file, or where there is none."""
    if endless(Path(path)):
        raise OSError(f"{path} is damaged: a global heap of HDF5 has an entry that leads nowhere")
    if overfull(Path(path)):
        raise OSError(f"{path} is damaged: a list in its header has more entries than the file has bytes")
