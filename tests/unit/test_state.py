"""What is judged of a state, and what it becomes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ai4land_coupler.config import StateConfig
from ai4land_coupler.errors import BadInputError, ConfigError
from ai4land_coupler.state import StateLegend, judge, refuse_missing

TABLE = """
title: t
sources: [me]
to: [cropland, forest, grassland]
percent:
  trees: {forest: 100}
  open: {A: {grassland: 75, cropland: 25}, B: {forest: 100}, C: {forest: 100}, D: {forest: 100}, E: {grassland: 100}}
  planted: {forest: 100}
optional: [planted]
"""
LEGEND = ("forest", "grassland", "cropland")
IDS = np.array([11, 12, 13])
LAND = np.array([1.0, 0.5, 0.0])


def state(**changes: list[float]) -> dict[str, np.ndarray]:
    good = {"forest": [0.5, 0.25, 9.0], "grassland": [0.3, 0.25, 9.0], "cropland": [0.2, 0.5, np.nan]}
    return {name: np.array(values) for name, values in {**good, **changes}.items()}


def judged(values: dict[str, np.ndarray], config: StateConfig | None = None) -> np.ndarray:
    config = config or StateConfig()
    return judge(values, StateLegend.of(config, LEGEND), config, IDS, LAND)


def test_sea_cells_are_ignored_and_land_is_divided_by_its_sum() -> None:
    out = judged(state(forest=[0.500004, 0.25, -5.0]))
    assert out[:, 2].tolist() == [0.0, 0.0, 0.0]
    assert np.allclose(out[:, 0], np.array([0.500004, 0.3, 0.2]) / 1.000004, rtol=0, atol=1e-16)


def test_rounding_below_zero_counts_as_zero() -> None:
    assert judged(state(forest=[-5e-10, 0.25, 0], grassland=[0.8, 0.25, 0]))[0, 0] == 0.0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"forest": [np.nan, 0.25, 0]}, "'forest' of host cell 11: expected a finite fraction, got nan"),
        ({"grassland": [0.3, -0.01, 0]}, "'grassland' of host cell 12: expected a fraction of at least 0, got -0.01"),
        ({"cropland": [1.2, 0.5, 0]}, "'cropland' of host cell 11: expected at most 1"),
        ({"forest": [0.5, 0.2501, 0]}, r"host cell 12 must sum to 1 within 1e-05 .*they sum to 1\.0001"),
    ],
)
def test_bad_values_name_class_and_cell(changes: dict, says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        judged(state(**changes))


def test_a_class_never_put_is_named() -> None:
    values = state()
    legend = StateLegend.of(StateConfig(), LEGEND)
    refuse_missing(values, legend, 3)
    del values["cropland"]
    with pytest.raises(BadInputError, match="'cropland' was not put since the last step"):
        refuse_missing(values, legend, 3)
    refuse_missing({}, legend, 0)


def test_fractions_of_the_cell_sum_to_the_land_fraction() -> None:
    config = StateConfig(fraction_of="cell")
    out = judged(state(forest=[0.5, 0.1, 0], grassland=[0.3, 0.1, 0], cropland=[0.2, 0.3, 0]), config)
    assert np.allclose(out[:, 1], [0.2, 0.2, 0.6], atol=1e-15)
    with pytest.raises(BadInputError, match=r"cell 12 must sum to 0\.5 within"):
        judged(state(), config)


def test_a_crosswalk_takes_the_hosts_classes_to_the_emulators() -> None:
    config = StateConfig(crosswalk={"trees": {"forest": 1.0}, "farm": {"cropland": 0.75, "grassland": 0.25}})
    legend = StateLegend.of(config, LEGEND)
    values = {"trees": np.array([0.6, 1.0, 0.0]), "farm": np.array([0.4, 0.0, 0.0])}
    out = judge(values, legend, config, IDS, LAND)
    assert np.allclose(out[:, 0], [0.6, 0.1, 0.3], atol=1e-15)


def test_a_legend_must_lead_to_the_emulators() -> None:
    with pytest.raises(ConfigError, match="must name the emulator's classes"):
        StateLegend.of(StateConfig(legend=("forest", "ocean")), LEGEND)
    with pytest.raises(ConfigError, match="leads to"):
        StateLegend.of(StateConfig(crosswalk={"trees": {"woods": 1.0}}), LEGEND)


def test_a_rank_without_cells_has_nothing_to_judge() -> None:
    config = StateConfig()
    out = judge({}, StateLegend.of(config, LEGEND), config, np.empty(0, np.int64), np.empty(0))
    assert out.shape == (3, 0)


def test_a_table_by_name_is_brought_to_the_order_of_the_emulators_legend(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(TABLE)
    legend = StateLegend.of(StateConfig(crosswalk=str(own)), LEGEND)
    assert (legend.names, legend.needed) == (("trees", "open", "planted"), ("trees", "open"))
    refuse_missing({"trees": LAND, "open": LAND}, legend, 3)
    climate = np.zeros((5, 3))
    climate[0] = [1.0, 0.5, 1.0]
    climate[4] = 1 - climate[0]
    values = {"trees": np.array([0.25, 0.5, 0.0]), "open": np.array([0.75, 0.5, 0.0])}
    out = judge(values, replace(legend, climate=climate), StateConfig(), IDS, LAND)
    assert out[:, 0].tolist() == [0.25, 0.75 * 0.75, 0.75 * 0.25]
    assert out[:, 1].tolist() == [0.5, 0.5 * (0.375 + 0.5), 0.5 * 0.125]
    with pytest.raises(ConfigError, match="leads to"):
        StateLegend.of(StateConfig(crosswalk="luh2-igbp"), LEGEND)
    with pytest.raises(ConfigError, match="shipped: "):
        StateLegend.of(StateConfig(crosswalk="luh2"), LEGEND)
