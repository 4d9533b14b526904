"""Which engine is taken, what the log says of it, and what is refused."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
from regrid_hosts import coarse, cubed_sphere, engine_for, lattice, same_entries, t63

from ai4land_coupler.errors import RegridError
from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.regrid import make_engine, weightfile

GRID = RegularGrid(18, 36)


def options(engine="auto", file=None, cache=None):
    return SimpleNamespace(engine=engine, file=file, cache=cache)


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "ai4land_coupler"]


def test_rectangles_need_no_library(caplog):
    caplog.set_level(logging.INFO, "ai4land_coupler")
    engine = make_engine(options(), None, "there is no esmf.mk")
    assert engine.name == "latlon"
    assert said(caplog) == ["regrid: engine latlon (every host cell is a latitude-longitude rectangle)"]


def test_other_cells_go_to_yac_and_the_log_says_why_not_esmf(caplog):
    caplog.set_level(logging.INFO, "ai4land_coupler")
    engine = make_engine(options(), 17, "there is no esmf.mk")
    assert engine.name.startswith("yac 3.")
    (line,) = said(caplog)
    assert line == (
        f"regrid: engine {engine.name} (host cell 17 is no latitude-longitude rectangle; "
        "ESMF cannot be used: there is no esmf.mk)"
    )


def test_other_cells_go_to_esmf_where_all_ranks_have_it(caplog):
    from ai4land_coupler.regrid import esmf

    reason = esmf.lacks()
    if reason is not None:
        pytest.skip(f"ESMF cannot be used here: {reason}")
    caplog.set_level(logging.INFO, "ai4land_coupler")
    engine = make_engine(options(), 17, None)
    assert engine.name.startswith("esmf ")
    assert f"engine {engine.name} (host cell 17 is no latitude-longitude rectangle)" in said(caplog)[0]


def test_an_engine_asked_for_is_taken(caplog):
    caplog.set_level(logging.INFO, "ai4land_coupler")
    assert make_engine(options("yac"), None, None).name.startswith("yac 3.")
    assert make_engine(options("latlon"), None, None).name == "latlon"
    assert [line.split(" (")[1] for line in said(caplog)] == ["asked for)", "asked for)"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (options("latlon"), "latlon but host cell 17 is no latitude-longitude rectangle; use regrid.engine: auto"),
        (options("esmf"), r"esmf but ESMF cannot be used: no esmf\.mk; mend that \(`ai4land doctor`.*engine: auto"),
        (options("file"), "file names no weight file"),
        (options("file", "/nowhere/weights.nc"), "/nowhere/weights.nc cannot be read"),
        (options("tempest"), "'tempest' is unknown; use auto, latlon, esmf, yac or file"),
    ],
)
def test_an_engine_that_cannot_serve_is_refused_with_the_mend(chosen, message):
    with pytest.raises(RegridError, match=message):
        make_engine(chosen, 17, "no esmf.mk")


def test_a_weight_file_goes_first(tmp_path, caplog):
    hosts, target = lattice(np.linspace(-90, 90, 10), np.linspace(0, 360, 19)), lattice(GRID.lat_edges, GRID.lon_edges)
    plain = engine_for(hosts)
    overlap, areas = plain.between(hosts, target), (plain.area(hosts), plain.area(target))
    weightfile.write(tmp_path / "weights.nc", overlap, hosts, target, areas, ((9, 18), (18, 36)), {})
    caplog.set_level(logging.INFO, "ai4land_coupler")
    engine = make_engine(options(file=tmp_path / "weights.nc"), None, "no esmf.mk")
    assert engine.name.startswith("file weights.nc sha256:")
    assert "regrid.file is given; what it lacks by latlon" in said(caplog)[0]
    found, expected = coarse(engine, hosts, GRID), coarse(plain, hosts, GRID)
    assert np.array_equal(found.row, expected.row)
    assert np.array_equal(found.col, expected.col)
    assert found.area == pytest.approx(expected.area, rel=1e-11)


def test_a_cache_keeps_what_the_engine_made(tmp_path):
    for hosts in (t63(), cubed_sphere(4)):
        plain, kept = engine_for(hosts), engine_for(hosts, options=options(cache=tmp_path))
        assert kept.name == plain.name
        for _ in range(2):
            assert same_entries(coarse(kept, hosts, GRID), coarse(plain, hosts, GRID))
    assert any(path.is_file() for path in tmp_path.rglob("*"))
