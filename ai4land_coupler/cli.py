"""The command line, `ai4land`; each command imports what it needs when it runs."""

import functools
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ai4land_coupler import __version__
from ai4land_coupler.errors import CouplerError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help=__doc__.splitlines()[0], pretty_exceptions_enable=False
)


class Precision(StrEnum):
    """What `--precision` takes."""

    AUTO, FLOAT32, BFLOAT16 = "auto", "float32", "bfloat16"


class EngineName(StrEnum):
    """Engines that make weights."""

    auto = "auto"
    esmf = "esmf"
    yac = "yac"
    latlon = "latlon"


def ending_well(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a CouplerError into its message on stderr, once a run, and its status as exit code."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except CouplerError as error:
            mpi = sys.modules.get("mpi4py.MPI")
            if mpi is None or mpi.COMM_WORLD.rank == 0:
                print(f"ai4land: {error}", file=sys.stderr)
            raise typer.Exit(int(error.status)) from error

    return wrapped


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Land-use emulator plugin for Earth system models."""


@app.command()
@ending_well
def run(
    config: Annotated[Path, typer.Argument(help="Configuration (YAML).")],
    states: Annotated[Path, typer.Argument(help="netCDF of coarse states: a variable a class on time, cells...")],
    first: Annotated[int | None, typer.Option(help="First year; the file's first where left out.")] = None,
    last: Annotated[int | None, typer.Option(help="Last year; the file's last where left out.")] = None,
    restart_from: Annotated[Path | None, typer.Option(help="Restart to go on from.")] = None,
    restart_to: Annotated[
        Path | None, typer.Option("--restart-to", "--restart", help="Restart to write, at the end at least.")
    ] = None,
    restart_every: Annotated[int | None, typer.Option(min=1, help="Years from one restart to the next.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the restart of --restart-to where it is there already.")
    ] = False,
    interpolate: Annotated[
        bool, typer.Option("--interpolate", help="Every year, linear between the years of the file.")
    ] = False,
    grid: Annotated[
        str | None,
        typer.Option(help="Grid of the states' cells: a file, FILE:NAME or latlon:STEP; theirs if left out."),
    ] = None,
) -> None:
    """Drive the plugin with a file of coarse states instead of a host; under mpirun too."""
    from ai4land_coupler import driver

    driver.run(config, states, restart_from, restart_to, first, last, grid, restart_every, resume, interpolate)


@app.command()
@ending_well
def weights(
    source: Annotated[str, typer.Option(help="Grid file, FILE:NAME, latlon:STEP or emulator:NAME (its coarse grid).")],
    target: Annotated[str, typer.Option(help="The same; emulator:NAME for a file that regrid.file reads.")],
    output: Annotated[Path, typer.Option(help="Weight file (netCDF in ESMF's names).")],
    engine: Annotated[EngineName, typer.Option(help="As regrid.engine.")] = EngineName.auto,
    collective: Annotated[bool, typer.Option("--collective", help="One ESMF over all ranks, to compare.")] = False,
) -> None:
    """Make conservative weights between two grids."""
    from ai4land_coupler import weights as making

    if collective and engine is not EngineName.esmf:
        raise typer.BadParameter("--collective needs --engine esmf")
    if collective:
        making.make_collective(source, target, output)
    else:
        making.make(source, target, engine.value, output)


@app.command()
@ending_well
def info(
    emulator: Annotated[str, typer.Argument(help="Shipped name or folder; all shipped where left out.")] = "",
    card: Annotated[bool, typer.Option("--card", help="Print its model card: data, scores, limits.")] = False,
    crosswalk: Annotated[
        str | None, typer.Option(help="Print this crosswalk instead: a shipped name (or `list`) or a file.")
    ] = None,
) -> None:
    """Say what an emulator is: legend, grids, network, training and scores."""
    from ai4land_coupler import crosswalk as tables
    from ai4land_coupler import describe

    if card and not emulator:
        raise typer.BadParameter("--card needs the name of an emulator")
    if crosswalk == "list":
        print("\n".join(f"{name:12s} {tables.load(name).title}" for name in tables.shipped_names()))
    elif crosswalk is not None:
        print(tables.load(crosswalk).table())
    elif card:
        describe.card(emulator)
    else:
        describe.emulators(emulator)


@app.command()
@ending_well
def doctor() -> None:
    """Check what works on this machine, what is missing, and how to mend it; exit code 1 where something must be."""
    from ai4land_coupler import describe, doctor

    raise typer.Exit(describe.findings(doctor.examine()))


@app.command()
@ending_well
def replay(
    record: Annotated[Path, typer.Argument(help="What `record` in the configuration of a run has written.")],
    config: Annotated[
        Path | None, typer.Option(help="Configuration in place of the recorded one, where the emulator lies elsewhere.")
    ] = None,
) -> None:
    """Make the calls of a recorded run again without its host and compare bit for bit; under mpirun too."""
    from ai4land_coupler import replay

    raise typer.Exit(replay.run(record, config))


@app.command()
@ending_well
def selfcheck(
    grid: Annotated[str, typer.Option(help="Host grid: a file, FILE:NAME or latlon:STEP.")],
    ranks: Annotated[str, typer.Option(help="Numbers of ranks, as in 1,2,3.")] = "1,2,3",
    emulator: Annotated[str | None, typer.Option(help="Shipped name or folder; igbp-0p05 where left out.")] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration of a run, in place of --emulator.")] = None,
    engine: Annotated[str, typer.Option(help="Engines, as in latlon,esmf; the configuration's where left out.")] = "",
    years: Annotated[int, typer.Option(help="Model years of a run, from 2.")] = 2,
    lag: Annotated[str, typer.Option(help="0,1, or one of them.")] = "0,1",
    launcher: Annotated[str, typer.Option(help="As in 'srun -n {n}'; mpirun where left out.")] = "",
    limit: Annotated[float, typer.Option(help="Seconds that one run may take.")] = 3600.0,
    folder: Annotated[
        Path, typer.Option(help="Where all ranks can read and write; a temporary folder is made.")
    ] = Path(),
) -> None:
    """Prove that ranks, deals of cells, restarts and lag change no bit on this machine; exit code 1 where they do."""
    from ai4land_coupler import selfcheck
    from ai4land_coupler.config import Config

    if config is not None and emulator is not None:
        raise typer.BadParameter("give --config or --emulator, not both")
    chosen = Config.load(config) if config is not None else Config(emulator=emulator or "igbp-0p05")
    engines = engine.split(",") if engine else [chosen.regrid.engine]
    numbers = _numbers("--ranks", ranks), _numbers("--lag", lag)
    raise typer.Exit(selfcheck.check(grid, numbers[0], chosen, engines, years, numbers[1], launcher, limit, folder))


@app.command()
@ending_well
def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="A small made-up emulator and few repeats, to see that it runs.")
    ] = False,
    emulator: Annotated[str, typer.Option(help="Shipped name or folder.")] = "igbp-0p05",
    host: Annotated[
        Path | None, typer.Option(help="Fortran host that `make bench` builds; steps from Python where left out.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of report.json and index.html.")] = Path("output/bench"),
    steps: Annotated[int | None, typer.Option(min=1, help="Steps measured on one rank; 3 where left out.")] = None,
    precision: Annotated[Precision, typer.Option(help="Of the network.")] = Precision.AUTO,
    ftorch: Annotated[
        Path | None, typer.Option(help="Host that runs it through FTorch; `make bench FTORCH=PREFIX` builds one.")
    ] = None,
) -> None:
    """Measure what a step costs beside the bare U-Net on this machine, as ratios taken in turn in one run."""
    from ai4land_coupler.bench import command

    command.bench(quick, emulator, host, out, steps, precision, ftorch)


@app.command()
@ending_well
def plan(
    emulator: Annotated[str, typer.Option(help="Shipped name or folder.")] = "igbp-0p05",
    ranks: Annotated[str, typer.Option(help="Plans of so many simulated ranks, as 64,256; none where left out.")] = "",
    grid: Annotated[str, typer.Option(help="Host grid of the plans: a file, FILE:NAME or latlon:STEP.")] = "latlon:1",
    step: Annotated[float, typer.Option(help="Cells of the finer globe, in degrees.")] = 0.01,
    tile: Annotated[int, typer.Option(help="Its tiles, in cells.")] = 400,
    tiles: Annotated[int, typer.Option(min=0, help="Run so many of them, random weights; takes disk space.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads for them.")] = 1,
    out: Annotated[Path | None, typer.Option(help="JSON with all of it.")] = None,
) -> None:
    """Say what more workers and a finer globe would ask for: balance, memory a rank, exchange, seconds."""
    from ai4land_coupler.scale import command

    command.plan(emulator, grid, _numbers("--ranks", ranks) if ranks else [], step, tile, tiles, threads, out)


@app.command()
@ending_well
def plot(
    folder: Annotated[Path, typer.Argument(help="Folder of a run: ai4land_YYYY.nc or ai4land.zarr.")],
    out: Annotated[Path | None, typer.Option(help="Where the PNGs go; the folder itself where left out.")] = None,
    region: Annotated[str | None, typer.Option(help="lon0,lon1,lat0,lat1 of the regional maps.")] = None,
    years: Annotated[
        str, typer.Option(help="Years to draw, as in 1700,1850; the first and the last if left out.")
    ] = "",
    series: Annotated[
        bool, typer.Option("--series", help="Area of each class over the years beside the input.")
    ] = False,
) -> None:
    """Draw maps of a run: coarse state beside fine map, before and after, for a region and the globe."""
    from ai4land_coupler import plot

    if series:
        from ai4land_coupler.series import plot_series

        print(plot_series(folder, out or folder))
    for path in plot.plot_run(folder, out or folder, _box(region), _numbers("--years", years) if years else ()):
        print(path)


@app.command()
@ending_well
def prepare(config: Annotated[Path, typer.Argument(help="What goes in: maps, states, static fields (YAML).")]) -> None:
    """Turn land-use maps, coarse states and static fields into a training store; one broken off goes on."""
    from ai4land_coupler import console
    from ai4land_coupler.training.data import prepare as preparing

    console.show_log(0)
    preparing.run(config)


@app.command()
@ending_well
def train(
    config: Annotated[Path, typer.Argument(help="Training configuration (YAML).")],
    throughput: Annotated[
        bool, typer.Option("--throughput", help="Only measure whether reading keeps up with the device.")
    ] = False,
) -> None:
    """Train an emulator on a store, under torchrun too, from the last checkpoint on; exit code 143 if told to end."""
    from ai4land_coupler.training.fit import loop, train
    from ai4land_coupler.training.fit import throughput as measuring

    if config.is_file() and "data" in (loop.yaml.safe_load(config.read_text()) or {}):
        loop.train(config)
    elif throughput:
        measuring.measure(config)
    elif train.train(config) is None:
        raise typer.Exit(143)


@app.command()
@ending_well
def evaluate(
    emulator: Annotated[str, typer.Option(help="Shipped name or folder.")] = "igbp-0p05",
    region: Annotated[
        list[str] | None,
        typer.Option(
            help="south-america (where left out), africa and so on, lon0,lon1,lat0,lat1, `continents` (all that are "
            "trained on) or `withheld` (blocks kept from training); may be given several times."
        ),
    ] = None,
    resolution: Annotated[
        str, typer.Option(help="Degrees of the state, as in 0.5,1,2; the emulator's own where left out.")
    ] = "",
    json: Annotated[Path | None, typer.Option(help="Write the scores as JSON.")] = None,
    maps: Annotated[Path | None, typer.Option(help="Write the maps that are scored as netCDF.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Folder for drawings.")] = None,
    card: Annotated[bool, typer.Option("--card", help="Put the scores into the emulator's record and card.")] = False,
    threads: Annotated[int | None, typer.Option(help="Threads; all cores where left out.")] = None,
    precision: Annotated[Precision, typer.Option(help="Of the network; cards are in float32.")] = Precision.FLOAT32,
    run: Annotated[
        Path | None, typer.Option(help="Instead: score the ai4land_YYYY.nc of a run, with --observed.")
    ] = None,
    observed: Annotated[Path | None, typer.Option(help="netCDF of observed yearly class maps.")] = None,
    change: Annotated[
        Path | None,
        typer.Option(help="Instead: learn from a netCDF of yearly class maps up to --base, score its later years."),
    ] = None,
    base: Annotated[
        int | None, typer.Option(help="Year that change is counted from; the earliest observed, needed with --change.")
    ] = None,
    block: Annotated[int, typer.Option(help="With --change: edge in pixels of blocks whose totals are given.")] = 100,
    out: Annotated[Path | None, typer.Option(help="With --change: folder for maps and drawings.")] = None,
    seed: Annotated[int, typer.Option(help="With --change: of the training.")] = 1,
) -> None:
    """Score an emulator on the map of its base year beside majority fill and random placement, or change over years."""
    if change is not None:
        from ai4land_coupler.training.change import report

        report.command(change, base, block, json, out, seed, threads)
        return
    from ai4land_coupler.training.scores import evaluate as scoring

    if (run is None) != (observed is None):
        raise typer.BadParameter("--run and --observed go together")
    if run is not None and observed is not None:
        from ai4land_coupler.training.scores import runscore

        runscore.command(run, observed, base, json, plots)
        return
    if card and precision != Precision.FLOAT32:
        raise typer.BadParameter("--card: the scores of a card are in float32; leave --precision out")
    degrees = _degrees(resolution)
    scoring.command(emulator, region or ["south-america"], degrees, json, maps, plots, card, threads, precision)


@app.command()
@ending_well
def config(
    cflags: Annotated[bool, typer.Option("--cflags", help="Flags for a C or C++ compiler.")] = False,
    fflags: Annotated[bool, typer.Option("--fflags", help="Flags for a Fortran compiler.")] = False,
    libs: Annotated[bool, typer.Option("--libs", help="Flags for the linker, run path included.")] = False,
) -> None:
    """Print what a compiler needs to build a host against the plugin."""
    from ai4land_coupler import buildinfo

    print(buildinfo.flags(cflags=cflags, fflags=fflags, libs=libs))


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{option}: expected whole numbers with commas between them, got {text!r}") from error


def _degrees(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part]
    except ValueError as error:
        raise typer.BadParameter(f"--resolution: expected degrees with commas between, got {text!r}") from error


def _box(region: str | None) -> tuple[float, float, float, float] | None:
    if region is None:
        return None
    try:
        west, east, south, north = (float(part) for part in region.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"expected lon0,lon1,lat0,lat1, got {region!r}") from error
    return west, east, south, north
