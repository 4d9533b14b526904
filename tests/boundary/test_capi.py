"""The Python side of the hooks, called with a bare cffi.FFI and a component that only records."""

from types import SimpleNamespace
from typing import Any

import cffi
import numpy as np
import pytest
from building import declared

from ai4land_coupler import capi
from ai4land_coupler.capi import ANSWERED, HOOKS, Hooks
from ai4land_coupler.errors import BadInputError, CouplerError, Status

OK, USAGE = ANSWERED + Status.OK, ANSWERED + Status.USAGE


class Recorder:
    """Takes what a component takes, keeps it, and fails when told to."""

    def __init__(self, config: str, comm: int) -> None:
        self.made_with = (config, comm)
        self.put_values: dict[str, np.ndarray] = {}
        self.failure: BaseException | None = None
        self.held: str | None = None
        self.finalized = 0
        self.grid: Any = None

    legend = ("forest", "crops")

    def together(self, local: Any) -> Any:
        return local()

    def set_grid(self, make: Any) -> None:
        self.grid = make()

    def put(self, name: str, values: np.ndarray) -> None:
        self.put_values[name] = values

    def get_into(self, grid: str, name: str, out: np.ndarray) -> None:
        out[...] = np.arange(out.size) + len(name)

    def size(self, grid: str) -> int:
        return 2**40 if grid == "fine" else self.grid.size

    def views(self) -> dict[tuple[str, str], list[np.ndarray]]:
        """Two pieces of one field."""
        return {("fine", "forest"): [np.array([0.25, 0.5]), np.array([1.0])]}

    def advance(self, year: int, state: dict[str, np.ndarray] | None = None) -> None:
        self.state = {name: values.copy() for name, values in (state or {}).items()}
        if self.failure:
            raise self.failure

    def finalize(self) -> None:
        self.finalized += 1
        if self.failure:
            raise self.failure


@pytest.fixture
def ffi() -> cffi.FFI:
    """A cffi that knows no library."""
    return cffi.FFI()


class CDesk:
    """What bindings/desk.c does with what it is told."""

    def __init__(self, ffi: cffi.FFI) -> None:
        self.ffi = ffi
        self.room: dict[tuple[int, str], Any] = {}
        self.offered: dict[tuple[int, str, str], list[tuple[Any, int]]] = {}

    def desk_take(self, handle: int, name: bytes, n: int, room: Any, full: Any) -> int:
        self.room[handle, name.decode()] = (n, room, full)
        return 0

    def desk_offer(self, handle: int, grid: bytes, name: bytes, pieces: int, piece: Any, length: Any) -> int:
        kept = [(piece[i], length[i]) for i in range(pieces)]
        self.offered[handle, grid.decode(), name.decode()] = kept
        return 0

    def desk_clear(self, handle: int, room: int) -> None:
        self.offered = {key: kept for key, kept in self.offered.items() if key[0] != handle}
        if room:
            self.room = {key: kept for key, kept in self.room.items() if key[0] != handle}


@pytest.fixture
def desk(ffi: cffi.FFI) -> CDesk:
    """A desk that C would copy from and to."""
    return CDesk(ffi)


@pytest.fixture
def made() -> list[Recorder]:
    """The components made so far."""
    return []


@pytest.fixture
def hooks(ffi: cffi.FFI, desk: CDesk, made: list[Recorder]) -> Hooks:
    """Hooks that make recorders."""

    def start(config: str, comm: int) -> Any:
        if "bad" in config:
            raise CouplerError("no such configuration")
        made.append(Recorder(config, comm))
        return made[-1]

    return Hooks(ffi, desk, start)


def started(hooks: Hooks, ffi: cffi.FFI) -> int:
    """A new handle."""
    handle = ffi.new("int *", 99)
    assert hooks.init(ffi.new("char[]", b"a.yaml"), 7, handle) == OK
    return int(handle[0])


def text_of(hooks: Hooks, ffi: cffi.FFI, handle: int, length: int = 4096) -> tuple[int, str]:
    """Status and text of last_error."""
    buffer = ffi.new("char[]", b"#" * length)
    status = hooks.last_error(handle, buffer, length)
    return status, ffi.string(buffer).decode()


