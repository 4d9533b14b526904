"""Change on real maps: Mato Grosso rolled out from 2010, the United Kingdom from coarse changes; minutes each."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ai4land_coupler.training.change import report

REPOSITORY = Path(__file__).parents[2]
DATA = Path(os.environ.get("AI4LAND_REFERENCE_DATA", REPOSITORY.parent / "shared" / "data")) / "regional"
MATO_GROSSO = DATA / "matogrosso_novaubirata_lulc_231m_2001-2017.nc"

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not MATO_GROSSO.exists(), reason="the maps are not here; set AI4LAND_REFERENCE_DATA to a folder with regional/"
    ),
]


def test_mato_grosso_is_ahead_of_the_rule_every_year(tmp_path: Path) -> None:
    result = report.command(MATO_GROSSO, 2010, 116, tmp_path / "scores.json", tmp_path / "maps")
    assert [row["year"] for row in result["years"]] == list(range(2011, 2018))
    for row in result["years"]:
        merits = [row["figure_of_merit"], row["figure_of_merit_without_flicker"]]
        for merit in merits if row["year"] < 2017 else merits[:1]:
            assert merit["model"] > max(merit["rule"], merit["rule_yearly"], merit["random"])
        assert row["residual_fractions"] <= 1e-12
        assert row["residual_map_cells"] == 0
    assert len(list((tmp_path / "maps").glob("change_2010_*.png"))) == 7


@pytest.mark.skipif(importlib.util.find_spec("rasterio") is None, reason="rasterio reads the maps and is not here")
def test_the_united_kingdom_reaches_the_merit_asked_for(tmp_path: Path) -> None:
    program = [sys.executable, REPOSITORY / "examples" / "uk_hilda.py", DATA, "--json", tmp_path / "uk.json"]
    subprocess.run(program, check=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    result = json.loads((tmp_path / "uk.json").read_text())
    merit = {name: result[name]["figure_of_merit"]["1"]["figure_of_merit"] for name in ("model", "rule", "random")}
    assert merit["model"] >= 0.15
    assert merit["model"] > merit["rule"] > merit["random"]
    assert result["residual_fractions"] <= 1e-12
    assert result["residual_map_cells"] <= 1
