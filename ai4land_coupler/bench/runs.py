"""The coupled run and the bare U-Net in turn, on one rank and on two."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ai4land_coupler.bench.figures import Figure, exponent, ratios
from ai4land_coupler.bench.session import Session

FIRST_YEAR = 2001
WARM_UP = (FIRST_YEAR, FIRST_YEAR + 1)
"""Years that are not counted: until two are held, a year asks the system for the memory of its fields."""
STEPS_OF_START = 3
NAMES = ("step_overhead", "outside_unet_s", "in_situ_ratio", "constraint_share", "global_year_s")
"""Figures that follow from the runs."""
WORKER = ("-m", "ai4land_coupler.bench.worker")
INSIDE = ("features", "unet", "constraint", "output")
"""Stages of a step that are no overhead: what a U-Net with closed totals needs in any program."""


@dataclass(frozen=True)
class Programs:
    """How sessions are started: the launcher with {n}, this Python, and the Fortran host where there is one."""

    launcher: str
    python: str
    host: Path | None
    folder: Path

    def worker(self, name: str, ranks: int, threads: int) -> Session:
        """The Python side."""
        return Session(self.launcher, ranks, [self.python, *WORKER], threads, self.folder / f"{name}.log")

    def model(self, name: str, ranks: int, threads: int) -> Session:
        """The Fortran host; the Python side where there is none."""
        if self.host is None:
            return self.worker(name, ranks, threads)
        return Session(self.launcher, ranks, [str(self.host)], threads, self.folder / f"{name}.log")

    @property
    def what(self) -> str:
        """Which model made the steps."""
        return "Fortran host" if self.host else "Python (no Fortran host was given: make bench builds one)"


@dataclass(frozen=True)
class Year:
    """One step: wall-clock seconds of put, step and get in the host, and of the plugin's stages."""

    wall: float
    stages: Mapping[str, float]

    @property
    def overhead(self) -> float:
        """Seconds that are neither features, U-Net, closing nor output."""
        return self.wall - sum(self.stages[name] for name in INSIDE)


@dataclass
class Layout:
    """What was measured on so many ranks and threads.

    alone[i]: seconds of what a step runs of the U-Net, by itself, right after years[i]; whole: of the plain U-Net, its
    first layer and all of the same tiles' rims included.
    """

    ranks: int
    threads: int
    tiles: int = 0
    whole: float = 0.0
    years: list[Year] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    growth: dict[str, Any] = field(default_factory=dict)

    @property
    def unet(self) -> list[float]:
        """Seconds of the U-Net within each step, on rank 0."""
        return [year.stages["unet"] for year in self.years]

    def entry(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "ranks": self.ranks, "threads": self.threads, "network_calls": self.tiles,
            "step_s": [year.wall for year in self.years], "stages_s": [dict(year.stages) for year in self.years],
            "unet_alone_s": self.alone, "whole_unet_s": self.whole,
        }  # fmt: skip


def measure(folder: Path, ranks: int, threads: int, repeats: int, model: Session, worker: Session) -> Layout:
    """Steps of the model and the U-Net alone on the tiles of its ranks, in turn. They may be one."""
    layout, config, globe = Layout(ranks, threads), folder / f"ranks{ranks}.yaml", folder / "globe.bin"
    model.ask("open", config, globe)
    for year in WARM_UP:
        model.ask("step", year)
    if model is not worker:
        worker.ask("open", config, globe)
        worker.ask("step", FIRST_YEAR)
        worker.ask("close")
    layout.tiles = int(worker.ask("alone", config)[1])
    layout.whole = worker.ask("whole", config)[0]
    for year in range(WARM_UP[-1] + 1, WARM_UP[-1] + 1 + repeats):
        wall = sum(model.ask("step", year))
        layout.years.append(Year(wall, model.stages(year)))
        layout.alone.append(worker.ask("alone", config)[0])
    model.ask("close")
    if ranks == 1:
        layout.growth = _growth(worker, config, layout.tiles)
    return layout


