"""Crosswalks: every shipped table is sound, and applying one keeps what a cell holds."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml

from ai4land_coupler import crosswalk
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import ConfigError

LUH = [
    "primf",
    "primn",
    "secdf",
    "secdn",
    "urban",
    "c3ann",
    "c4ann",
    "c3per",
    "c4per",
    "c3nfx",
    "pastr",
    "range",
    "pltns",
]


@pytest.mark.parametrize("name", crosswalk.shipped_names())
def test_every_shipped_table_sums_to_one_and_names_its_sources(name: str) -> None:
    table = crosswalk.load(name)
    assert len(table.sources) >= 2
    assert np.abs(table.shares.sum(axis=1) - 1).max() <= 4e-16
    assert (table.shares >= 0).all()
    tree = yaml.safe_load(crosswalk.find(name).read_text())
    for row in tree["percent"].values():
        for part in row.values() if crosswalk._by_climate(row) else [row]:
            assert sum(Fraction(str(value)) for value in part.values()) == 100


def test_the_tables_lead_between_the_legends_they_name() -> None:
    igbp = Emulator.load("igbp-0p05").legend
    assert crosswalk.load("luh2-igbp").target == crosswalk.load("hyde1-igbp").target == igbp
    assert list(crosswalk.load("luh2-igbp").source) == list(crosswalk.load("luh2-hilda").source) == LUH
    hilda = crosswalk.load("luh2-hilda").target
    assert set(hilda) <= set(crosswalk.load("hilda-pft").source)
    assert len(crosswalk.load("hyde1-igbp").codes) == len(crosswalk.load("hyde1-igbp").source) == 16


def test_land_that_is_not_forest_depends_on_the_climate_and_crops_do_not() -> None:
    table = crosswalk.load("luh2-igbp")
    share = {k: i for i, k in enumerate(table.target)}
    source = {k: i for i, k in enumerate(table.source)}
    assert (table.shares[:, share["forest"], source["primf"]] == 1).all()
    assert (table.shares[:, share["cropland"], source["c3nfx"]] == 1).all()
    barren = table.shares[:, share["barren"], source["primn"]]
    assert barren.argmax() == crosswalk.GROUPS.index("B")
    assert barren[0] == 0


def test_a_cell_of_two_climates_is_between_them() -> None:
    table = crosswalk.load("luh2-igbp")
    state = np.zeros((13, 3))
    state[1] = 1.0  # primn
    climate = np.zeros((5, 3))
    climate[0, 0] = climate[1, 1] = 1.0
    climate[:2, 2] = 0.25, 0.75
    out = table.apply(state, climate)
    assert out[table.target.index("barren")].tolist() == [0.0, 0.45, 0.75 * 0.45]
    assert np.allclose(out.sum(0), 1, atol=1e-15)
    with pytest.raises(ConfigError, match="depends on the climate"):
        table.apply(state)


def test_a_table_without_climate_is_a_matrix(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("title: t\nsources: [me]\nto: [x, y]\npercent: {a: {x: 12.5, y: 87.5}, b: {y: 100}}\n")
    table = crosswalk.load(own)
    assert not table.by_climate
    assert table.apply(np.array([[0.5], [0.5]]))[:, 0].tolist() == [0.0625, 0.9375]
    assert "a " in table.table()
    assert "x 12.5, y 87.5" in table.table()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("to: [x]", "lacks"),
        ("title: t\nsources: [s]\nto: [x, y]\npercent: {a: {x: 70, y: 29.9}}", "sum to 99.9"),
        ("title: t\nsources: [s]\nto: [x, y]\npercent: {a: {x: 110, y: -10}}", "positive shares"),
        ("title: t\nsources: [s]\nto: [x]\npercent: {a: {z: 100}}", "leads to"),
        ("title: t\nsources: [s]\nto: [x]\npercent: {a: {A: {x: 100}, B: {x: 100}}}", "expected the climates"),
        ("title: t\nsources: [s]\nto: [x]\npercent: {a: {x: much}}", "much"),
        ("title: t\nsources: [s]\nto: [x]\npercent: {a: {}}", "sum to 0"),
        ("title: t\nsources: [s]\nto: [x]\npercent: {a: {x: 100}}\noptional: [b]", "no row"),
        ("[1, 2]", "lacks"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_table_that_is_wrong_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        crosswalk.load(path)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="shipped: hilda-pft, hyde1-igbp, luh2-hilda, luh2-igbp"):
        crosswalk.load("luh2-modis")
