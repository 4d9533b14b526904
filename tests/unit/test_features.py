"""Static features: hand-derived fields, the same bits in every window, poles and the date line."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import small_emulator

from ai4land_coupler import kernel
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import EmulatorError
from ai4land_coupler.features import (
    CHANNELS,
    RIM,
    SPARSE,
    Channel,
    StaticFeatures,
    coarse_window,
    terrain,
)  # fmt: skip
from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.natives import Lines, Places, Window, bilinear, box_sums
from ai4land_coupler.settlements import LISTED, SETTLEMENTS, Settlements
from ai4land_coupler.training.data.dataset import FIRST_INPUTS
from ai4land_coupler.training.data.rebuild import put_packed


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    return Emulator.load(small_emulator.build(tmp_path_factory.mktemp("small")))


def test_box_sums_by_hand() -> None:
    values = np.arange(25).reshape(5, 5)
    (found,) = box_sums(values, 1)
    assert found.tolist() == [[54, 63, 72], [99, 108, 117], [144, 153, 162]]
    middle, box, whole = box_sums(values, 0, 1, 2)
    assert (middle.tolist(), box.tolist(), whole.tolist()) == ([[values[2, 2]]], [[108]], [[values.sum()]])


def test_bilinear_is_exact_on_a_plane() -> None:
    plane = (3 * np.arange(6)[:, None] + 2 * np.arange(7)[None, :]).astype(np.float32)
    y, x = np.array([0.5, 1.25, 4.75]), np.array([0.0, 2.5, 5.5])
    expected = 3 * y[:, None] + 2 * x[None, :]
    np.testing.assert_allclose(bilinear(plane, Places.of(y), Places.of(x)), expected, rtol=1e-6)


def test_terrain_of_a_slope_that_climbs_north() -> None:
    """Height 10 m a row of 0.1 degree: dz/dy = 10 / 11119.5 m, no curvature, deviation of rows -1, 0, 1 is 8.165."""
    height = np.repeat(10 * np.arange(5 + 2 * RIM)[:, None], 4 + 2 * RIM, axis=1)
    lat = np.array([-0.2, -0.1, 0.0, 0.1, 0.2])
    fields = terrain(height, lat, 0.1)
    np.testing.assert_allclose(fields["slope"], np.sqrt(10 / 11119.493), rtol=1e-6)
    sign = np.array([-1, -1, 1, 1, 1])[:, None] * np.ones((1, 4))
    np.testing.assert_allclose(fields["poleward"], sign * np.sqrt(10 / 11119.493), rtol=1e-6)
    np.testing.assert_allclose(fields["tpi_3"], 0, atol=1e-6)
    np.testing.assert_allclose(fields["relief_3"], np.sqrt(10 * np.sqrt(2 / 3)), rtol=1e-6)
    np.testing.assert_allclose(fields["height"][:, 0], np.sqrt(10 * np.arange(RIM, RIM + 5)), rtol=1e-6)


def test_a_peak_stands_above_its_surroundings() -> None:
    height = np.zeros((3 + 2 * RIM, 3 + 2 * RIM), np.int64)
    height[RIM + 1, RIM + 1] = 900
    assert terrain(height, np.zeros(3), 0.1)["tpi_3"][1, 1] == pytest.approx(np.sqrt(900 - 100))
    assert terrain(height, np.zeros(3), 0.1)["tpi_3"][0, 0] == pytest.approx(-np.sqrt(100))


@pytest.mark.parametrize("window", [(0, 0, 40, 40), (13, 295, 37, 61), (130, -30, 30, 400), (97, 170, 5, 3)])
def test_windows_have_the_bits_of_the_globe(emulator: Emulator, window: tuple[int, int, int, int]) -> None:
    features = StaticFeatures(emulator)
    globe = features.window(0, 0, emulator.fine.nlat, emulator.fine.nlon)
    row, col, nrow, ncol = window
    cols = np.arange(col, col + ncol) % emulator.fine.nlon
    assert np.array_equal(features.window(*window), globe[:, row : row + nrow][:, :, cols])


@pytest.mark.skipif(not kernel.ready(), reason="the kernel is not built: pip install -e .")
@pytest.mark.parametrize("window", [(-16, 280, 60, 75), (13, 295, 37, 61), (130, -30, 30, 400)])
def test_the_kernel_makes_the_bits_of_numpy(
    emulator: Emulator, window: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past a pole, over the date line, and over it twice."""
    features = StaticFeatures(emulator)
    ours = features.normalised(*window)
    monkeypatch.setattr(kernel, "_module", None)
    assert np.array_equal(features.normalised(*window), ours)


