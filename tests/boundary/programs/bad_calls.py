"""Random calls of the C interface, judged by a small model of what each may answer. Prints JSON from rank 0.

usage: bad_calls.py LIBRARY EMULATOR FOLDER SEED CALLS [KEY: VALUE ...]   (lines of the configuration)

All ranks draw the same collective calls; what is local about them (arrays, lengths, names, pointers) each rank draws
for itself. Every call is written to FOLDER/calls.RANK before it is made, so that a crash or a hang names its call.
"""

import ctypes
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from model import CLASSES, HELD, Model, cells
from mpi4py import MPI

COMM = MPI.COMM_WORLD
OK, USAGE, CONFIG, EMULATOR, GRID, REGRID, OUTPUT, RESTART, MPI_STATUS = 0, 1, 2, 3, 4, 7, 9, 10, 12
HANDLES = (0, -1, 99, 2**31 - 1, -(2**31))
YEARS = (-(2**31), -(2**31) + 1, -1, 0, 1, 9999, 10000, 2**31 - 2, 2**31 - 1)
LENGTHS = (-(2**63), -(2**40), -1, 0, 1, 2**31, 2**40, 2**60, 2**62, 2**63 - 1)
POISON = -7.25e77
SLACK = 4
"""Values allocated beyond what a call may touch."""