def test_handles_count_from_one_and_are_never_reused(hooks: Hooks, ffi: cffi.FFI, made: list[Recorder]) -> None:
    """A failed init takes no number; a finished handle does nothing more and is refused everywhere else."""
    assert started(hooks, ffi) == 1
    handle = ffi.new("int *", 0)
    assert hooks.init(ffi.new("char[]", b"bad.yaml"), 7, handle) == ANSWERED + Status.INTERNAL
    assert handle[0] == 0
    assert text_of(hooks, ffi, 0) == (OK, "no such configuration")
    assert started(hooks, ffi) == 2
    assert text_of(hooks, ffi, 0) == (OK, "")
    assert [hooks.finalize(n) for n in (1, 1, 0, 17, -3)] == [OK] * 5
    assert (made[0].finalized, made[1].finalized) == (1, 0)
    assert hooks.step(1, 2000) == USAGE
    assert "finalized" in text_of(hooks, ffi, 1)[1]
    assert started(hooks, ffi) == 3


def test_values_cross_as_views(hooks: Hooks, ffi: cffi.FFI, made: list[Recorder]) -> None:
    """put sees the host's memory itself, get writes into it, and nothing beside it."""
    handle = started(hooks, ffi)
    values = ffi.new("double[]", [1.0, 2.0, 4.0, -1.0])
    assert hooks.put(handle, ffi.new("char[]", b"forest"), 3, values) == OK
    seen = made[0].put_values["forest"]
    values[1] = 8.0
    assert seen.tolist() == [1.0, 8.0, 4.0]
    assert hooks.get(handle, ffi.new("char[]", b"host"), ffi.new("char[]", b"lat"), 3, values) == OK
    assert list(values) == [3.0, 4.0, 5.0, -1.0]
    n = ffi.new("int64_t *")
    assert hooks.size(handle, ffi.new("char[]", b"fine"), n) == OK
    assert n[0] == 2**40


def test_a_grid_is_copied_corner_by_corner(hooks: Hooks, ffi: cffi.FFI, made: list[Recorder]) -> None:
    """[ncell][nvertex] in memory; the host may reuse its arrays at once."""
    handle = started(hooks, ffi)
    lon = ffi.new("double[]", [0.0, 1.0, 1.0, 10.0, 20.0, 20.0])
    lat = ffi.new("double[]", [0.0, 0.0, 5.0, 0.0, 0.0, 5.0])
    ids, land = ffi.new("int64_t[]", [7, 2**40]), ffi.new("double[]", [0.5, 1.0])
    assert hooks.set_grid(handle, 2, 3, ids, lon, lat, land) == OK
    lon[3] = ids[0] = -1
    grid = made[0].grid
    assert grid.cell_id.tolist() == [7, 2**40]
    assert grid.vertex_lon.tolist() == [[0, 1, 1], [10, 20, 20]]
    null = ffi.NULL
    assert hooks.set_grid(handle, 0, 0, null, null, null, null) == OK
    assert made[0].grid.size == 0


def test_what_lies_on_the_desk_is_what_is_put_and_served(hooks: Hooks, ffi: cffi.FFI, desk: CDesk, made: Any) -> None:
    """Room for every class of the host's cells; a step takes what was put since the last; finalize clears all."""
    handle = started(hooks, ffi)
    corners, ids = ffi.new("double[]", [0.0, 1.0, 1.0, 10.0, 20.0, 20.0]), ffi.new("int64_t[]", [7, 9])
    assert hooks.set_grid(handle, 2, 3, ids, corners, corners, ffi.new("double[]", [0.5, 1.0])) == OK
    assert [(name, n) for (_, name), (n, _, _) in desk.room.items()] == [("forest", 2), ("crops", 2)]
    _, room, full = desk.room[handle, "crops"]
    room[0], room[1], full[0] = 0.5, 0.75, 1
    assert hooks.step(handle, 2000) == OK
    assert {name: values.tolist() for name, values in made[0].state.items()} == {"crops": [0.5, 0.75]}
    assert full[0] == 0
    pieces = desk.offered[handle, "fine", "forest"]
    assert [[at[i] for i in range(length)] for at, length in pieces] == [[0.25, 0.5], [1.0]]
    assert hooks.step(handle, 2001) == OK
    assert made[0].state == {}, "a class that was not put again is not held over"
    assert hooks.finalize(handle) == OK
    assert (desk.room, desk.offered) == ({}, {})


