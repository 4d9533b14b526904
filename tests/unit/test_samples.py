"""Samples of a store: what a crop holds, what is kept from the training, and that no worker changes anything."""

from dataclasses import fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_store
import torch

from ai4land_coupler.errors import ConfigError
from ai4land_coupler.training.data.store import Layout, Store, write_store
from ai4land_coupler.training.fit.crops import Crops, Rectangle, Years
from ai4land_coupler.training.fit.loader import batches
from ai4land_coupler.training.fit.samples import Batch, Samples, Team
from ai4land_coupler.training.fit.trainconfig import TrainConfig

CPU = torch.device("cpu")
DROPS: dict[str, Any] = {
    "groups": {"a": ["height", "slope"], "b": ["koppen_a", "climate_class"]}, "drop": 0.5, "noisy": ["t_mean"],
    "noise": 0.1, "rollout": 2, "teacher": [1.0, 0.0], "prior_mask": [0.9, 0.1], "years": [2000, 2003],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("samples")
    small_store.build(path, climate=True)
    return path


def read(folder: Path, **entries: object) -> TrainConfig:
    return TrainConfig.read(small_store.configure(folder, **entries))


def equal(a: Batch, b: Batch) -> bool:
    names = [f.name for f in fields(a) if f.name not in ("cells", "size")]
    same = all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)
    return same and a.size == b.size and all(map(torch.equal, a.cells, b.cells))


def test_batches_do_not_depend_on_who_reads_them(folder: Path) -> None:
    alone = read(folder, steps=4, **DROPS)
    expected = [Samples(alone, Team())[n] for n in range(4)]
    for workers in (0, 2):
        found = list(batches(Samples(replace(alone, workers=workers), Team()), 1, CPU))
        assert len(found) == 3
        assert all(map(equal, found, expected[1:]))
    assert not equal(expected[0], expected[1])


def test_processes_share_the_samples_of_one(folder: Path) -> None:
    one, two = read(folder, batch=2, **DROPS), read(folder, batch=1, **DROPS)
    whole = Samples(one, Team())[3]
    parts = [Samples(two, Team(rank, 2))[3] for rank in range(2)]
    for name in ("static", "shift", "kept", "climate", "classes", "totals", "trained", "area", "known", "teacher"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))


