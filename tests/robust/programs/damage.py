"""Ways to damage a file: its bytes, and for netCDF what stands in it."""

import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import netCDF4
import numpy as np

HEADER = 3000
"""Bytes from the start in which most of a small file's description lies."""

Rng = np.random.Generator


def truncated(content: bytes, rng: Rng) -> bytes:
    """Cut anywhere, or just before the end."""
    return content[: int(rng.choice([rng.integers(len(content)), len(content) - 1, rng.integers(64)]))]


def flipped(content: bytes, rng: Rng) -> bytes:
    """One to 64 bits turned, in the header or anywhere."""
    out = bytearray(content)
    reach = min(len(out), HEADER) if rng.random() < 0.6 else len(out)
    for _ in range(int(rng.choice([1, 1, 1, 4, 64]))):
        out[int(rng.integers(reach))] ^= 1 << int(rng.integers(8))
    return bytes(out)


def overwritten(content: bytes, rng: Rng) -> bytes:
    """A stretch of zeros, of ones or of noise."""
    out = bytearray(content)
    reach = min(len(out), HEADER) if rng.random() < 0.5 else len(out)
    start, length = int(rng.integers(reach)), int(rng.choice([4, 8, 64, 512]))
    fill = [b"\0" * length, b"\xff" * length, bytes(rng.integers(0, 256, length).astype(np.uint8))]
    out[start : start + length] = fill[int(rng.integers(3))]
    return bytes(out[: len(content)])


def shifted(content: bytes, rng: Rng) -> bytes:
    """Bytes put in or taken out."""
    at, length = int(rng.integers(len(content))), int(rng.choice([1, 3, 512]))
    if rng.random() < 0.5:
        return content[:at] + b"\x01" * length + content[at:]
    return content[:at] + content[at + length :]


def numbers_changed(content: bytes, rng: Rng) -> bytes:
    """Eight or four bytes that may be a size or an address made huge, negative or small."""
    out = bytearray(content)
    width = int(rng.choice([4, 8]))
    at = int(rng.integers(min(len(out), HEADER))) // width * width
    value = [0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1][int(rng.integers(7))]
    order = "big" if rng.random() < 0.5 else "little"
    out[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, order)
    return bytes(out[: len(content)])


