"""The Python side of the C hooks: host pointers become numpy views, exceptions become statuses and texts."""

import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.comm import MPI
from ai4land_coupler.component import Component
from ai4land_coupler.desk import Desk
from ai4land_coupler.errors import CouplerError, MPIError, Status, UsageError
from ai4land_coupler.grids import HostGrid

ANSWERED = 1000
"""Added to every status that crosses, as in bindings/hooks.h: cffi itself answers 0 where Python could not run."""

LONGEST = 2**59
"""More values than any address space holds; their bytes are still a number that C can count."""

HOOKS = (
    "check_mpi", "init", "set_grid", "put", "step", "size", "get", "write_restart", "read_restart", "finalize",
    "last_error",
)  # fmt: skip


class Hooks:
    """What the C layer calls. `ffi` is a cffi.FFI; every method takes C values and returns ANSWERED + a status.

    What put and get can serve by a copy alone never comes here, but over the desks laid out with `lib`.
    """

    def __init__(self, ffi: Any, lib: Any, start: Callable[[str, int], Component] = Component.init) -> None:
        self._ffi = ffi
        self._lib = lib
        self._desks: dict[int, Desk] = {}
        self._start = start
        self._components: dict[int, Component] = {}
        self._texts: dict[int, str] = {0: ""}

    def check_mpi(self, fortran_comm: int, size: int, rank: int) -> int:
        """Whether mpi4py speaks to the MPI library of the host; a communicator looks the same from both sides."""

        def check() -> None:
            if not MPI.Is_initialized():
                raise MPIError(
                    f"mpi4py uses another MPI library ({_mpi_name()}) than the host: install an mpi4py for the host's, "
                    "or set MPI4PY_LIBMPI to its libmpi.so"
                )
            comm = MPI.Comm.f2py(fortran_comm)
            seen = (comm.Get_size(), comm.Get_rank())
            if seen != (size, rank):
                raise MPIError(
                    f"the host sees rank {rank} of {size}, mpi4py rank {seen[1]} of {seen[0]}: mpi4py uses another MPI "
                    f"library ({_mpi_name()}); install an mpi4py for the host's"
                )

        return self._guard(0, check)

    def init(self, config_path: Any, fortran_comm: int, handle: Any) -> int:
        """Start a component and give it the next handle."""

        def init() -> None:
            component = self._start(self._text(config_path), fortran_comm)
            handle[0] = len(self._texts)
            self._components[handle[0]] = component
            self._texts[handle[0]] = self._texts[0] = ""

        return self._guard(0, init)

    def set_grid(
        self, handle: int, ncell: int, nvertex: int, cell_id: Any, vertex_lon: Any, vertex_lat: Any, land: Any
    ) -> int:
        """Describe the host cells; arrays that cannot be cells on one rank are an error on all."""

        def grid() -> HostGrid:
            if ncell < 0 or nvertex < (3 if ncell else 0):
                raise UsageError(f"set_grid: expected ncell >= 0 and nvertex >= 3, got {ncell} and {nvertex}")
            corners = (ncell, nvertex if ncell else 3)
            return HostGrid(
                self._view("cell_id", cell_id, ncell, np.int64).copy(),
                self._view("vertex_lon", vertex_lon, ncell * nvertex).reshape(corners).copy(),
                self._view("vertex_lat", vertex_lat, ncell * nvertex).reshape(corners).copy(),
                self._view("land_fraction", land, ncell).copy(),
            )

        def set_grid() -> None:
            component = self._component(handle)
            component.set_grid(grid)
            with suppress(MemoryError):  # without a desk each put and get crosses into Python
                desk = Desk(self._ffi, self._lib, handle)
                desk.take(component.legend, component.size("host"))
                self._desks[handle] = desk

        return self._guard(handle, set_grid)

    def put(self, handle: int, name: Any, n: int, values: Any) -> int:
        """Hand one class over; the component copies."""
        return self._guard(
            handle, lambda: self._component(handle).put(self._text(name), self._view("values", values, n))
        )

    def step(self, handle: int, year: int) -> int:
        """Make the fields of a year."""

        def step() -> Status:
            component = self._component(handle)
            try:
                desk = self._desks.get(handle)
                put = component.together(lambda: desk.taken() if desk else None)
                if desk:
                    desk.empty()
                component.advance(year, put)
            finally:
                self._offer(handle)
            if component.held is None:
                return Status.OK
            self._texts[handle] = component.held
            return Status.HELD

        return self._guard(handle, step)

    def size(self, handle: int, grid: Any, n: Any) -> int:
        """Cells of a grid on this rank."""

        def size() -> None:
            component = self._component(handle)
            if n == self._ffi.NULL:
                raise UsageError("size: got NULL where the number of cells is to be written")
            n[0] = component.size(self._text(grid))

        return self._guard(handle, size)

    def get(self, handle: int, grid: Any, name: Any, n: int, values: Any) -> int:
        """Copy a field into the host's memory."""
        return self._guard(
            handle,
            lambda: self._component(handle).get_into(
                self._text(grid), self._text(name), self._view("values", values, n)
            ),
        )

    def write_restart(self, handle: int, path: Any) -> int:
        """Write a restart file."""
        return self._guard(handle, lambda: self._component(handle).write_restart(self._path(path)))

    def read_restart(self, handle: int, path: Any) -> int:
        """Take a run up from a restart file."""

        def read_restart() -> None:
            try:
                self._component(handle).read_restart(self._path(path))
            finally:
                self._offer(handle)

        return self._guard(handle, read_restart)

    def finalize(self, handle: int) -> int:
        """End a component; nothing to do for a handle that has none."""

        def finalize() -> None:
            component = self._components.pop(handle, None)
            desk = self._desks.pop(handle, None)
            if desk is not None:
                desk.clear()
            if component is not None:
                component.finalize()

        return self._guard(handle, finalize)

    def last_error(self, handle: int, buffer: Any, length: int) -> int:
        """Copy the last text of a handle, cut at a whole character and ended by NUL."""
        text = self._texts.get(handle, f"handle {handle} is unknown").encode(errors="replace")[: length - 1]
        whole = text.decode(errors="ignore").encode()
        self._ffi.memmove(buffer, whole + b"\0", len(whole) + 1)
        return ANSWERED + (Status.OK if handle == 0 or handle in self._components else Status.USAGE)

    def _guard(self, handle: int, hook: Callable[[], Status | None]) -> int:
        try:
            return ANSWERED + (hook() or Status.OK)
        except CouplerError as error:
            status, text = error.status, str(error)
        except BaseException as error:  # SystemExit and KeyboardInterrupt too: nothing may pass into the host
            status, text = Status.INTERNAL, "".join(traceback.format_exception(error))
        self._texts[handle if handle in self._texts else 0] = text
        return ANSWERED + status

    def _offer(self, handle: int) -> None:
        """Lay out what is served now; nothing where nothing is, or where memory is short: `get` serves it then."""
        if handle in self._desks:
            try:
                self._desks[handle].offer(self._components[handle].views())
            except MemoryError:
                self._desks[handle].offer({})

    def _component(self, handle: int) -> Component:
        if handle in self._components:
            return self._components[handle]
        why = "was finalized" if 0 < handle < len(self._texts) else "is unknown"
        raise UsageError(f"handle {handle} {why}; ai4land_init gives a new one")

    def _text(self, pointer: Any) -> str:
        if pointer == self._ffi.NULL:
            raise UsageError("got NULL where a string is expected")
        return str(self._ffi.string(pointer).decode(errors="surrogateescape"))

    def _path(self, pointer: Any) -> str:
        """A path that rank 0 alone reads; it is the one to refuse NULL, given as ''."""
        return "" if pointer == self._ffi.NULL else self._text(pointer)

    def _view(self, name: str, pointer: Any, n: int, dtype: type = np.float64) -> NDArray[Any]:
        """Host memory as an array (n,), no copy; 8-byte items."""
        if not 0 <= n <= LONGEST:
            raise UsageError(f"{name}: expected a length of 0 to {LONGEST}, got {n}")
        if n == 0:
            return np.empty(0, dtype)
        if pointer == self._ffi.NULL:
            raise UsageError(f"{name}: got NULL where {n} values are expected")
        return np.frombuffer(self._ffi.buffer(pointer, 8 * n), dtype)


def attach(ffi: Any, lib: Any) -> None:
    """Make an instance of Hooks answer the functions declared in bindings/hooks.h."""
    hooks = Hooks(ffi, lib)
    for name in HOOKS:
        ffi.def_extern(name=f"ai4land_py_{name}", error=ANSWERED + Status.INTERNAL)(getattr(hooks, name))


def _mpi_name() -> str:
    return str(MPI.Get_library_version()).strip("\0 \n").splitlines()[0]
