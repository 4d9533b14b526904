"""`lag: 1` serves a year later what `lag: 0` serves, and `hold` serves again what was served; bit for bit."""

import json
import sys
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import small_emulator
from mpi import mpirun

from ai4land_coupler.ahead import Ahead
from ai4land_coupler.comm import MPI
from ai4land_coupler.component import Component
from ai4land_coupler.config import Config, OutputConfig
from ai4land_coupler.errors import OutputError

sys.path.insert(0, str(Path(__file__).parent / "programs"))

import deal

PROGRAM = Path(__file__).parent / "programs" / "deal.py"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_emulator.build(tmp_path_factory.mktemp("emulator"))


def run(emulator: Path, out: Path, ranks: int, deal: str, *options: object, fails: int = 0) -> dict[str, np.ndarray]:
    done = mpirun(ranks, sys.executable, PROGRAM, emulator, out, deal, *options)
    assert done.returncode == fails, done.stderr
    assert done.stdout == "", "the plugin must not write to stdout"
    if fails:
        return {"stderr": np.array(done.stderr)}
    with np.load(out) as file:
        return dict(file) | {"stderr": np.array(done.stderr)}


def differences(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> list[str]:
    assert set(a) == set(b)
    return [name for name in set(a) - {"stderr"} if a[name].tobytes() != b[name].tobytes()]


def maps(folder: Path, year: int) -> tuple[bytes, dict[str, object]]:
    """Class map and fractions of a yearly file, and its attributes."""
    with netCDF4.Dataset(folder / f"ai4land_{year}.nc") as file:
        file.set_auto_mask(False)
        names = ["class", "filled", "target", "residual", *small_emulator.LEGEND]
        return b"".join(file[name][:].tobytes() for name in names), {k: file.getncattr(k) for k in file.ncattrs()}


@pytest.fixture(scope="module")
def two_years(emulator: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What `lag: 0` serves after 2001 and 2003."""
    return run(emulator, tmp_path_factory.mktemp("plain") / "out.npz", 1, "bands", "--years", "2001,2003")


@pytest.fixture(scope="module")
def lagged(emulator: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, np.ndarray], Path]:
    folder = tmp_path_factory.mktemp("lagged")
    options = ("--years", "2001,2003,2004", "--lag", 1, "--output", folder)
    return run(emulator, folder / "out.npz", 2, "random", *options), folder


def test_the_fields_of_a_step_are_those_of_the_step_before(two_years, lagged) -> None:
    assert lagged[0]["year"] == 2003
    assert differences(two_years, lagged[0]) == []


def test_every_year_is_written_the_last_one_by_finalize(emulator, lagged, tmp_path) -> None:
    run(emulator, tmp_path / "out.npz", 1, "bands", "--years", "2001,2003,2004", "--output", tmp_path)
    for year in (2001, 2003, 2004):
        assert maps(tmp_path, year)[0] == maps(lagged[1], year)[0]
    report = json.loads((lagged[1] / "report.json").read_text())
    assert [entry["year"] for entry in report["years"]] == [2001, 2003, 2004]
    seconds = report["years"][1]["seconds"]
    assert seconds["hidden"] > 0
    assert seconds["wait"] <= seconds["total"]


def test_a_restart_takes_along_what_is_in_the_making(emulator, two_years, lagged, tmp_path) -> None:
    """Two steps, a restart with 2003 in the making, and the third step on other ranks."""
    kept = tmp_path / "restart.nc"
    run(emulator, tmp_path / "1.npz", 3, "bands", "--years", "2001,2003", "--lag", 1, "--restart-to", kept)
    with netCDF4.Dataset(kept) as file:
        assert (file["year"][:], file["last"][:]) == (2001, 2003)
        assert "ahead" in file.variables
    on = run(emulator, tmp_path / "2.npz", 2, "last", "--years", "2004", "--lag", 1, "--restart-from", kept)
    assert differences(lagged[0], on) == []
    plain = run(emulator, tmp_path / "3.npz", 2, "random", "--years", "", "--restart-from", kept)
    assert differences(two_years, plain) == [], "without lag the year in the making is served at once"


def test_bad_values_hold_last_years_fields_and_say_so(emulator, tmp_path) -> None:
    one = run(emulator, tmp_path / "one.npz", 1, "bands", "--years", "2001")
    kept, options = tmp_path / "restart.nc", ("--hold", "--bad", 2003, "--output", tmp_path)
    held = run(emulator, tmp_path / "held.npz", 3, "random", "--years", "2001,2003", *options, "--restart-to", kept)
    assert differences(one, held) == []
    assert held["year"] == 2001
    assert "step(2003): the fields of 2001 are held" in str(held["stderr"])
    assert "expected a finite fraction, got nan" in str(held["stderr"])
    fields, about = maps(tmp_path, 2003)
    assert fields == maps(tmp_path, 2001)[0]
    assert str(about["held"]).startswith("fields of 2001: class 'forest' of host cell")
    assert json.loads((tmp_path / "report.json").read_text())["years"][1]["held"]
    again = run(emulator, tmp_path / "again.npz", 1, "bands", "--years", "2002", "--restart-from", kept, fails=1)
    assert "expected a year after 2003" in str(again["stderr"]), "a held year counts as stepped to"


def test_a_held_year_in_the_lag(emulator, two_years, tmp_path) -> None:
    """2003 is served when 2004 is refused; nothing is in the making then, so 2005 serves 2003 again."""
    options = ("--hold", "--bad", 2004, "--lag", 1)
    held = run(emulator, tmp_path / "held.npz", 2, "random", "--years", "2001,2003,2004,2005", *options)
    assert differences(two_years, held) == []


def test_the_first_year_is_never_held(emulator, tmp_path) -> None:
    found = run(emulator, tmp_path / "out.npz", 2, "random", "--years", "2001", "--hold", "--bad", 2001, fails=1)
    assert "expected a finite fraction, got nan" in str(found["stderr"])


def test_a_year_that_could_not_be_written_is_served_when_the_step_is_tried_again(emulator, tmp_path) -> None:
    """The folder is taken away while 2003 is in the making, and given back."""
    years = tmp_path / "years"
    config = Config(emulator=str(emulator), lag=1, output=OutputConfig(folder=years, behind=0))
    grid = deal.cells()
    with Component.init(config, MPI.COMM_SELF) as land:
        land.set_grid(grid)
        for year in (2001, 2003):
            land.step(year, deal.state(grid.cell_id, land.legend, year))
        years.rename(tmp_path / "away")
        with pytest.raises(OutputError):
            land.step(2004, deal.state(grid.cell_id, land.legend, 2004))
        assert land.get("fine", "year") == 2001
        (tmp_path / "away").rename(years)
        land.step(2004)
        assert land.get("fine", "year") == 2003
    assert sorted(path.name for path in years.glob("*.nc")) == [f"ai4land_{y}.nc" for y in (2001, 2003, 2004)]


def test_what_a_thread_raises_is_raised_where_its_result_is_wanted() -> None:
    def fail() -> int:
        raise ZeroDivisionError("in the thread")

    ahead = Ahead(fail)
    ahead.wait()
    with pytest.raises(ZeroDivisionError, match="in the thread"):
        ahead.result()
    assert Ahead(lambda: 7).result() == 7
