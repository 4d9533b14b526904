"""Coarse input from LUH2's states: files of its form in, out by a crosswalk what the network is given; by hand."""

from pathlib import Path

import luhfiles
import netCDF4
import numpy as np
import pytest
import small_store
import torch
import yaml

from ai4land_coupler.config import StateConfig
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import ConfigError
from ai4land_coupler.grids import HostGrid, RegularGrid
from ai4land_coupler.state import StateLegend, judge
from ai4land_coupler.training.data import prepare
from ai4land_coupler.training.fit.folder import check, write_emulator
from ai4land_coupler.training.fit.samples import Samples, Team
from ai4land_coupler.training.fit.train import Trainer
from ai4land_coupler.training.fit.trainconfig import TrainConfig
from ai4land_coupler.training.fit.unrolled import View

COARSE, RATIO = (8, 16), 10
FINE = (80, 160)
LEGEND = ("forest", "shrub_savanna", "grassland", "wetland", "cropland", "urban", "snow_ice", "barren")
A = {"primf": 0.2, "secdf": 0.1, "primn": 0.3, "c3ann": 0.1, "pastr": 0.1, "range": 0.2}  # a quarter tropical, dry else
BY_HAND = (0.3, 0.16125, 0.3, 0.0, 0.1, 0.0, 0.0, 0.13875)
"""luh2-igbp of A: primn to shrub .65 / 4 + .20 * 3/4, grass .35, barren .45 * 3/4; range to .3375, .475, .1875."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 2001: cells (4, 4) A, half sea in map and state, and (4, 5) urban; (5, 4) has land and no state."""
    path = tmp_path_factory.mktemp("states")
    codes = np.zeros(FINE, np.uint8)
    codes[40:50, 40:45], codes[40:45, 40:45] = 12, 1  # forest and cropland in equal rows, west half
    codes[40:50, 50:60] = 13
    codes[50:60, 40:50], codes[50:60, 45:50] = 10, 16
    climate = np.full(FINE, 6, np.uint8)  # BWh of 30: dry
    climate[40:45, 40:45] = 2  # tropical, a quarter
    height = np.random.default_rng(1).random(FINE).astype(np.float32)
    lat, lon = RegularGrid(*FINE).lat, RegularGrid(*FINE).lon
    with netCDF4.Dataset(path / "maps.nc", "w") as file:
        for name, values in (("lat", lat), ("lon", lon)):
            file.createDimension(name, values.size)
            file.createVariable(name, "f8", (name,))[:] = values
        for name, field in (("class", codes), ("climate", climate), ("height", height)):
            file.createVariable(name, field.dtype, ("lat", "lon"))[:] = field
    states = np.full((12, 2, *COARSE), np.nan)
    water = np.ones(COARSE)
    for col, land, shares in ((4, 0.5, A), (5, 1.0, {"urban": 1.0})):
        states[:, 1, 4, col] = [land * shares.get(name, 0.0) for name in luhfiles.STATES]
        water[4, col] = 1 - land
    states[:, 0] = np.where(np.isnan(states[:, 1]), np.nan, 0.0)  # the year before: all secondary forest
    states[2, 0] = np.nansum(states[:, 1], axis=0) + np.where(np.isnan(states[0, 1]), np.nan, 0.0)
    luhfiles.write_states(path / "states.nc", states[:, :, ::-1], (2000, 2001))
    luhfiles.write_static(path / "static.nc", water[::-1])
    tree = {
        "store": "store.zarr", "grid": {"nlat": 80, "nlon": 160},
        "maps": {"file": "maps.nc", "variable": "class", "legend": "modis-igbp", "years": [2001]},
        "states": {"file": "states.nc", "static": "static.nc", "years": [2000, 2001]},
        "statics": [{"name": "height", "file": "maps.nc", "variable": "height"}],
        "climate": {"file": "maps.nc", "variable": "climate", "classes": 30},
    }  # fmt: skip
    (path / "prepare.yaml").write_text(yaml.safe_dump(tree))
    prepare.run(path / "prepare.yaml")
    return path


def read(folder: Path, name: str = "run", **entries: object) -> TrainConfig:
    known = {"natives": None, "withheld": [], "coarse": "states", "crosswalk": "luh2-igbp", "margin": 8, "flips": False}
    return TrainConfig.read(small_store.configure(folder, name, **known | entries))