@pytest.mark.skipif(not kernel.ready(), reason="the kernel is not built: pip install -e .")
def test_roots_of_sums_listed_and_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums on either side of the last one whose root is in the list, far above, and below 0, as no file should have."""
    fine, rng = RegularGrid(90, 180), np.random.default_rng(4)
    cells = np.sort(rng.choice(90 * 180, 2000, replace=False)).astype(np.int32)
    few = Lines(cells, rng.integers(1, 3, 2000).astype(np.int16), 1.0)
    many = Lines(cells, rng.choice([-5, 1, LISTED - 1, LISTED, 30_000], 2000).astype(np.int16), 0.1)
    window = Window(fine, 10, 150, 50, 60)
    ours = Settlements(few, many).fields(window)
    monkeypatch.setattr(kernel, "_module", None)
    with np.errstate(invalid="ignore"):
        theirs = Settlements(few, many).fields(window)
    assert list(ours) == list(theirs) == list(SETTLEMENTS)
    assert all(np.array_equal(ours[name], theirs[name], equal_nan=True) for name in SETTLEMENTS)
    single = theirs["people_1"] ** 4
    assert np.nanmax(single) > 2900
    assert np.isnan(single).any()
    assert np.isclose(single, 0.1 * (LISTED - 1)).any()


def test_past_the_poles_all_is_zero(emulator: Emulator) -> None:
    features = StaticFeatures(emulator)
    south = features.window(-16, 0, 24, 8)
    assert not south[:, :16].any()
    assert np.array_equal(south[:, 16:], features.window(0, 0, 8, 8))
    assert not features.window(emulator.fine.nlat, 0, 4, 4).any()


def test_values_survive_half_precision(emulator: Emulator) -> None:
    values = StaticFeatures(emulator).window(60, 100, 40, 40)
    assert values.dtype == np.float32
    assert np.array_equal(values, values.astype(np.float16).astype(np.float32))


def test_channels_mean_what_they_say(emulator: Emulator) -> None:
    values = dict(zip(CHANNELS, StaticFeatures(emulator).window(75, 20, 30, 50), strict=True))
    assert np.array_equal(values["land"] == 1, emulator.base_map()[75:105, 20:70] > 0)
    groups = np.stack([values[f"koppen_{letter}"] for letter in "abcde"])
    assert set(np.unique(groups)) == {0.0, 1.0}
    assert groups.sum(0).max() == 1
    np.testing.assert_allclose(values["abs_lat"][0], abs(emulator.fine.lat[75]), rtol=1e-3)
    assert set(np.unique(values["climate_class"])) <= set(range(31))
    assert values["climate_class"].max() > 20


def test_settlements_by_hand() -> None:
    """Three places with 800 people on the date line, one of 100 people two cells from them, near the south pole."""
    fine = RegularGrid(90, 180)
    cell = np.array([3 * 180 + 1, 3 * 180 + 179], np.int32)
    places = Lines(cell, np.array([1, 3], np.int16), 1.0)
    people = Lines(cell, np.array([1, 8], np.int16), 100.0)
    fields = Settlements(places, people).fields(Window(fine, 0, 179, 6, 3))
    assert tuple(fields) == SETTLEMENTS
    assert fields["places_1"][3].tolist() == pytest.approx([3**0.25, 0, 1])
    assert fields["places_3"][2].tolist() == pytest.approx([3**0.25, 4**0.25, 1])
    assert fields["people_7"][0].tolist() == pytest.approx([900**0.25] * 3)
    np.testing.assert_allclose(fields["places_41"], 4**0.25, rtol=1e-6)
    assert fields["people_3_of_17"][4, 2] == pytest.approx(np.sqrt(1 / 9 / (10 / 17**2)))


def test_older_emulators_have_neither_settlements_nor_climate_classes(tmp_path: Path, emulator: Emulator) -> None:
    older = Emulator.load(small_emulator.build(tmp_path / "older", inputs=FIRST_INPUTS))
    assert len(older.statics) == 28
    assert older.unet.climate_classes == 0
    shared = StaticFeatures(older).window(10, 300, 30, 50)
    names = [channel.name for channel in emulator.statics]
    assert shared.shape[0] == 28
    assert np.array_equal(shared[27], StaticFeatures(emulator).window(10, 300, 30, 50)[names.index("abs_lat")])


@pytest.mark.parametrize("stored", [False, True])
def test_climate_classes_beyond_what_is_embedded_are_refused(emulator: Emulator, tmp_path: Path, stored: bool) -> None:
    """The network would look for a row of its table that is not there."""
    folder = shutil.copytree(emulator.path, tmp_path / "beyond")
    with netCDF4.Dataset(folder / "statics.nc", "a") as data:
        data.set_auto_scale(False)
        data["climate_class"][5, 7] = 31
    statics = *emulator.statics[:-1], dataclasses.replace(emulator.statics[-1], stored=stored)
    with pytest.raises(EmulatorError, match="0 to 31"):
        StaticFeatures(dataclasses.replace(emulator, path=folder, statics=statics))


def gathered(emulator: Emulator, folder: Path) -> Path:
    """A copy of its files with the sparse fields in lists of cells, as rebuild writes them."""
    shutil.copytree(emulator.path, folder)
    with netCDF4.Dataset(emulator.path / "statics.nc") as old, netCDF4.Dataset(folder / "statics.nc", "w") as new:
        old.set_auto_maskandscale(False)
        for name, field in old.variables.items():
            if field.ndim == 2:
                axes = [old[axis][:] for axis in field.dimensions]
                put_packed(new, name, field[:], axes, {}, float(field.scale_factor), float(field.add_offset))
        assert [name for name, field in new.variables.items() if hasattr(field, "compress")] == [
            f"{name}_cell" for name in old.variables if name in SPARSE
        ]
        assert {new[name].dtype for name in ("koppen", "climate_class", "places")} == {np.dtype("u1")}
    return folder


def test_gathered_fields_are_those_of_grids(emulator: Emulator, tmp_path: Path) -> None:
    same = dataclasses.replace(emulator, path=gathered(emulator, tmp_path / "gathered"))
    for window in ((0, 0, 160, 320), (-8, 300, 40, 60), (150, -20, 30, 50)):
        assert np.array_equal(StaticFeatures(same).window(*window), StaticFeatures(emulator).window(*window))


@pytest.mark.parametrize("wrong", ["order", "last", "offset", "class"])
def test_lists_of_cells_that_make_no_field_are_refused(emulator: Emulator, tmp_path: Path, wrong: str) -> None:
    folder = gathered(emulator, tmp_path / "wrong")
    with netCDF4.Dataset(folder / "statics.nc", "a") as data:
        data.set_auto_maskandscale(False)
        if wrong == "order":
            data["places_cell"][3:5] = data["places_cell"][3:5][::-1]
        elif wrong == "last":
            data["places_cell"][-1] = 160 * 320
        elif wrong == "offset":
            data["places"].add_offset = 1.0
        else:
            data.renameVariable("koppen", "grid")
            data.createVariable("koppen", "u1", ("places_cell",))[:] = 1
            data["koppen"].setncatts({"scale_factor": 1.0, "add_offset": 0.0})
    expected = "koppen is expected on a grid" if wrong == "class" else "places: a value for each of its cells"
    with pytest.raises(EmulatorError, match=expected):
        StaticFeatures(dataclasses.replace(emulator, path=folder))


def test_unknown_channels_are_named(emulator: Emulator) -> None:
    class Wrong:
        path: Path = emulator.path
        fine = emulator.fine
        statics = (Channel("ndvi"),)
        base_map = emulator.base_map

    with pytest.raises(EmulatorError, match="ndvi"):
        StaticFeatures(Wrong())


def test_coarse_fractions_are_piecewise_constant_and_wrap() -> None:
    coarse = np.arange(2 * 3 * 6, dtype=float).reshape(2, 3, 6)
    window = coarse_window(coarse, -2, 58, 6, 4, 10)
    assert window.dtype == np.float32
    assert not window[:, :2].any()
    assert window[0, 2:].tolist() == [[5, 5, 0, 0]] * 4
    assert window[1, 5].tolist() == [23, 23, 18, 18]
    assert not coarse_window(coarse, 30, 0, 4, 4, 10).any()


def test_the_shipped_fields_are_never_all_in_memory() -> None:
    """Two of them fill the fine grid with 26 MB each; one at a time and what is kept of the others stay below 200."""
    peak = "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss"
    program = (
        "import resource, netCDF4\n"
        "from ai4land_coupler.emulator import Emulator\n"
        "from ai4land_coupler.features import StaticFeatures\n"
        f"emulator = Emulator.load('igbp-0p05'); before = {peak}\n"
        f"kept = StaticFeatures(emulator); print({peak} - before)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert int(ran.stdout) < 200_000