def _growth(worker: Session, config: Path, tiles: int) -> dict[str, Any]:
    """Seconds of the U-Net on the first eighth, quarter and half of the tiles."""
    counts = sorted({max(tiles // part, 1) for part in (8, 4, 2)})
    seconds = [worker.ask("alone", config, count)[0] for count in counts]
    return {"size": counts, "seconds": seconds, "exponent": exponent(counts, seconds) if len(counts) > 1 else None}


def figures(layouts: Sequence[Layout], what: str) -> list[Figure]:
    """The rows of the report that follow from the runs, the one on one rank first; none where that is missing."""
    if layouts[0].ranks != 1:
        return []
    one = layouts[0]
    years, alone = one.years, one.alone
    in_situ = {layout.ranks: ratios(layout.unet, layout.alone) for layout in layouts}
    worst = max(in_situ, key=lambda ranks: float(np.median(in_situ[ranks])))
    fastest = min(layouts, key=lambda layout: float(np.median([year.wall for year in layout.years])))
    over, closing = [year.overhead for year in years], [year.stages["constraint"] for year in years]
    whole = {"whole_unet_s": one.whole, "of_whole_unet": float(np.median(over)) / one.whole}
    return [
        Figure("step_overhead", tuple(ratios(over, alone)), detail={"steps_by": what, **whole}),
        Figure("outside_unet_s", tuple(year.wall - year.stages["unet"] for year in years), detail=_median_stages(one)),
        Figure("in_situ_ratio", tuple(in_situ[worst]), detail={
            "ranks": worst, **{f"median_on_{ranks}": float(np.median(found)) for ranks, found in in_situ.items()},
        }),
        Figure("constraint_share", tuple(ratios(closing, one.unet)), detail={
            "whole_unet_s": one.whole, "of_whole_unet": float(np.median(closing)) / one.whole,
        }),
        Figure("global_year_s", tuple(year.wall for year in fastest.years),
               detail={"ranks": fastest.ranks, "threads": fastest.threads}),
    ]  # fmt: skip


def _median_stages(layout: Layout) -> dict[str, float]:
    names = layout.years[0].stages
    return {name: float(np.median([year.stages[name] for year in layout.years])) for name in names}


def ranks(programs: Programs, folder: Path, numbers: Sequence[int], steps: int = 3) -> dict[str, Any]:
    """Seconds of regrid and exchange in a step, and how they grow with the ranks."""
    costs = []
    for number in numbers:
        with programs.worker(f"ranks{number}", number, 1) as worker:
            worker.ask("open", folder / "ranks1.yaml", folder / "globe.bin")
            counted = range(WARM_UP[-1] + 1, WARM_UP[-1] + 1 + steps)
            for year in (*WARM_UP, *counted):
                worker.ask("step", year)
            stages = [worker.stages(year) for year in counted]
        costs.append(float(np.median([stage["regrid"] + stage["exchange"] for stage in stages])))
    return {"size": list(numbers), "seconds": costs, "exponent": exponent(numbers, costs)}


@dataclass(frozen=True)
class Start:
    """A model's start: seconds of init and set_grid, of first steps, and of their waits for output; peak in bytes."""

    begun: Sequence[float]
    steps: Sequence[float]
    waited: Sequence[float]
    peak: float

    @property
    def about(self) -> dict[str, float]:
        """What the figure of a start is made of."""
        init, grid = self.begun
        warm = float(np.median(self.steps[1:]))
        return {"init_s": init, "set_grid_s": grid, "first_step_s": self.steps[0], "warm_step_s": warm}

    @property
    def cost(self) -> float:
        """Seconds of the start and the first step beyond those of a warm one."""
        return sum(self.begun) + self.steps[0] - self.about["warm_step_s"]


def start(folder: Path, model: Session) -> Start:
    """A model that has just begun, with output, for its first steps."""
    begun = model.ask("open", folder / "output.yaml", folder / "globe.bin")
    steps, waited = [], []
    for year in range(FIRST_YEAR, FIRST_YEAR + STEPS_OF_START):
        steps.append(sum(model.ask("step", year)))
        waited.append(model.stages(year)["output"])
    (held,) = model.ask("peak")
    model.ask("close")
    return Start(begun, steps, waited, held)


def starts(programs: Programs, layout: tuple[int, int], model: Session, times: int) -> tuple[list[Figure], list[float]]:
    """Figures of so many starts, each of a program that was begun for it, and what the last one's steps waited.

    Every start but the first finds memory that the one before has given back: where a machine is a guest of another,
    memory that is new to it may take seconds.
    """
    made = []
    for i in range(times - 1):
        with programs.model(f"start{i}", *layout) as fresh:
            made.append(start(programs.folder, fresh))
    made.append(start(programs.folder, model))
    last = made[-1]
    first = Figure("first_step_s", tuple(one.cost for one in made), detail={**last.about, "starts": times})
    if last.peak > 0:
        peak = Figure("peak_gb", tuple(one.peak / 1e9 for one in made), "max", detail={"output_wait_s": last.waited})
    else:
        peak = Figure("peak_gb", why="this system does not tell the largest memory of a process")
    return [first, peak], list(last.waited)
