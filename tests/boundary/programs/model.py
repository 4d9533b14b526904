"""What the C interface may answer: the few facts about each component from which every status follows."""

from dataclasses import dataclass, field

import numpy as np

CLASSES = ("forest", "grassland", "cropland", "barren")
HELD, USAGE, BAD_INPUT, TIME_ORDER = -1, 1, 5, 6
TOLERANCE = 1e-5
FIRST_YEAR = 2000


def cells() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """12 cells over coarse cells of a tile and its neighbour: ids, corners, land fractions, one of them 0."""
    row, column = (x.ravel() for x in np.meshgrid(np.arange(4, 7), np.arange(6, 10), indexing="ij"))
    south, west = -90 + 22.5 * row, -180 + 22.5 * column
    lon = np.stack([west, west + 22.5, west + 22.5, west], axis=1)
    lat = np.stack([south, south, south + 22.5, south + 22.5], axis=1)
    land = np.where(np.arange(12) == 5, 0.0, 0.3 + 0.05 * np.arange(12))
    return np.arange(12, dtype=np.int64) * 5 - 7, lon, lat, land


@dataclass
class Handle:
    """One component."""

    ids: np.ndarray | None = None
    land: np.ndarray = field(default_factory=lambda: np.empty(0))
    values: dict[str, np.ndarray] = field(default_factory=dict)
    served: int | None = None
    last: int | None = None
    ahead: int | None = None
    grid: str = ""


class Model:
    """All components of a run, as this rank knows them."""

    def __init__(self, lag: bool, hold: bool) -> None:
        self._lag, self._hold = lag, hold
        self._handles: dict[int, Handle] = {}
        self._gone: list[int] = []
        self.files: dict[bytes, tuple[str, int, int, int | None]] = {}

    def alive(self) -> list[int]:
        """Handles in use."""
        return sorted(self._handles)

    def stale(self) -> list[int]:
        """Handles that were finalized."""
        return self._gone

    def started(self, handle: int) -> None:
        """A new component; handles count up and never come again."""
        assert handle == len(self._handles) + len(self._gone) + 1, handle
        self._handles[handle] = Handle()

    def finished(self, handle: int) -> None:
        """No more of it."""
        if self._handles.pop(handle, None) is not None:
            self._gone.append(handle)

    def has_grid(self, handle: int) -> bool:
        """Whether set_grid has succeeded."""
        return handle in self._handles and self._handles[handle].ids is not None

    def size(self, handle: int) -> int:
        """Host cells of this rank."""
        return self._handles[handle].ids.size if self.has_grid(handle) else 3

    def refuse_grid(self, handle: int) -> set[int]:
        """Why set_grid cannot be called, if so."""
        return set() if handle in self._handles and not self.has_grid(handle) else {USAGE}

    def gridded(self, handle: int, ids: np.ndarray, land: np.ndarray, grid: str) -> None:
        """A grid was taken; `grid` tells the cells of all ranks from others."""
        mine = self._handles[handle]
        mine.ids, mine.land, mine.grid = ids.copy(), land.copy(), grid

    def good(self, handle: int, name: str) -> np.ndarray:
        """A class of a state that is as it should be."""
        ids = self._handles[handle].ids if self.has_grid(handle) else np.arange(3)
        weight = np.stack([1.0 + (ids * (m + 3) + 5 * m * m + handle) % 11 for m in range(len(CLASSES))])
        return np.ascontiguousarray((weight / weight.sum(axis=0))[CLASSES.index(name)])

    def put(self, handle: int, name: str, values: np.ndarray) -> None:
        """A class was taken."""
        self._handles[handle].values[name] = values

    def next_year(self, handle: int) -> int:
        """A year that may come next, where there is one."""
        last = self._handles[handle].last if handle in self._handles else None
        return FIRST_YEAR if last is None else min(last + 1, 2**31 - 1)

    def may_step(self, handle: int, year: int) -> set[int]:
        """Statuses of a step as far as this rank can tell."""
        if not self.has_grid(handle):
            return {USAGE}
        mine = self._handles[handle]
        if mine.last is not None and year <= mine.last:
            return {TIME_ORDER}
        if mine.ids.size and set(mine.values) != set(CLASSES):
            return {BAD_INPUT}
        if self._good_state(mine):
            return {0}
        return {HELD} if self._hold and mine.served is not None else {BAD_INPUT}

    def _good_state(self, mine: Handle) -> bool:
        if not mine.ids.size:
            return True
        x = np.stack([mine.values[name] for name in CLASSES])[:, mine.land > 0]
        if not np.isfinite(x).all() or (x < -1e-9).any() or (x > 1 + TOLERANCE).any():
            return False
        return bool((np.abs(np.maximum(x, 0).sum(axis=0) - 1) <= TOLERANCE).all())

    def stepped(self, handle: int, year: int, status: int) -> None:
        """A year was made, put in the making or held; its state is used up."""
        mine = self._handles[handle]
        mine.last, mine.values = year, {}
        if mine.ahead is not None:
            mine.served, mine.ahead = mine.ahead, None
        if status == HELD:
            return
        if self._lag and mine.served is not None:
            mine.ahead = year
        else:
            mine.served = year

    def may_get(self, handle: int, grid: bytes | None, name: bytes | None) -> bool:
        """Whether a field or geometry is there."""
        if not self.has_grid(handle) or grid not in (b"fine", b"host") or name is None:
            return False
        if name in (b"lon", b"lat", b"area", b"cell_id", b"land_fraction"):
            return True
        known = {text.encode() for text in CLASSES} | {b"year"} | ({b"class", b"filled"} if grid == b"fine" else set())
        return name in known and self._handles[handle].served is not None

    def plausible(self, handle: int, name: str, values: np.ndarray) -> bool:
        """Whether numbers that came back can be what they are said to be."""
        if not np.isfinite(values).all():
            return False
        if name == "year":
            return values.tolist() == [self._handles[handle].served]
        low, high = {
            "class": (1, 4), "filled": (0, 2), "lon": (-180, 180), "lat": (-90, 90), "area": (0, 6e14),
            "cell_id": (-1e19, 1e19),
        }.get(name, (0, 1))  # fmt: skip
        return bool((values >= low).all() and (values <= high + 1e-12).all())

    def may_write(self, handle: int) -> set[int]:
        """Why a restart cannot be written, if so."""
        return set() if self.has_grid(handle) and self._handles[handle].served is not None else {USAGE}

    def written(self, handle: int, path: bytes) -> None:
        """A restart was written."""
        mine = self._handles[handle]
        self.files[path] = mine.grid, mine.served, mine.last, mine.ahead

    def same_grid(self, handle: int, path: bytes) -> bool:
        """Whether a restart is of this component's cells."""
        return path in self.files and self.has_grid(handle) and self.files[path][0] == self._handles[handle].grid

    def refuse_read(self, handle: int) -> set[int]:
        """Why no restart can be read, if so."""
        return set() if self.has_grid(handle) else {USAGE}

    def read(self, handle: int, path: bytes) -> None:
        """A restart was taken up."""
        mine = self._handles[handle]
        _, mine.served, mine.last, mine.ahead = self.files[path]
        mine.values = {}
