"""Change: features, placing, training on a world where a class spreads from its neighbours, and the scores."""

import json

import netCDF4
import numpy as np
import pytest

from ai4land_coupler.errors import ConfigError
from ai4land_coupler.training.change import features, forecast, network, report, series
from ai4land_coupler.training.change.coarse import corrected_totals, nearest
from ai4land_coupler.training.change.network import ChangeConfig, Members
from ai4land_coupler.training.change.series import Series

CODES = (1, 2, 3, 4, 5)
QUICK = ChangeConfig(hidden=16, steps=150, pixels=1024, group=256, pool=8192, warmup=10)


def a_world(years: int = 8, size: int = 60, seed: int = 0) -> Series:
    """Class 2 spreads over 1 from the west; in the east three crops 3, 4, 5 take turns, strips out of step.

    The turns change no total, so that only the history of a pixel tells them.
    """
    rng = np.random.default_rng(seed)
    front = 6 + np.cumsum(rng.integers(0, 3, (size, years)), axis=1)
    columns, strip = np.arange(size), np.arange(size) // 2 % 3
    maps = np.ones((years, size, size), np.uint8)
    for t in range(years):
        maps[t][columns < front[:, t, None]] = 2
        maps[t, :, size // 2 :] = (3 + (t + strip) % 3)[:, None]
    return Series(tuple(range(2000, 2000 + years)), maps, np.ones((size, size)), tuple("abcde"), CODES, axes(size))


def axes(size: int) -> dict[str, np.ndarray]:
    return {"y": np.arange(float(size)), "x": np.arange(float(size))}


@pytest.fixture(scope="module")
def scored() -> tuple[dict, dict]:
    return report.evaluate(a_world(size=48), 2005, 18, QUICK)


def test_the_model_beats_the_rule_where_history_and_neighbours_tell_change(scored):
    for row in scored[0]["years"]:
        merit = row["figure_of_merit"]
        assert merit["model"] > merit["rule"] + 0.1
        assert merit["model"] > merit["random"] + 0.1
        assert merit["persistence"] == 0


def test_totals_are_met_by_fractions_and_maps(scored):
    for row in scored[0]["years"]:
        assert row["residual_fractions"] <= 1e-12
        assert row["residual_map_cells"] == 0


def test_the_same_seed_gives_the_same_maps(scored):
    again = report.evaluate(a_world(size=48), 2005, 18, QUICK)
    assert again[0] == scored[0]
    for year, layers in again[1].items():
        np.testing.assert_array_equal(layers["model"], scored[1][year]["model"])


def test_later_maps_are_unseen():
    world = a_world()
    shuffled = world.classes.copy()
    rng = np.random.default_rng(1)
    for t in (6, 7):
        for row in range(0, 60, 20):
            for col in range(0, 60, 20):
                part = shuffled[t, row : row + 20, col : col + 20]
                shuffled[t, row : row + 20, col : col + 20] = rng.permutation(part.reshape(-1)).reshape(20, 20)
    other = Series(world.years, shuffled, world.area, world.legend, world.codes, world.axes)
    net = forecast.learn(world, 2005, 20, QUICK)
    same = forecast.learn(other, 2005, 20, QUICK)
    made = forecast.roll_out(net, world, 2005, 20), forecast.roll_out(same, other, 2005, 20)
    for (_, a), (_, b) in zip(*made, strict=True):
        np.testing.assert_array_equal(a.classes, b.classes)


def test_scores_by_hand():
    before = np.array([[1, 1, 1, 1, 2, 2]], np.uint8)
    now = np.array([[2, 2, 1, 1, 1, 2]], np.uint8)
    after = np.array([[2, 1, 1, 1, 1, 1]], np.uint8)
    made = np.array([[2, 1, 2, 1, 2, 2]], np.uint8)
    maps = {"persistence": before, "observed": now, "model": made}
    maps |= {"rule": before, "rule_yearly": before, "random": before}
    maps_of_years = np.stack([before, now, after])
    world = Series(
        (1, 2, 3), maps_of_years, np.full((1, 6), 2.0), ("a", "b"), (1, 2), {"y": np.zeros(1), "x": np.arange(6.0)}
    )
    np.testing.assert_array_equal(report.flicker(before, now, after), [[False, True, False, False, False, False]])
    row = report._scores(world, 1, 2, maps)
    # observed change in pixels 0, 1 and 4, made in 0 and 2: one hit, two misses, one false alarm, of 2 km2 each
    assert row["figure_of_merit"]["model"] == pytest.approx(1 / 4)
    scale = row["model"]["figure_of_merit"]["1"]
    assert [scale[k] for k in ("hits", "misses", "false_alarms", "wrong_change")] == [2.0, 4.0, 2.0, 0.0]
    # pixel 1 is back in class 1 the year after
    assert row["figure_of_merit_without_flicker"]["model"] == pytest.approx(1 / 3)
    assert row["figure_of_merit_without_flicker"]["persistence"] == 0
    assert report._scores(world, 1, 3, maps | {"observed": after})["figure_of_merit_without_flicker"] is None


def test_placing_makes_the_map_of_the_largest_expected_merit():
    # four pixels of class 1; totals ask for two of each; the likeliest changes are those with the largest p_2
    p = np.array([[[0.9, 0.6, 0.8, 0.3], [0.1, 0.4, 0.2, 0.7]]])
    members = Members(np.arange(4)[None], np.ones((1, 4), bool))
    made, expected = network.place(p, members, np.ones((2, 2), np.uint8), np.array([[0.5, 0.5]]))
    np.testing.assert_array_equal(made, [[1, 2], [1, 2]])
    assert expected == pytest.approx((0.4 + 0.7) / (0.1 + 0.4 + 0.2 + 0.7 + 0.6 + 0.3))


def test_placing_swaps_classes_where_change_is_likely_without_a_change_of_totals():
    p = np.array([[[0.2, 0.8, 0.99], [0.8, 0.2, 0.01]]])
    members = Members(np.arange(3)[None], np.ones((1, 3), bool))
    made, _ = network.place(p, members, np.array([[1, 2, 1]], np.uint8), np.array([[2 / 3, 1 / 3]]))
    np.testing.assert_array_equal(made, [[2, 1, 1]])


def test_features_of_one_pixel_by_hand():
    history = np.array([[[1]], [[2]], [[1]], [[1]]], np.uint8)
    seen = features.features(history, 2)[0]
    recent = (1 + 0.6 + 0.6**3) / (1 + 0.6 + 0.36 + 0.6**3)
    assert seen[:2].tolist() == [1, 0]
    assert seen[2:7] == pytest.approx([recent, 0.75, 1, 0, 0], abs=1e-3)
    assert seen[7:10].tolist() == [1, 1, 1]
    assert seen[-4:-1] == pytest.approx([1 / 2, 1, 2 / 3], abs=1e-3)


def test_members_of_blocks_leave_out_what_is_no_land():
    members = Members.of(np.array([[0, 0, 2], [0, 2, 2]]), np.array([[True, False, True], [True, True, True]]), 3)
    assert members.land.sum(1).tolist() == [2, 0, 3]
    assert members.pixel[0, :2].tolist() == [0, 3]
    assert members.pixel[2].tolist() == [2, 4, 5]


def write_maps(path, degrees: bool = False) -> None:
    maps = np.array([[[5, 5, 7], [9, 15, 0]], [[5, 7, 7], [9, 15, 0]], [[7, 7, 7], [9, 15, 255]]], np.uint8)
    with netCDF4.Dataset(path, "w") as file:
        names = ("lat", "lon") if degrees else ("y", "x")
        for name, size in zip(("year", *names), maps.shape, strict=True):
            file.createDimension(name, size)
        file.createVariable("year", "i4", ("year",))[:] = [2001, 2002, 2003]
        for name, size in zip(names, maps.shape[1:], strict=True):
            axis = file.createVariable(name, "f8", (name,))
            axis[:] = 60 - np.arange(size) if degrees else -500.0 * np.arange(size)
            axis.units = {"lat": "degrees_north", "lon": "degrees_east"}.get(name, "m")
        classes = file.createVariable("lulc", "u1", ("year", *names), fill_value=255)
        classes.set_auto_mask(False)
        classes[:] = maps
        classes.legend = "5 Forest;7 Soy_Corn;9 Urban;15 nodata"


def test_reading_a_file_of_any_class_numbers(tmp_path):
    write_maps(tmp_path / "maps.nc")
    world = series.read(tmp_path / "maps.nc")
    assert (world.years, world.legend, world.codes) == ((2001, 2002, 2003), ("Forest", "Soy_Corn", "Urban"), (5, 7, 9))
    np.testing.assert_array_equal(world.classes[0], [[1, 1, 2], [3, 0, 0]])
    np.testing.assert_array_equal(world.classes[2], [[2, 2, 2], [3, 0, 0]])
    assert world.area == pytest.approx(np.full((2, 3), 0.25))


def test_degrees_are_weighted_by_area(tmp_path):
    write_maps(tmp_path / "maps.nc", degrees=True)
    area = series.read(tmp_path / "maps.nc").area
    assert area[1] / area[0] == pytest.approx(np.full(3, np.cos(np.radians(59)) / np.cos(np.radians(60))), rel=1e-3)


def test_command_writes_scores_and_maps_in_the_numbers_of_the_file(tmp_path, monkeypatch, capsys):
    world = a_world(size=40)
    with netCDF4.Dataset(tmp_path / "world.nc", "w") as file:
        for name, size in zip(("year", "y", "x"), world.classes.shape, strict=True):
            file.createDimension(name, size)
        file.createVariable("year", "i4", ("year",))[:] = world.years
        file.createVariable("lulc", "u1", ("year", "y", "x"))[:] = world.classes * 10
    monkeypatch.setattr(report, "ChangeConfig", lambda seed: ChangeConfig(**(vars(QUICK) | {"seed": seed})))
    report.command(tmp_path / "world.nc", 2005, 13, tmp_path / "scores.json", tmp_path / "out", threads=1)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert [row["year"] for row in scores["years"]] == [2006, 2007]
    assert "2006" in capsys.readouterr().out
    with netCDF4.Dataset(tmp_path / "out" / "change_maps.nc") as file:
        assert set(np.unique(file["model"][:])) == {10, 20, 30, 40, 50}
        np.testing.assert_array_equal(file["observed"][:], world.classes[6:] * 10)
    assert (tmp_path / "out" / "change_2005_2007.png").stat().st_size > 5000


@pytest.mark.parametrize(("base", "text"), [(1999, "not in the file"), (2000, "before and after"), (2007, "after")])
def test_a_base_year_without_maps_around_it_is_refused(base, text):
    with pytest.raises(ConfigError, match=text):
        report._check(a_world(), base, 20)


def test_changes_that_do_not_sum_to_zero_are_balanced_by_their_size():
    before = np.array([[60.0, 30.0, 10.0, 0.0], [50.0, 50.0, 0.0, 0.0], [5.0, 95.0, 0.0, 0.0]])
    change_km2 = np.array([[-6.0, 3.0, 0.0, 6.0], [0.0, 0.0, 0.0, 0.0], [-10.0, 0.0, 5.0, 5.0]])
    after = corrected_totals(before, change_km2)
    # the first sums to 3: 6/15, 3/15 and 6/15 of it are taken off; the third loses 5 of 10, so that gains are halved
    expected = [[0.528, 0.324, 0.1, 0.048], [0.5, 0.5, 0, 0], [0.0, 0.95, 0.025, 0.025]]
    np.testing.assert_allclose(after, expected, atol=1e-15)
    assert np.abs(after.sum(1) - 1).max() <= 1e-15


def test_land_beyond_the_coarse_cells_counts_to_the_nearest():
    cells = nearest(np.array([50.2, 50.9, 55.0]), np.array([0.1, 0.0, 9.0]), np.array([50.25, 50.75]), np.zeros(2))
    assert cells.tolist() == [0, 1, 1]
