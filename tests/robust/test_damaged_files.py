"""Damaged files of every kind the plugin reads: the documented error, or the content unharmed; nothing else."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import netCDF4
import numpy as np
import pytest
from mpi import ROOT, environment

from ai4land_coupler.classicheader import overfull
from ai4land_coupler.errors import RegridError
from ai4land_coupler.heaps import endless
from ai4land_coupler.regrid.weightfile import read_links

PROGRAM = Path(__file__).parent / "programs" / "read_damaged.py"
MOST = 1.6e9
"""Bytes a reading process may have resident: what torch and the libraries take, and 1 GiB for the files."""


@pytest.mark.parametrize(("seed", "first", "last"), [(1, 0, 600), pytest.param(2, 0, 4000, marks=pytest.mark.long)])
def test_damaged_files_end_in_their_error(tmp_path: Path, seed: int, first: int, last: int) -> None:
    """No crash, no hang, bounded memory; a file with a checksum gives its own content or nothing."""
    command = [sys.executable, PROGRAM, tmp_path, str(seed), str(first), str(last)]
    env = environment(PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60 + last, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (
        f"ended with {done.returncode} at {(tmp_path / 'trace').read_text()}\n{done.stderr[-2000:]}"
    )
    *files, (*_, peak) = lines
    wrong = [line for line in files if line[3] == "WRONG"]
    assert not wrong, wrong[:5]
    ends = Counter(line[3] for line in files)
    kinds = Counter(line[1] for line in files)
    print(f"{len(files)} damaged files of {len(kinds)} kinds: {dict(ends)}, at most {peak / 1024:.0f} MiB resident")
    assert len(files) == last - first
    assert ends["refused"] > 0.6 * len(files)
    assert peak * 1024 < MOST


@pytest.mark.parametrize("form", ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"])
def test_a_list_longer_than_its_file_is_not_opened(tmp_path: Path, form: str) -> None:
    """The library may end the process; each list in turn: dimensions, attributes, variables, names, values."""
    path = tmp_path / "w.nc"
    with netCDF4.Dataset(path, "w", format=form) as file:
        file.createDimension("row", 3)
        file.createDimension("time", None)
        file.title = "abcde"
        for name in ("x", "yy"):
            file.createVariable(name, "f8", ("time", "row"))[:] = np.ones((2, 3))
            file[name].units = "m2"
    assert not overfull(path)
    whole, wide = path.read_bytes(), 8 if form == "NETCDF3_64BIT_DATA" else 4
    counts = [whole.index(b"\0\0\0" + tag) + 4 for tag in (b"\x0a", b"\x0b", b"\x0c")]
    counts += [whole.index(text) - wide for text in (b"row", b"time", b"title", b"abcde", b"yy", b"m2")]
    for at in counts:
        content = bytearray(whole)
        content[at : at + wide] = (2**24).to_bytes(wide, "big")
        path.write_bytes(content)
        assert overfull(path), at
        with pytest.raises(RegridError, match="more entries than the file has bytes"):
            read_links(path)
    for end in range(0, 120, 7):
        path.write_bytes(whole[:end])
        assert not overfull(path)


@pytest.mark.parametrize("entry", [bytes(16), b"\xff" * 8 + (2**64 - 16).to_bytes(8, "little")], ids=["no", "back"])
def test_a_heap_that_never_ends_is_not_opened(tmp_path: Path, entry: bytes) -> None:
    """HDF5 reads for ever where an entry of a global heap leads to itself; it must not get to see such a file."""
    path = tmp_path / "w.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("x", 3)
        file.createVariable("x", "f8", ("x",))[:] = np.arange(3)
        file.createVariable("y", "f8", ("x",))[:] = np.arange(3)
    content = bytearray(path.read_bytes())
    start = content.index(b"GCOL")
    assert not endless(path)
    content[start + 16 : start + 32] = entry
    path.write_bytes(content)
    assert endless(path)
    with pytest.raises(RegridError, match="damaged"):
        read_links(path)