def test_a_crop_across_the_date_line_and_the_pole_is_what_the_store_holds(folder: Path) -> None:
    samples = Samples(read(folder, flips=False, margin=16), Team())
    store = samples.crops.store
    item = samples.item(0, 120, range(2, 3), 2)
    rows, cols = np.arange(56), np.arange(104, 176) % 160
    assert (item["static"][:, 16:] == store.static(slice(0, 56), np.arange(160))[:, :, cols]).all()
    assert not item["static"][:, :16].any()
    assert item["static"][:, 16:].any()
    for n, year in enumerate((1, 2)):
        assert (item["classes"][n, 16:] == store.classes(year, slice(0, 56), np.arange(160))[:, cols]).all()
    assert (item["climate"][16:] == store.climate(slice(0, 56), np.arange(160))[:, cols]).all()
    assert rows.size + 16 == item["classes"].shape[1]
    assert item["totals"].shape == (1, 4, 4, 4)  # 40 cells and 20 on each side, in cells of 20
    wide = store.classes(2, slice(20, 40), np.arange(140, 160))
    area = store.row_area[20:40, None]
    share = [float((area * (wide == k)).sum() / (area * (wide > 0)).sum()) for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(item["totals"][0, :, 2, 2], share, rtol=1e-6)
    assert not item["totals"][0, :, 0].any()


def test_flips_turn_all_parts_of_a_sample_alike(folder: Path) -> None:
    plain, turned = (Samples(read(folder, flips=flips), Team()) for flips in (False, True))
    seen = set()
    for index in range(12):
        a, b = plain.sample(0, index, 1), turned.sample(0, index, 1)
        every = ((), (-1,), (-2,), (-1, -2))
        axes = [chosen for chosen in every if np.array_equal(np.flip(a["static"], chosen), b["static"])]
        assert len(axes) == 1
        seen.add(axes[0])
        for name in ("classes", "totals", "trained", "climate"):
            assert np.array_equal(np.flip(a[name], axes[0]), b[name])
        assert np.array_equal(np.flip(a["area"], 0) if -2 in axes[0] else a["area"], b["area"])
    assert len(seen) == 4


def test_withheld_land_is_seen_but_not_trained_on_and_erased_land_is_gone(folder: Path) -> None:
    crops = Samples(read(folder, erased=[[-180, -100, -40, 20]], withheld=[[0, 60, 0, 40]], rim=8), Team()).crops
    store = crops.store
    trained, classes = crops.trained(0, 0, 80, 160), crops.classes(1, 0, 0, 80, 160)
    statics = crops.static(0, 0, 80, 160)
    rows, cols = -90 + (np.arange(80) + 0.5) * 2.25, -180 + (np.arange(160) + 0.5) * 2.25
    erased = np.ix_((rows > -40) & (rows < 20), cols < -100)
    held = np.ix_((rows > 0) & (rows < 40), (cols > 0) & (cols < 60))
    assert not classes[erased].any()
    assert not statics[(slice(None), *erased)].any()
    assert classes[held].any()
    assert not trained[held].any()
    assert not trained[erased].any()
    near = np.ix_((rows > -18) & (rows < 58), (cols > -18) & (cols < 78))
    assert not trained[near].any()  # 8 cells of 2.25 degrees
    assert trained[np.ix_(rows < -60, np.abs(cols) < 90)].all()
    assert not trained[40, 158:].any()  # the rim of the erased land goes over the date line
    other = np.ones(classes.shape, bool)
    other[erased] = False
    assert (classes == store.classes(1, slice(0, 80), np.arange(160)))[other].all()
    corners, probability = crops.origins(1)
    assert probability[-1] == 1
    assert (np.diff(probability) > 0).all()
    fine = np.kron((crops.totals(classes, 0, 10) > 0).sum(0) > 1, np.ones((10, 10), bool))
    chance = (trained & (classes > 0) & fine) * store.row_area[:, None]
    expected = [chance[row : row + 40, col : col + 40].sum() / chance.sum() for row, col in corners]
    np.testing.assert_allclose(np.diff(probability, prepend=0), expected, rtol=1e-5)


def test_years_are_split(folder: Path) -> None:
    store = Store.open(folder / "store.zarr")
    years = Years.of(read(folder, validation_years=[2003, 2004]), store)
    assert (years.starts.tolist(), years.validation, years.base) == ([1, 2], (3, 4), 2)
    years = Years.of(read(folder, validation_years=[2002, 2002], rollout=1), store)
    assert (years.starts.tolist(), years.validation, years.base) == ([1, 4], (2,), 4)
    years = Years.of(read(folder, rollout=3, years=[2001, 2004], base_year=2001), store)
    assert (years.starts.tolist(), years.validation, years.base) == ([2], (4,), 1)
    with pytest.raises(ConfigError, match="shorter rollout"):
        Years.of(read(folder, rollout=5), store)
    with pytest.raises(ConfigError, match="base_year"):
        Years.of(read(folder, base_year=1999), store)


def test_schedules_go_from_their_first_value_to_their_last(folder: Path) -> None:
    entries = DROPS | {"teacher": [1.0, 0.0], "prior_mask": [1.0, 0.0]}
    samples = Samples(read(folder, steps=11, batch=1, **entries), Team())
    first, last = (samples.sample(step, 0, 1) for step in (0, 10))
    assert not first["known"]
    assert last["known"]
    assert first["teacher"].all()
    assert last["teacher"].tolist() == [True, False]
    known = np.mean([samples.sample(5, index, 1)["known"] for index in range(40)])
    assert 0.2 < known < 0.8


def test_groups_are_dropped_whole(folder: Path) -> None:
    entries = DROPS | {"drop": 1.0, "noise": 0.0, "flips": False}
    samples = Samples(read(folder, **entries), Team())
    item = samples.sample(0, 0, 1)
    names = samples.crops.store.statics
    dropped = {"height", "slope", "koppen_a"}
    assert {name for name, kept in zip(names, item["kept"], strict=True) if not kept} == dropped
    assert not item["shift"].any()
    shift = Samples(read(folder, **(DROPS | {"noise": 0.3})), Team()).sample(0, 0, 1)["shift"]
    assert np.flatnonzero(shift).tolist() == [names.index("t_mean")]
    assert not item["climate"].any()
    with pytest.raises(ConfigError, match="nowhere"):
        Samples(read(folder, groups={"a": ["nowhere"]}), Team())


def test_a_projected_store_of_one_year_is_padded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layout = Layout(("a", "b"), (30, 40), 10, (2001,), kind="projected")
    classes = rng.integers(1, 3, (1, 30, 40)).astype(np.uint8)
    write_store(tmp_path / "store.zarr", layout, classes)
    config = read(tmp_path, withheld=[[0, 10, 0, 20]], rim=0)
    samples = Samples(config, Team())
    assert not samples.prior
    item = samples.item(0, 0, range(0, 1), 1)
    assert (item["classes"][0, 24:54, 24:64] == classes[0]).all()
    assert item["classes"].sum() == classes.sum()
    assert not item["trained"][:20, :10].any()
    assert item["trained"].sum() == 40 * 40 - 200
    assert item["area"].tolist() == [1.0] * 30 + [0.0] * 10
    assert samples[0].static.shape == (2, 0, 88, 88)
    assert Rectangle.of((0, 10, 0, 20), layout) == Rectangle(0, 0, 20, 10)


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ({"resolutions": [0.5, 0.5, 0.5]}, "sum to 1"),
        ({"interior": 50}, "multiple of 40"),
        ({"margin": 20}, "margin"),
        ({"rollout": 2, "prior": False}, "prior"),
        ({"withheld": [[10, 0, 0, 10]]}, "regions"),
        ({"learningrate": 1}, "unknown entries"),
        ({"steps": 1, "warmup": 2}, "warmup"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, entries: dict[str, object], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        _ = Crops(Store.open(folder / "store.zarr"), read(folder, **entries)).shape


def test_the_example_of_a_configuration_can_be_read() -> None:
    path = resources.files("ai4land_coupler.training") / "hilda-1km.yaml"
    config = TrainConfig.read(Path(str(path)))
    assert (config.validation_years, config.rollout, config.teacher) == ((2001, 2014), 2, (1.0, 0.0))