@pytest.mark.parametrize(
    ("n", "null", "word"), [(-1, False, "-1"), (1, True, "NULL"), (3, True, "NULL")], ids=["negative", "one", "three"]
)
def test_memory_that_is_not_there(hooks: Hooks, ffi: cffi.FFI, n: int, null: bool, word: str) -> None:
    """A negative length or NULL with values expected is a usage error that says so; NULL with none is fine."""
    handle = started(hooks, ffi)
    values = ffi.NULL if null else ffi.new("double[]", 3)
    assert hooks.put(handle, ffi.new("char[]", b"forest"), n, values) == USAGE
    assert word in text_of(hooks, ffi, handle)[1]
    assert hooks.put(handle, ffi.new("char[]", b"forest"), 0, ffi.NULL) == OK
    assert hooks.put(handle, ffi.NULL, 0, ffi.NULL) == USAGE


def test_every_exception_is_a_status(hooks: Hooks, ffi: cffi.FFI, made: list[Recorder]) -> None:
    """Own errors keep their status; anything else, exits included, is INTERNAL with its traceback."""
    handle = started(hooks, ffi)
    made[0].failure = BadInputError("forest: cell 4 is NaN")
    assert hooks.step(handle, 2000) == ANSWERED + Status.BAD_INPUT
    assert text_of(hooks, ffi, handle) == (OK, "forest: cell 4 is NaN")
    for failure in (ZeroDivisionError("x"), SystemExit(0), KeyboardInterrupt()):
        made[0].failure = failure
        assert hooks.step(handle, 2000) == ANSWERED + Status.INTERNAL
        assert "Traceback" in text_of(hooks, ffi, handle)[1]
    made[0].failure = CouplerError("the last file was not written")
    assert hooks.finalize(handle) == ANSWERED + Status.INTERNAL
    assert text_of(hooks, ffi, handle) == (USAGE, "the last file was not written")


def test_held_fields_are_a_warning_with_the_reason(hooks: Hooks, ffi: cffi.FFI, made: list[Recorder]) -> None:
    handle = started(hooks, ffi)
    assert hooks.step(handle, 2001) == OK
    made[0].held = "class 'forest' of host cell 3: expected a finite fraction, got nan"
    assert hooks.step(handle, 2002) == ANSWERED + Status.HELD == ANSWERED - 1
    assert text_of(hooks, ffi, handle) == (OK, made[0].held)


@pytest.mark.parametrize("length", [1, 2, 5, 6, 7, 8, 100])
def test_texts_are_cut_at_whole_characters(hooks: Hooks, ffi: cffi.FFI, made: list[Recorder], length: int) -> None:
    """Never more bytes than there is room for, NUL included; a character of two bytes goes whole or not at all."""
    handle = started(hooks, ffi)
    text = "März 2°"
    made[0].failure = BadInputError(text)
    hooks.step(handle, 2000)
    buffer = ffi.new("char[]", b"#" * 120)
    assert hooks.last_error(handle, buffer, length) == OK
    got = ffi.string(buffer).decode()
    assert text.startswith(got)
    assert len(text.encode()) - len(got.encode()) <= max(0, len(text.encode()) - length + 2)
    assert bytes(ffi.buffer(buffer))[length:] == b"#" * (120 - length) + b"\0"


class OtherMPI:
    """An MPI library that is not the host's: never initialised, or every process alone."""

    def __init__(self, initialized: bool) -> None:
        self.Is_initialized = lambda: initialized
        self.Get_library_version = lambda: "Some MPI 1.0\nbuilt elsewhere"
        self.Comm = self

    def f2py(self, comm: int) -> Any:
        """Rank 0 of 1, whatever is asked for."""
        return SimpleNamespace(Get_size=lambda: 1, Get_rank=lambda: 0)


@pytest.mark.parametrize("initialized", [True, False])
def test_another_mpi_is_found_out(
    hooks: Hooks, ffi: cffi.FFI, monkeypatch: pytest.MonkeyPatch, initialized: bool
) -> None:
    """mpi4py on a library that the host did not start, or that sees another communicator, is named and refused."""
    monkeypatch.setattr(capi, "MPI", OtherMPI(initialized))
    assert hooks.check_mpi(3, 2, 1) == ANSWERED + Status.MPI
    assert "(Some MPI 1.0)" in text_of(hooks, ffi, 0)[1]
    if initialized:
        assert hooks.check_mpi(3, 1, 0) == OK


def test_what_is_declared_is_answered() -> None:
    """Every function of hooks.h has its method."""
    assert sorted(declared("hooks.h", "ai4land_py_")) == sorted(HOOKS)
