"""Figures of `ai4land bench`: values from raw samples, fitted exponents, the file that hosts read, tiles of 1 km."""

import sys
from pathlib import Path

import numpy as np
import pytest
import small_emulator
import torch

from ai4land_coupler.bench import balance, ftorch
from ai4land_coupler.bench.apply import cubed_sphere, weights
from ai4land_coupler.bench.command import Found
from ai4land_coupler.bench.figures import BARS, Figure, exponent, ratios
from ai4land_coupler.bench.hostfile import HostCells, crowd, global_host
from ai4land_coupler.bench.report import document
from ai4land_coupler.bench.runs import Layout, Year, figures
from ai4land_coupler.bench.session import Session
from ai4land_coupler.bench.timer import alternate
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import MPIError, UsageError
from ai4land_coupler.grids import EARTH_RADIUS, RegularGrid


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    return Emulator.load(small_emulator.build(tmp_path_factory.mktemp("emulator")))


def test_a_figure_is_the_statistic_of_its_samples() -> None:
    odd = Figure("put_get_ratio", (1.3, 1.0, 1.1, 9.0, 1.2))
    assert (odd.value, odd.spread) == (1.2, pytest.approx(0.2))  # sorted 1.0 1.1 1.2 1.3 9.0: quartiles 1.1 and 1.3
    p99 = Figure("hook_us_p99", tuple(range(1, 102)), "p99")
    assert p99.value == 100.0
    assert odd.entry()["repeats"] == 5
    assert odd.entry()["bar"] == 1.2


def test_a_figure_without_samples_says_why() -> None:
    missing = Figure("peak_gb", why="nobody looked")
    assert (missing.value, missing.spread, missing.entry()["why"]) == (None, None, "nobody looked")
    for wrong in ({"raw": ()}, {"raw": (1.0,), "why": "both"}, {"raw": (float("nan"),)}):
        with pytest.raises(UsageError, match="peak_gb"):
            Figure("peak_gb", **wrong)
    with pytest.raises(UsageError, match="above 0"):
        Figure("apply_ratio", (1.0, 0.0))
    with pytest.raises(UsageError, match="known name"):
        Figure("apply", (1.0,))


def test_a_report_has_every_figure_once() -> None:
    rows = [Figure(name, why="not tried") for name in BARS]
    assert list(document(rows[::-1], {}, {})["figures"]) == list(BARS)
    for wrong in (rows[1:], [*rows, rows[0]]):
        with pytest.raises(UsageError, match="once"):
            document(wrong, {}, {})


def test_samples_taken_in_turn_are_paired() -> None:
    calls: list[str] = []
    seconds = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2, warm=1)
    assert calls == list("ababab")
    assert [len(taken) for taken in seconds.values()] == [2, 2]
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    with pytest.raises(UsageError, match="paired"):
        ratios([1.0], [1.0, 2.0])


def test_exponents_of_powers() -> None:
    size = np.array([1, 2, 8, 50])
    assert exponent(size, 3.0 * size**1.5) == pytest.approx(1.5)


def test_hosts_read_what_was_written(emulator: Emulator, tmp_path: Path) -> None:
    whole = global_host(emulator)
    whole.write(tmp_path / "globe.bin")
    read = HostCells.read(tmp_path / "globe.bin")
    assert read.names == emulator.legend
    for name in ("cell_id", "vertex_lon", "vertex_lat", "land_fraction"):
        assert np.array_equal(getattr(read.grid, name), getattr(whole.grid, name))
    assert np.array_equal(read.state, whole.state)
    bands = [read.band(rank, 3) for rank in range(3)]
    assert np.array_equal(np.concatenate([band.grid.cell_id for band in bands]), whole.grid.cell_id)
    assert np.array_equal(np.concatenate([band.state for band in bands], axis=1), whole.state)