class Library:
    """libai4land_coupler through ctypes: any address, any number."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        i32, i64, pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
        self._types = {
            "init": (pointer, i32, pointer),
            "set_grid": (i32, i64, i32, pointer, pointer, pointer, pointer),
            "put": (i32, pointer, i64, pointer),
            "step": (i32, i32),
            "size": (i32, pointer, pointer),
            "get": (i32, pointer, pointer, i64, pointer),
            "write_restart": (i32, pointer),
            "read_restart": (i32, pointer),
            "finalize": (i32,),
            "last_error": (i32, pointer, i64),
        }
        for name, types in self._types.items():
            getattr(self._library, f"ai4land_{name}").argtypes = types

    def __call__(self, name: str, *args: Any) -> int:
        """Call ai4land_NAME; bytes and arrays go as their address, None as NULL."""
        kept = [ctypes.create_string_buffer(a) if isinstance(a, bytes) else a for a in args]
        raw = [
            ctypes.addressof(a) if isinstance(a, ctypes.Array) else a.ctypes.data if isinstance(a, np.ndarray) else a
            for a in kept
        ]
        return int(getattr(self._library, f"ai4land_{name}")(*raw))


class Fuzz:
    """Draws calls, predicts their statuses and compares."""

    def __init__(self, library: Library, good: bytes, folder: Path, seed: int, model: Model) -> None:
        self.call, self.good, self.folder, self.model = library, good, folder, model
        self.shared = np.random.default_rng(seed)
        self.local = np.random.default_rng([seed, COMM.rank])
        self.log = (folder / f"calls.{COMM.rank}").open("w", buffering=1)
        self.counts: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.bad = 0

    def step(self) -> None:
        """One call."""
        names = (
            "init",
            "set_grid",
            "put",
            "put_all",
            "year",
            "step",
            "size",
            "get",
            "write",
            "read",
            "finalize",
            "last_error",
        )
        weights = np.array([8, 12, 22, 3, 8, 14, 8, 18, 6, 8, 3, 6.0])
        name = str(self.shared.choice(names, p=weights / weights.sum()))
        getattr(self, f"do_{name}")()
        self.counts[name] += 1

    # --- what is drawn ----------------------------------------------------------------------------------------------

    def often(self, share: float, rng: np.random.Generator | None = None) -> bool:
        """True in that share of the draws."""
        return bool((rng or self.shared).random() < share)

    def handle(self, rng: np.random.Generator) -> int:
        """Mostly one that is alive."""
        alive = self.model.alive()
        if alive and self.often(0.85, rng):
            return int(rng.choice(alive))
        return int(rng.choice([*HANDLES, *(self.model.stale() or (7,))]))

    def name(self, known: tuple[str, ...], rng: np.random.Generator) -> bytes | None:
        """Mostly a known one; else bytes of any kind without NUL."""
        if self.often(0.8, rng):
            return str(rng.choice(known)).encode()
        kind = int(rng.integers(7))
        noise = bytes(rng.integers(1, 256, int(rng.integers(1, 40))).astype(np.uint8))
        base = str(rng.choice(known)).encode()
        return (None, b"", noise, base + b" ", base * 12_000, b"\xff\xfe" + base, base[:-1])[kind]

    def path(self) -> tuple[bytes | None, str]:
        """A path and what it is."""
        folder = os.fsencode(self.folder)
        kinds = {
            "null": None, "empty": b"", "folder": folder, "long": folder + b"/x" * 5000,
            "name": folder + b"/" + b"y" * 300, "missing": folder + b"/no/such/r.nc", "proc": b"/proc/ai4land/r.nc",
            "under a file": self.good + b"/r.nc",
            "text": self.good, "bytes": folder + b"/\xff\xfe.nc/r.nc", "full": b"/dev/full/r.nc",
            "odd name": folder + b"/\xff\xfe\x01 .nc",
        }  # fmt: skip
        kind = str(self.shared.choice(list(kinds)))
        return kinds[kind], kind

    # --- what is compared -------------------------------------------------------------------------------------------

    def judge(self, what: str, local: set[int], make: Callable[[], int], collective: bool = True) -> int:
        """Make a call; its status must be one of those predicted: of all ranks' where the call is collective."""
        allowed = local
        if collective:
            everyone = COMM.allgather(local)
            allowed = set().union(*everyone)
            if any(OK not in one for one in everyone):
                allowed.discard(OK)
            if any(not one & {OK, HELD} for one in everyone):
                allowed.discard(HELD)
        self.log.write(f"{what} expecting {sorted(allowed)}\n")
        status = make()
        self.log.write(f"   -> {status}\n")
        if status not in allowed:
            self.fail(f"{what}: expected one of {sorted(allowed)}, got {status}: {self.text(0)!r}")
        if collective and len(set(COMM.allgather(status))) > 1:
            self.fail(f"{what}: ranks got different statuses")
        self.statuses[status] += 1
        self.bad += OK not in allowed
        return status

    def text(self, handle: int) -> str:
        """The last failure of a handle and of none."""
        out = []
        for number in {handle, 0, *self.model.alive()}:
            buffer = ctypes.create_string_buffer(4000)
            self.call("last_error", number, ctypes.addressof(buffer), 4000)
            out.append(f"[{number}] {buffer.value.decode(errors='replace')}")
        return " ".join(out)

    def fail(self, text: str) -> None:
        """End the whole run with this text."""
        print(f"rank {COMM.rank}, call {sum(self.counts.values())}: {text}", file=sys.stderr, flush=True)
        COMM.Abort(3)

    # --- calls ------------------------------------------------------------------------------------------------------

    def do_init(self) -> None:
        good = os.fsencode(self.good)
        kinds = ("good",) * 6 + ("comm", "path", "null path", "null handle", "emulator", "yaml")
        kind = str(self.shared.choice(kinds if len(self.model.alive()) < 3 else kinds[6:]))
        path: bytes | None = good
        comm, place, expected = COMM.py2f(), np.full(3, 77, np.int32), {OK}
        if kind == "comm":
            comm, expected = (
                int(self.shared.choice([-1, 12345, 2**31 - 1, -(2**31), MPI.COMM_NULL.py2f()])),
                {MPI_STATUS},
            )
        elif kind == "path":
            path, what = self.path()
            expected = {USAGE} if what == "null" else {OK} if what == "text" else {CONFIG}
            if COMM.rank:
                expected = {OK}
        elif kind == "null path":
            path, expected = None, {USAGE} if COMM.rank == 0 else {OK}
        elif kind == "emulator":
            path, expected = os.fsencode(self.folder / "no_emulator.yaml"), {EMULATOR}
        elif kind == "yaml":
            path, expected = os.fsencode(self.folder / "bad.yaml"), {CONFIG}
        null = kind == "null handle" and (COMM.rank == COMM.size - 1)
        status = self.judge(
            f"init {kind} {path!r:.80} comm {comm}", {USAGE} if null else expected,
            lambda: self.call("init", path, comm, None if null else place),
        )  # fmt: skip
        if status == OK:
            self.model.started(int(place[0]))
        elif not null and place[0] != 0:
            self.fail(f"a failed init left the handle {place[0]}")
        if (place[1:] != 77).any():
            self.fail("init wrote beyond the handle")

    def do_set_grid(self) -> None:
        handle = self.handle(self.shared)
        rank, size = (COMM.rank, COMM.size) if self.often(0.7) else ((COMM.rank + 1) % COMM.size, COMM.size)
        part = np.arange(rank, cells()[0].size, size)
        if self.often(0.1) and COMM.rank == int(self.shared.integers(COMM.size)) and COMM.size > 1:
            part = part[:0]
        ids, lon, lat, land = (np.ascontiguousarray(a[part]) for a in cells())
        ncell, nvertex, expected = part.size, 4, {OK}
        arrays: list[np.ndarray | None] = [ids, lon, lat, land]
        if self.often(0.5) and self.often(0.8, self.local):
            ncell, expected = self.spoil(arrays, part.size)
            nvertex = int(self.local.choice([2, 0, -1, -(2**31)])) if expected == {-2} else nvertex
            expected = {USAGE} if expected == {-2} else expected
        wrong = self.model.refuse_grid(handle)
        status = self.judge(
            f"set_grid {handle} ncell {ncell} nvertex {nvertex}", wrong | (expected - {OK}) if wrong else expected,
            lambda: self.call("set_grid", handle, ncell, nvertex, *arrays),
        )  # fmt: skip
        if status == OK:
            whole = COMM.allgather([a.tolist() for a in (ids, lon, lat, land)])
            rows = sorted(repr(row) for part in whole for row in zip(*part, strict=True))
            self.model.gridded(handle, ids, land, "".join(rows))

    def spoil(self, arrays: list[np.ndarray | None], n: int) -> tuple[int, set[int]]:
        """Damage this rank's cells in one way; returns ncell and the statuses it may lead to; -2: nvertex is for it."""
        kind = int(self.local.integers(9))
        ids, lon, lat, land = arrays
        if kind == 0:
            return int(self.local.choice([x for x in LENGTHS if x < 0])), {USAGE}
        if n < 2:
            return n, {OK}
        at = int(self.local.integers(n - 1))
        if kind == 1:
            arrays[int(self.local.integers(4))] = None
            return n, {USAGE}
        if kind == 2:
            ids[at] = ids[at + 1]
            return n, {GRID}
        if kind == 3:
            place = (lon, lat)[int(self.local.integers(2))]
            place[at, 1] = self.local.choice([np.nan, np.inf, -np.inf])
            return n, {GRID}
        if kind == 4:
            lat[at, 2] = self.local.choice([90.1, -90.1, 1e300, -1e19])
            return n, {GRID}
        if kind == 5:
            land[at] = self.local.choice([np.nan, -0.1, 1.1, np.inf, -5e-324])
            return n, {GRID}
        if kind == 6:
            lon[at], lat[at] = lon[at + 1], lat[at + 1]
            return n, {GRID, REGRID}
        if kind == 7:
            spread = 10.0 ** self.local.uniform(-320, 300)
            lon[:] = np.clip(self.local.standard_normal(lon.shape) * spread, -1e308, 1e308)
            lat[:] = self.local.uniform(-90, 90, lat.shape)
            return n, {OK, GRID, REGRID}
        return n, {-2}

    def do_put(self) -> None:
        handle, name = self.handle(self.local), self.name(CLASSES, self.local)
        n = self.model.size(handle)
        values = self.values(handle, name)
        given, length = values, n
        if self.often(0.15, self.local):
            length = int(self.local.choice(LENGTHS))
        if self.often(0.1, self.local):
            given = None
        known = name is not None and name.decode(errors="replace") in CLASSES
        fits = length == n and (given is not None or n == 0)
        right = self.model.has_grid(handle) and known and fits
        self.judge(
            f"put {handle} {name!r:.60} n {length} {'NULL' if given is None else ''}", {OK} if right else {USAGE},
            lambda: self.call("put", handle, name, length, given), collective=False,
        )  # fmt: skip
        if right:
            self.model.put(handle, name.decode(), values[:n].copy())

    def do_put_all(self, handle: int | None = None) -> None:
        """A whole good state, so that runs get on."""
        handle = self.handle(self.shared) if handle is None else handle
        for name in CLASSES:
            values = self.model.good(handle, name)
            right = self.model.has_grid(handle)
            self.judge(
                f"put {handle} {name}", {OK} if right else {USAGE},
                lambda name=name, values=values: self.call("put", handle, name.encode(), values.size, values),
                collective=False,
            )  # fmt: skip
            if right:
                self.model.put(handle, name, values)

    def values(self, handle: int, name: bytes | None) -> np.ndarray:
        """A class as it should be, or with a value no fraction has; some room behind it."""
        text = name.decode(errors="replace") if name else ""
        n = self.model.size(handle)
        out = np.full(n + SLACK, 0.5)
        if text in CLASSES:
            out[:n] = self.model.good(handle, text)
        if n and self.often(0.3, self.local):
            odd = [np.nan, np.inf, -np.inf, 5e-324, -5e-324, -0.0, 1e308, -1e308, 2.0, -1e-3, 1e-310]
            out[self.local.integers(n)] = self.local.choice(odd)
        return out

    def do_year(self) -> None:
        """A good state and its step, in a row."""
        alive = [n for n in self.model.alive() if self.model.has_grid(n)]
        if alive:
            handle = int(self.shared.choice(alive))
            self.do_put_all(handle)
            spoils, value = self.often(0.4), float(self.shared.choice([np.nan, 0.7, -0.5]))
            if spoils and self.model.size(handle):
                values = np.full(self.model.size(handle), value)
                assert self.call("put", handle, b"forest", values.size, values) == OK
                self.model.put(handle, "forest", values)
            self.do_step(handle)

    def do_step(self, handle: int | None = None) -> None:
        handle = self.handle(self.shared) if handle is None else handle
        year = self.model.next_year(handle) if self.often(0.6) else int(self.shared.choice(YEARS))
        expected = self.model.may_step(handle, year)
        status = self.judge(f"step {handle} {year}", expected, lambda: self.call("step", handle, year))
        if status in (OK, HELD):
            self.model.stepped(handle, year, status)

    def do_size(self) -> None:
        handle, grid = self.handle(self.local), self.name(("fine", "host"), self.local)
        place: np.ndarray | None = np.full(2, 77, np.int64)
        if self.often(0.1, self.local):
            place = None
        right = self.model.has_grid(handle) and grid in (b"fine", b"host") and place is not None
        self.judge(
            f"size {handle} {grid!r:.60}", {OK} if right else {USAGE},
            lambda: self.call("size", handle, grid, place), collective=False,
        )  # fmt: skip
        if place is None:
            return
        expected = (self.model.size(handle) if grid == b"host" else place[0]) if right else 77
        if place[0] != expected or place[1] != 77 or not 0 <= place[0] <= 12800:
            self.fail(f"size {handle} {grid!r} gave {place.tolist()}, expected {expected}")

    def do_get(self) -> None:
        handle, grid = self.handle(self.local), self.name(("fine", "host"), self.local)
        known = (*CLASSES, "class", "filled", "year", "lon", "lat", "area", "cell_id", "land_fraction")
        name = self.name(known, self.local)
        n = self.room(handle, grid, name)
        length = int(self.local.choice(LENGTHS)) if self.often(0.15, self.local) else n
        out: np.ndarray | None = np.full(n + SLACK, POISON)
        if self.often(0.1, self.local):
            out = None
        right = self.model.may_get(handle, grid, name) and length == n and (out is not None or n == 0)
        self.judge(
            f"get {handle} {grid!r:.60} {name!r:.60} n {length}", {OK} if right else {USAGE},
            lambda: self.call("get", handle, grid, name, length, out), collective=False,
        )  # fmt: skip
        if out is None:
            return
        written = n if right else 0
        if (out[written:] != POISON).any() or (out[:written] == POISON).any():
            self.fail(f"get {handle} {grid!r} {name!r}: not exactly the {written} values were written")
        if right and not self.model.plausible(handle, name.decode(), out[:n]):
            self.fail(f"get {handle} {grid!r} {name!r}: {out[:n].min()} to {out[:n].max()} is not possible")

    def room(self, handle: int, grid: bytes | None, name: bytes | None) -> int:
        """Values of a field, by `size`."""
        if not self.model.has_grid(handle) or grid not in (b"fine", b"host"):
            return 3
        if name == b"year":
            return 1
        place = np.zeros(1, np.int64)
        assert self.call("size", handle, grid, place) == OK
        return int(place[0])

    def do_write(self) -> None:
        handle = self.handle(self.shared)
        path, what = os.fsencode(self.folder / f"r{handle}.nc"), "good"
        if self.often(0.4):
            path, what = self.path()
            if what == "text":
                return
        expected = {OK} if what == "good" or COMM.rank else {OK, OUTPUT} if what == "odd name" else {OUTPUT, USAGE}
        expected = self.model.may_write(handle) or expected
        given = path if COMM.rank == 0 or self.often(0.5, self.local) else None
        status = self.judge(
            f"write_restart {handle} {what}", expected, lambda: self.call("write_restart", handle, given)
        )
        if status == OK:
            self.model.written(handle, path)

    def do_read(self) -> None:
        handle = self.handle(self.shared)
        path, what = self.path()
        if self.model.files and self.often(0.6):
            path, what = sorted(self.model.files)[int(self.shared.integers(len(self.model.files)))], "good"
        same = what == "good" and self.model.same_grid(handle, path)
        expected = {OK} if same else {RESTART, USAGE}
        expected = self.model.refuse_read(handle) or (expected if COMM.rank == 0 else {OK})
        status = self.judge(f"read_restart {handle} {what}", expected, lambda: self.call("read_restart", handle, path))
        if status == OK:
            self.model.read(handle, path)

    def do_finalize(self) -> None:
        handle = self.handle(self.shared)
        self.judge(f"finalize {handle}", {OK}, lambda: self.call("finalize", handle))
        self.model.finished(handle)

    def do_last_error(self) -> None:
        handle = self.handle(self.local)
        length = int(self.local.choice([-(2**63), -1, 0, 1, 2, 7, 300, 5000]))
        buffer: ctypes.Array | None = ctypes.create_string_buffer(b"#" * 5100, 5100)
        if self.often(0.15, self.local):
            buffer = None
        right = length >= 1 and buffer is not None and (handle == 0 or handle in self.model.alive())
        self.judge(
            f"last_error {handle} {length}", {OK} if right else {USAGE},
            lambda: self.call("last_error", handle, buffer, length), collective=False,
        )  # fmt: skip
        if buffer is not None:
            room = max(length, 0)
            if buffer.raw[room:] != b"#" * (5100 - room) or (room and b"\0" not in buffer.raw[:room]):
                self.fail(f"last_error {handle} {length}: wrote beyond its room or without NUL")