def test_the_network_is_given_the_state_of_the_year_and_the_loss_the_maps_totals(folder: Path) -> None:
    samples = Samples(read(folder), Team())
    item = samples.item(40, 40, range(0, 1), 1)
    states, totals = item["states"][0], item["totals"][0]
    assert states.shape == totals.shape == (8, 6, 6)  # 40 cells and 10 on each side, in cells of 10
    np.testing.assert_allclose(states[:, 1, 1], BY_HAND, rtol=0, atol=3e-7)
    np.testing.assert_allclose(states[:, 1, 2], np.eye(8)[5], rtol=0, atol=1e-7)
    assert (states[:, 2, 1] == totals[:, 2, 1]).all()  # land of the map without a state: its own totals
    np.testing.assert_allclose(totals[[2, 7], 2, 1], 0.5, atol=1e-6)
    assert totals[0, 1, 1] == pytest.approx(0.5, abs=0.01)  # forest of the map's land, not of the state's
    assert not states[:, 2, 2].any()
    batch = samples.join([item], 1)
    given = View(batch, 8).coarse(0)
    np.testing.assert_allclose(given[0, :, 8 + 3, 8 + 7], BY_HAND, rtol=0, atol=3e-7)
    assert torch.equal(View(batch, 8).totals(0)[0], batch.totals[0, 0, :, 1, 1])


def test_coarser_input_is_the_mean_over_the_land_that_has_a_state(folder: Path) -> None:
    item = Samples(read(folder, resolutions=[0.0, 1.0, 0.0]), Team()).item(40, 40, range(0, 1), 2)
    expected = (50 * np.array(BY_HAND) + 100 * np.eye(8)[5]) / 150  # A has land in half its fine cells
    np.testing.assert_allclose(item["states"][0, :, 1, 1], expected, rtol=0, atol=3e-7)


def test_erased_land_has_no_state(folder: Path) -> None:
    box = RegularGrid(*FINE)
    erased = [float(box.lon_edges[50]), float(box.lon_edges[60]), float(box.lat_edges[40]), float(box.lat_edges[50])]
    item = Samples(read(folder, erased=[erased], rim=0), Team()).item(40, 40, range(0, 1), 1)
    assert not item["states"][0, :, 1, 2].any()
    assert item["states"][0, :, 1, 1].any()


def test_a_coupled_component_is_given_the_same(folder: Path) -> None:
    config = read(folder, "coupled")
    check(config)
    trainer = Trainer(config, Team(), torch.device("cpu"))
    write_emulator(trainer, {})
    emulator = Emulator.load(config.emulator)
    assert emulator.training["crosswalk"] == "luh2-igbp"
    coarse = RegularGrid(*COARSE)
    ids = np.arange(4 * 16 + 4, 4 * 16 + 6)  # counted from 0
    cells = HostGrid(ids + 1, *coarse.corners(ids), np.array([0.5, 1.0]))
    host = StateConfig(crosswalk="luh2-igbp", fraction_of="cell", tolerance=2e-4)
    legend = StateLegend.of(host, emulator.legend).on(cells, emulator)
    values = {
        name: np.array([0.5 * A.get(name, 0.0), float(name == "urban")], np.float32).astype(np.float64)
        for name in legend.names
    }
    state = judge(values, legend, host, cells.cell_id, cells.land_fraction)
    item = trainer.samples.item(40, 40, range(0, 1), 1)
    np.testing.assert_allclose(item["states"][0, :, 1, 1:3], state, rtol=0, atol=3e-7)


def test_the_maps_totals_are_the_default(folder: Path) -> None:
    batch = Samples(read(folder, coarse="maps", crosswalk=None), Team())[0]
    assert not batch.states.numel()
    size, view = batch.size, View(batch, 8)
    first = -(-8 // size)  # coarse cells around the interior, which begins 8 fine cells into the crop
    assert torch.equal(view.coarse(0)[:, :, 8, 8], batch.totals[:, 0, :, first, first])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"crosswalk": None}, "coarse states with a crosswalk"),
        ({"coarse": "maps"}, "coarse maps, or coarse states with a crosswalk"),
        ({"crosswalk": "luh2-hilda"}, "leads to .*urban.*the classes of"),
        ({"crosswalk": "hyde1-igbp"}, "leads from .*; the states of .* are"),
    ],
)
def test_what_cannot_be_is_refused(folder: Path, entries: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Samples(read(folder, **entries), Team())