def of_another_kind(content: bytes, rng: Rng) -> bytes:
    """No file of the kind at all."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("data.pkl", b"cos\nsystem\n(S'exit 3'\ntR.")
    kinds = (
        b"", b"\n", b"\0" * 5000, b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + b"\0" * 4096,
        b"CDF\x01", b"CDF\x02" + b"\xff" * 100,
        b"CDF\x05" + b"\0" * 8 + b"\0\0\0\x0a" + b"\x7f" * 64, b"\x7fELF" + b"\0" * 600, b"%PDF-1.7\n",
        b"GRIB" + b"\0" * 64,
        gzip.compress(content), packed.getvalue(), b'{"a": 1}', b"- 1\n- 2\n", b"a: [1, 2\n", b"\xff\xfe\0\0",
        (2**62).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"{}", b"\x80\x04\x95" + b"\0" * 20,
    )  # fmt: skip
    return kinds[int(rng.integers(len(kinds)))]


BYTES = (truncated, flipped, flipped, overwritten, shifted, numbers_changed, of_another_kind)


def bytes_damaged(good: Path, bad: Path, rng: Rng) -> str:
    """Write a copy with damaged bytes; says how."""
    how = BYTES[int(rng.integers(len(BYTES)))]
    bad.write_bytes(how(good.read_bytes(), rng))
    return how.__name__


def netcdf_rewritten(good: Path, bad: Path, rng: Rng) -> str:
    """Write a netCDF copy in which one thing is other than it should be; says what."""
    with netCDF4.Dataset(good) as source:
        source.set_auto_maskandscale(False)
        dims = {name: len(dim) for name, dim in source.dimensions.items()}
        variables = {
            name: (var.dimensions, np.asarray(var[...]), {key: var.getncattr(key) for key in var.ncattrs()})
            for name, var in source.variables.items()
        }
        attributes = {key: source.getncattr(key) for key in source.ncattrs()}
    name = sorted(variables)[int(rng.integers(len(variables)))]
    what = CHANGES[int(rng.integers(len(CHANGES)))]
    text = what(dims, variables, attributes, name, rng)
    with netCDF4.Dataset(bad, "w") as file:
        file.setncatts(attributes)
        for dim, length in dims.items():
            file.createDimension(dim, length)
        for key, (on, values, notes) in variables.items():
            fill = notes.pop("_FillValue", None)
            kind = (
                str if values is not None and values.dtype == object else values.dtype if values is not None else "f8"
            )
            chunks = [1] * len(on) if values is None else None
            variable = file.createVariable(
                key, kind, on, fill_value=fill if kind is not str else None, chunksizes=chunks
            )
            variable.set_auto_maskandscale(False)
            if values is not None:
                variable[...] = values
            variable.setncatts(notes)
    return f"{text} {name}"


def _missing(dims: dict, variables: dict, attributes: dict, name: str, rng: Rng) -> str:
    del variables[name]
    return "without"


def _turned(dims: dict, variables: dict, attributes: dict, name: str, rng: Rng) -> str:
    on, values, notes = variables[name]
    variables[name] = on[::-1], values.T, notes
    return "dimensions turned of"


def _other_type(dims: dict, variables: dict, attributes: dict, name: str, rng: Rng) -> str:
    on, values, notes = variables[name]
    kind = ("i1", "i8", "u8", "f4", "S1", "text")[int(rng.integers(6))]
    notes = {key: value for key, value in notes.items() if key != "_FillValue"}
    with np.errstate(invalid="ignore"):
        made = np.full(values.shape, "many words", dtype=object) if kind == "text" else (
            np.full(values.shape, b"x", "S1") if kind == "S1"
            else np.zeros(values.shape, kind) if values.dtype == object else values.astype(kind)
        )  # fmt: skip
    variables[name] = on, made, notes
    return f"type {kind} of"


def _scalar(dims: dict, variables: dict, attributes: dict, name: str, rng: Rng) -> str:
    variables[name] = (), np.array(1.0), {}
    return "one value for"


def _odd_values(dims: dict, variables: dict, attributes: dict, name: str, rng: Rng) -> str:
    on, values, notes = variables[name]
    if values.dtype.kind == "f" and values.size:
        values = values.copy()
        values.reshape(-1)[int(rng.integers(values.size))] = rng.choice([np.nan, np.inf, -1e300, 1e19, -7.0])
    elif values.size:
        values = np.full_like(values, np.iinfo(values.dtype).max) if values.dtype.kind in "iu" else values
    variables[name] = on, values, notes
    return "odd values in"


def _empty(dims: dict, variables: dict, attributes: dict, name: str, rng: Rng) -> str:
    _, values, notes = variables[name]
    dims["none"] = None
    variables[name] = ("none",), values.reshape(-1)[:0], {k: v for k, v in notes.items() if k != "_FillValue"}
    return "no values for"


def _huge(dims: dict, variables: dict, attributes: dict, name: str, rng: Rng) -> str:
    """Sizes declared without a byte of data: terabytes."""
    on = variables[name][0]
    dims.update({f"huge{i}": 2**20 for i in range(max(2, len(on)))})
    variables[name] = tuple(f"huge{i}" for i in range(max(2, len(on)))), None, {}
    return "huge"


def _odd_attribute(dims: dict, variables: dict, attributes: dict, name: str, rng: Rng) -> str:
    on, values, notes = variables[name]
    key = ("units", "scale_factor", "missing_value", "bounds", "calendar", "standard_name", "coordinates")[
        int(rng.integers(7))
    ]
    value = (np.nan, "none such", np.arange(5.0), 7, "days since never", "", "\N{SNOWMAN}")[int(rng.integers(7))]
    variables[name] = on, values, {**notes, key: value}
    return f"{key} = {value!r} on"


def _other_attributes(dims: dict, variables: dict, attributes: dict, name: str, rng: Rng) -> str:
    if attributes:
        key = sorted(attributes)[int(rng.integers(len(attributes)))]
        attributes[key] = (3, "other", np.arange(3.0))[int(rng.integers(3))]
        return f"{key} beside"
    return "nothing done to"


CHANGES: tuple[Callable[..., str], ...] = (
    _missing, _turned, _other_type, _other_type, _scalar, _odd_values, _empty, _huge, _odd_attribute, _other_attributes,
)  # fmt: skip

YAML = (
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{c}: &{c} [{', '.join(['*' + p] * 9)}]\n" for p, c in zip("abcdefghi", "bcdefghij", strict=True)),
    "emulator: " + "[" * 3000 + "]" * 3000,
    "emulator: " + "{a: " * 3000 + "}" * 3000,
    "emulator: 2001-99-99\n",
    "emulator: !!python/object/apply:os.system ['exit 3']\n",
    "emulator: !!binary '===='\n",
    "? [a, b]\n: c\n",
    "? {a: b}\n: c\n",
    "emulator: &x [*x]\n",
    "&x emulator: *x\n",
    "emulator: small\nstate: &s {crosswalk: *s}\n",
    "emulator: small\nworkers: {threads: 1e400}\n",
    "emulator: small\nworkers: {threads: 0x" + "f" * 5000 + "}\n",
    "emulator: small\nworkers: {threads: " + "9" * 5000 + "}\n",
    "emulator: small\nstate: {tolerance: .nan}\n",
    "emulator: small\noutput: {folder: \"\\0\"}\n",
    "emulator: \"a\\0b\"\n",
    "emulator: small\nregrid: {file: \"\\uD800\"}\n",
    "<<: 3\nemulator: small\n",
    "emulator: small\n" * 3,
    "1: 2\n",
    "emulator: small\n1: 2\n",
    "emulator: small\nstate: {crosswalk: {a: {b: x}}}\n",
    "emulator: small\nstate: {crosswalk: {a: {b: .inf}}}\n",
    "emulator: small\noutput: {folder: x, fractions: [" + "1, " * 50000 + "1]}\n",
    "--- {}\n--- {}\n",
    "%YAML 9.9\n---\nemulator: small\n",
    "\tx: y\n",
    "emulator: " + "x" * 10**6 + "\n",
    "emulator: 12:30:45\nlag: 1:2:3\n",
)  # fmt: skip
"""YAML files that are well formed or nearly, and nothing a configuration or description should be."""


def yaml_rewritten(good: Path, bad: Path, rng: Rng) -> str:
    """One of YAML, or the good file with one of its lines changed."""
    if rng.random() < 0.5:
        i = int(rng.integers(len(YAML)))
        bad.write_text(YAML[i], encoding="utf-8")
        return f"YAML {i}"
    lines = good.read_text().splitlines()
    at = int(rng.integers(len(lines)))
    values = ("null", "-1", "[]", "{}", "1e308", "'x'", "[1, 2]", "true", "2001-01-01", "99999999999999999999", ".nan")
    value = values[int(rng.integers(len(values)))]
    lines[at] = lines[at].split(":")[0] + ": " + value if rng.random() < 0.8 else lines[at] * 2
    bad.write_text("\n".join(lines) + "\n")
    return f"line {at + 1} {value}"