def main() -> None:
    library, emulator, folder, seed, count = sys.argv[1:6]
    folder = Path(folder)
    good = folder / "good.yaml"
    if COMM.rank == 0:
        good.write_text("\n".join([f"emulator: {emulator}", *sys.argv[6:]]) + "\n")
        (folder / "no_emulator.yaml").write_text("emulator: /nowhere/at/all\n")
        (folder / "bad.yaml").write_text("emulator: [\n")
    COMM.Barrier()
    fuzz = Fuzz(
        Library(library),
        os.fsencode(good),
        folder,
        int(seed),
        Model("lag: 1" in sys.argv, "on_bad_input: hold" in sys.argv),
    )
    before = descriptors()
    while sum(fuzz.counts.values()) < int(count):
        fuzz.step()
    for handle in fuzz.model.alive():
        fuzz.call("finalize", handle)
    bad = COMM.reduce(fuzz.bad)
    statuses = COMM.reduce(fuzz.statuses)
    if COMM.rank == 0:
        result = {"bad": bad, "calls": fuzz.counts, "statuses": statuses, "descriptors": [before, descriptors()]}
        print(json.dumps(result))


def descriptors() -> int:
    """Open files of this process."""
    return len(os.listdir("/proc/self/fd"))


if __name__ == "__main__":
    main()
