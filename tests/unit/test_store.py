"""The training store: what is written is read, on any window; what was lost or is of another format is refused."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr

from ai4land_coupler.errors import BadInputError, GridError, OutputError
from ai4land_coupler.features import Channel
from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.training.data import store as stores
from ai4land_coupler.training.data.store import Layout, Store, StoreWriter, runs, write_store

LAYOUT = Layout(
    legend=("forest", "cropland"),
    shape=(60, 600),
    ratio=10,
    years=(2001, 2003),
    nlat=300,
    nlon=600,
    row0=120,
    state_legend=("f", "c", "g"),
    state_years=(2000, 2001, 2003),
    channels=(Channel("height", 2.0, 3.0), Channel("slope")),
    climate_classes=5,
)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    state = rng.random((3, 3, 6, 60)).astype(np.float32)
    state[:, :, 2, 5] = np.nan
    return {
        "classes": rng.integers(0, 3, (2, 60, 600)).astype(np.uint8),
        "static": rng.normal(size=(2, 60, 600)).astype(np.float16),
        "climate": rng.integers(0, 6, (60, 600)).astype(np.uint8),
        "state": state,
    }


@pytest.fixture
def store(tmp_path: Path, arrays: dict[str, np.ndarray]) -> Store:
    return write_store(tmp_path / "s.zarr", LAYOUT, **arrays)


def test_a_window_across_the_date_line_is_what_was_written(store: Store, arrays: dict[str, np.ndarray]) -> None:
    rows, cols = slice(3, 50), np.arange(590, 870) % 600
    assert (store.classes(1, rows, cols) == arrays["classes"][1][rows][:, cols]).all()
    assert (store.static(rows, cols) == arrays["static"][:, rows][:, :, cols]).all()
    assert (store.climate(rows, cols) == arrays["climate"][rows][:, cols]).all()
    coarse = np.array([58, 59, 0, 1, 5])
    expected = arrays["state"][2][:, 1:6][:, :, coarse]
    assert np.array_equal(store.state(2, slice(1, 6), coarse), expected, equal_nan=True)
    assert np.isnan(expected[:, 1, 4]).all()


def test_what_a_store_is_of_is_read_back(store: Store) -> None:
    assert store.layout == LAYOUT
    assert (store.legend, store.state_legend) == (("forest", "cropland"), ("f", "c", "g"))
    assert (store.years, store.state_years, store.ratio, store.shape) == (
        (2001, 2003),
        (2000, 2001, 2003),
        10,
        (60, 600),
    )
    assert store.wraps
    assert store.statics == ("height", "slope")
    assert store.channels[0] == Channel("height", 2.0, 3.0)
    assert store.climate_classes == 5
    assert (store.row_area == RegularGrid(300, 600).area_rows[120:180]).all()


def test_a_store_travels_to_another_process(store: Store, arrays: dict[str, np.ndarray]) -> None:
    other = pickle.loads(pickle.dumps(store))
    assert (other.classes(0, slice(0, 60), np.arange(600)) == arrays["classes"][0]).all()


def test_a_projected_store_has_equal_areas_and_does_not_wrap(tmp_path: Path) -> None:
    layout = Layout(("a",), (6, 4), 2, (2001,), kind="projected")
    made = write_store(tmp_path / "p.zarr", layout, np.ones((1, 6, 4), np.uint8))
    assert not made.wraps
    assert (made.row_area == 1).all()
    assert (made.state_legend, made.state_years, made.statics, made.climate_classes) == ((), (), (), 0)
    with pytest.raises(BadInputError, match="has no climate"):
        made.climate(slice(0, 2), np.arange(2))


def test_a_chunk_that_was_lost_is_seen(store: Store) -> None:
    whole = slice(0, 60), np.arange(600)
    (store.path / "class" / "c" / "1" / "0" / "2").unlink()
    store.classes(0, *whole)
    with pytest.raises(BadInputError, match="class holds values"):
        store.classes(1, *whole)
    (store.path / "static" / "c" / "0" / "0" / "0").unlink()
    with pytest.raises(BadInputError, match="a chunk was lost"):
        store.static(*whole)
    (store.path / "state" / "c" / "0" / "0" / "0" / "0").unlink()
    with pytest.raises(BadInputError, match="a chunk was lost"):
        store.state(0, slice(0, 6), np.arange(60))


def test_a_chunk_that_was_damaged_is_refused(store: Store) -> None:
    chunk = store.path / "class" / "c" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:40])
    with pytest.raises(BadInputError, match="cannot be read"):
        store.classes(0, slice(0, 10), np.arange(10))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "expected a store of format 1, got 2"),
        ({"complete": False}, "not complete"),
        ({"ratio": 7}, "whole coarse cells"),
        ({"grid": {"kind": "hexagons"}}, "kind latlon or projected"),
    ],
)
def test_another_format_or_a_wrong_attribute_is_refused(store: Store, change: dict[str, object], message: str) -> None:
    path = store.path / "zarr.json"
    content = json.loads(path.read_text())
    content["attributes"] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(BadInputError, match=message):
        Store.open(store.path)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no training store"):
        Store.open(tmp_path)
    (tmp_path / "zarr.json").write_text("{")
    with pytest.raises(BadInputError, match="damaged"):
        Store.open(tmp_path)


def test_a_window_beyond_the_store_is_refused(store: Store) -> None:
    for rows, cols in ((slice(-1, 5), [0]), (slice(50, 61), [0]), (slice(0, 5), [-1]), (slice(0, 5), [599, 600])):
        with pytest.raises(IndexError):
            store.classes(0, rows, np.array(cols))
    with pytest.raises(IndexError):
        store.classes(2, slice(0, 5), np.arange(5))


def test_a_writer_goes_on_with_the_blocks_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrays: dict[str, np.ndarray]
) -> None:
    monkeypatch.setattr(stores, "BLOCK", 256)
    layout = Layout(("forest", "cropland"), (60, 600), 10, (2001,), nlat=300, nlon=600, row0=120)
    writer = StoreWriter(tmp_path / "s.zarr", layout, "one")
    blocks = writer.blocks("class")
    assert [block.shape for block in blocks] == [(60, 256), (60, 256), (60, 88)]
    zeros = np.zeros((60, 256), np.uint8)
    writer.write("class", 0, blocks[1], zeros)
    assert [writer.written("class", 0, block) for block in blocks] == [False, True, False]
    with pytest.raises(OutputError, match="not written"):
        writer.finish()
    with pytest.raises(OutputError, match="another configuration"):
        StoreWriter(tmp_path / "s.zarr", layout, "two")
    again = StoreWriter(tmp_path / "s.zarr", layout, "one")
    for block in blocks:
        if not again.written("class", 0, block):
            again.write("class", 0, block, arrays["classes"][0][block.rows, block.cols])
    again.finish()
    read = Store.open(tmp_path / "s.zarr").classes(0, slice(0, 60), np.arange(600))
    assert (read[:, 256:512] == 0).all()
    assert (read[:, :256] == arrays["classes"][0][:, :256]).all()


def test_large_stores_are_sharded_and_read_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrays: dict[str, np.ndarray]
) -> None:
    monkeypatch.setattr(stores, "MANY", 1)
    made = write_store(tmp_path / "s.zarr", LAYOUT, **arrays)
    assert len(list((made.path / "class" / "c" / "0").rglob("*"))) == 2  # a row of shards and its only file
    assert (made.classes(0, slice(0, 60), np.arange(600)) == arrays["classes"][0]).all()
    assert (made.static(slice(0, 60), np.arange(600)) == arrays["static"]).all()


def test_a_damaged_or_truncated_shard_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrays: dict[str, np.ndarray]
) -> None:
    monkeypatch.setattr(stores, "MANY", 1)
    made = write_store(tmp_path / "s.zarr", LAYOUT, **arrays)
    window = slice(0, 60), np.arange(600)
    shard = made.path / "class" / "c" / "0" / "0" / "0"
    whole = shard.read_bytes()
    for damaged in (whole[:-10] + bytes([whole[-10] ^ 1]) + whole[-9:], whole[:200], whole[100:], b""):
        shard.write_bytes(damaged)
        with pytest.raises(BadInputError, match="cannot be read"):
            made.classes(0, *window)
    shard.unlink()
    with pytest.raises(BadInputError, match="a chunk was lost"):
        made.classes(0, *window)
    assert (made.classes(1, *window) == arrays["classes"][1]).all()


def test_a_store_of_other_codecs_is_refused(store: Store, arrays: dict[str, np.ndarray]) -> None:
    group = zarr.open_group(store.path, mode="r+")
    del group["climate"]
    group.create_array("climate", data=arrays["climate"], fill_value=255).attrs["classes"] = 5
    with pytest.raises(BadInputError, match=r"expected chunks coded by bytes and blosc, got .*zstd.*anew"):
        Store.open(store.path)


def test_layouts_that_cannot_be_are_refused() -> None:
    with pytest.raises(GridError, match="whole coarse cells"):
        Layout(("a",), (60, 600), 7, (2001,), nlat=300, nlon=600)
    with pytest.raises(GridError, match="inside the grid"):
        Layout(("a",), (60, 600), 10, (2001,), nlat=50, nlon=600)
    with pytest.raises(GridError, match="years that rise"):
        Layout(("a",), (2, 2), 2, (2003, 2001), kind="projected")


def test_columns_split_into_runs() -> None:
    assert list(runs(np.array([5, 6, 0, 1, 2, 9]))) == [slice(5, 7), slice(0, 3), slice(9, 10)]