def test_the_globe_has_the_land_of_the_base_map(emulator: Emulator) -> None:
    whole, fine = global_host(emulator), emulator.fine
    classes = emulator.base_map()
    area = np.broadcast_to(fine.area_rows[:, None], classes.shape)
    host_area = RegularGrid(8, 16).area_rows[np.arange(128) // 16]
    for k in range(len(emulator.legend)):
        expected = area[classes == k + 1].sum()
        assert (whole.state[k] * whole.grid.land_fraction * host_area).sum() == pytest.approx(expected, rel=1e-9)
    assert np.allclose(whole.state.sum(axis=0), whole.grid.land_fraction > 0)


def test_a_crowd_is_small_cells_over_two_coarse_cells(emulator: Emulator) -> None:
    cells = crowd(emulator, 512)
    lon, lat = cells.grid.vertex_lon, cells.grid.vertex_lat
    assert cells.grid.size == 512
    assert np.ptp(lon) == pytest.approx(2 * 180 / emulator.coarse.nlat)
    assert np.ptp(lat) == pytest.approx(np.ptp(lon))
    inside = np.ptp(lon, axis=1) * np.ptp(lat, axis=1)
    assert inside.sum() == pytest.approx(np.ptp(lon) * np.ptp(lat))  # no gap, no overlap
    empty = crowd(emulator, 0)
    assert (empty.grid.size, empty.state.shape) == (0, (len(emulator.legend), 0))


def test_weights_of_the_cubed_sphere_cover_the_globe() -> None:
    overlap = weights(cubed_sphere(6), RegularGrid(18, 36))
    sphere = 4 * np.pi * EARTH_RADIUS**2
    assert overlap.row_sum().sum() == pytest.approx(sphere, rel=1e-9)
    each = overlap.col_sum()
    assert each.sum() == pytest.approx(sphere, rel=1e-9)
    # cells of one place on their faces have one area, by symmetry; what is left are the edges of regular cells,
    # which are parallels here and great circles there
    assert np.allclose(each.reshape(6, 36)[0], each.reshape(6, 36)[1], rtol=2e-3)


def test_balance_of_workers_on_the_land_of_an_emulator(emulator: Emulator) -> None:
    one, seven, many = (balance.run({"emulator": str(emulator.path), "workers": n}) for n in (1, 7, 4096))
    assert 0 < one["tiles"] == one["largest"] == one["mean"] < 45 * 90
    assert seven["largest"] == seven["at_most"] == -(-one["tiles"] // 7)
    assert (many["largest"], many["mean"]) == (1, one["tiles"] / 4096)


ECHO = """
import sys
for line in sys.stdin:
    verb, *numbers = line.split()
    if verb == "end":
        sys.exit("it broke")
    if verb == "sleep":
        import time
        time.sleep(30)
    log = "ai4land: 2001  km2  seconds: unet 1.250 output 0.500 total 2.000  (38 % is not U-Net)"
    print(log, file=sys.stderr, flush=True)
    print(*numbers, flush=True)
"""


def test_a_session_answers_and_tells_how_it_ended(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ECHO]
    with Session("", 1, command, 1, tmp_path / "said") as session:
        assert session.ask("add", 1.5, 2) == [1.5, 2.0]
        assert session.stages(2001) == {"unet": 1.25, "output": 0.5, "total": 2.0}
        with pytest.raises(MPIError, match="stages of 1999"):
            session.stages(1999, limit=0.1)
        with pytest.raises(MPIError, match=r"(?s)ended and said.*it broke"):
            session.ask("end")
    with Session("", 1, command, 1, tmp_path / "said") as session, pytest.raises(MPIError, match="too long"):
        session.ask("sleep", limit=0.5)


def test_what_fails_is_a_row_with_the_reason_and_the_rest_goes_on() -> None:
    found = Found()
    assert found.attempt(("apply_ratio",), lambda: 7) == 7

    def fails() -> None:
        raise MPIError("the host has gone")

    assert found.attempt(("peak_gb", "first_step_s"), fails) is None
    found.figures.append(Figure("apply_ratio", (0.4,)))
    by_name = {figure.name: figure for figure in found.all_figures()}
    assert set(by_name) == set(BARS)
    assert by_name["apply_ratio"].value == 0.4
    assert by_name["peak_gb"].why == by_name["first_step_s"].why == "the host has gone"
    assert by_name["balance_1024"].why == "not tried"


def test_overhead_is_what_is_neither_features_network_closing_nor_output() -> None:
    stages = {"regrid": 0.1, "features": 1.0, "unet": 5.0, "constraint": 2.0, "exchange": 0.2, "output": 0.5}
    years = [Year(9.0, stages), Year(9.5, stages)]  # 0.5 and 1.0 s beyond 8.5
    one = Layout(1, 2, whole=8.0, years=years, alone=[5.0, 4.0])
    two = Layout(2, 1, years=[Year(6.0, stages)], alone=[2.5])
    made = {figure.name: figure for figure in figures([one, two], "test")}
    assert made["step_overhead"].raw == pytest.approx((0.1, 0.25))
    assert made["outside_unet_s"].raw == pytest.approx((4.0, 4.5))
    assert made["in_situ_ratio"].raw == (2.0,)  # the worse of 1 and 1.25, and 2
    assert made["constraint_share"].raw == (0.4, 0.4)
    assert made["step_overhead"].detail["of_whole_unet"] == pytest.approx(0.75 / 8)
    assert made["constraint_share"].detail["of_whole_unet"] == 0.25
    assert made["global_year_s"].raw == (6.0,)
    assert figures([two], "test") == []


def test_ftorch_is_timed_in_turn_with_ours_on_a_whole_tile(tmp_path: Path) -> None:
    """A program that takes ten seconds a pass, as it says, and tells what it was given."""
    emulator = small_emulator.build(tmp_path / "emulator")
    host = tmp_path / "host"
    told = f"echo $@ $OMP_NUM_THREADS >>{tmp_path}/given"
    host.write_text(f"#!/bin/sh\n{told}\nfor i in $(seq $5); do echo 1.0E+01; done\n")
    host.chmod(0o755)
    job = {"emulator": str(emulator), "precision": "float32", "threads": 1, "repeats": 3, "host": str(host)}
    found = ftorch.run({**job, "folder": str(tmp_path)})
    inputs = Emulator.load(emulator).unet.inputs
    assert (tmp_path / "given").read_text().split("\n")[:2] == [f"{tmp_path}/unet.pt {inputs} 4 136 3 1"] * 2
    assert found["raw"]["ftorch"] == [10.0] * 6
    assert len(found["raw"]["ours"]) == 6
    assert found["value"] == 10.0 / found["seconds"]["ours"] > 10


def test_what_ftorch_is_given_is_the_network(tmp_path: Path) -> None:
    emulator = Emulator.load(small_emulator.build(tmp_path / "emulator"))
    ftorch.export(emulator, 136, tmp_path / "unet.pt")
    window = torch.rand(1, emulator.unet.inputs, 136, 136, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        made = torch.jit.load(tmp_path / "unet.pt")(window)
        torch.testing.assert_close(made, emulator.network("cpu", "float32")(window))


def test_a_host_of_ftorch_that_fails_says_why(tmp_path: Path) -> None:
    host = tmp_path / "host"
    host.write_text("#!/bin/sh\necho no such library >&2\nexit 3\n")
    host.chmod(0o755)
    emulator = small_emulator.build(tmp_path / "emulator")
    job = {"emulator": str(emulator), "precision": "float32", "threads": 1, "repeats": 1}
    with pytest.raises(UsageError, match="ended with 3 and said: no such library"):
        ftorch.run({**job, "host": str(host), "folder": str(tmp_path)})
