"""Scores can be had again from the maps; training closes what it scores and never sees South America."""

import json
from pathlib import Path

import numpy as np
import pytest
import small_emulator
import torch
from mpi4py import MPI
from netCDF4 import Dataset

from ai4land_coupler.component import Component
from ai4land_coupler.config import Config
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import ConfigError
from ai4land_coupler.grids import HostGrid
from ai4land_coupler.inference import TileRunner
from ai4land_coupler.training.data import dataset
from ai4land_coupler.training.fit.closing import closing_offset, to_cells
from ai4land_coupler.training.fit.loop import closed_loss
from ai4land_coupler.training.scores import metrics, scoreplots
from ai4land_coupler.training.scores.evaluate import MAPS, evaluate, evaluate_regions, score
from ai4land_coupler.training.scores.regions import Region, parse
from ai4land_coupler.training.scores.staticmaps import Truth, answer

BOX = "-150.5,-40.2,-61.0,33.3"  # cuts coarse cells of 11.25 degrees on every side


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Emulator, dict, dict[str, np.ndarray], Path]:
    folder = tmp_path_factory.mktemp("scored")
    emulator = Emulator.load(small_emulator.build(folder / "small"))
    result = evaluate(emulator, BOX, folder / "scores.json", folder / "maps.nc")
    with Dataset(folder / "maps.nc") as data:
        data.set_auto_mask(False)
        maps = {name: np.asarray(variable[:]) for name, variable in data.variables.items()}
    return emulator, result, maps, folder


def blocks(values: np.ndarray) -> np.ndarray:
    """Coarse cells (C, 100) of a map."""
    ny, nx = values.shape
    return values.reshape(ny // 10, 10, nx // 10, 10).swapaxes(1, 2).reshape(-1, 100)


def test_scores_follow_from_the_maps_alone(scored: tuple) -> None:
    _, result, maps, folder = scored
    assert json.loads((folder / "scores.json").read_text()) == result
    edges = np.radians(maps["lat"][:, None] + [-0.5625, 0.5625])
    area = np.diff(np.sin(edges), axis=1) * np.ones(maps["lon"].size)
    inside = (maps["lat"] > -61)[:, None] & (maps["lat"] < 33.3)[:, None]
    inside = inside & (maps["lon"] > -150.5) & (maps["lon"] < -40.2) & (maps["observed"] > 0)
    for part, cells in (("all", inside), ("mixed", inside & (maps["mixed"] == 1))):
        for method in MAPS:
            right = area * cells * (maps[method] == maps["observed"])
            assert result[part][method]["accuracy"] == pytest.approx(right.sum() / (area * cells).sum(), abs=1e-12)
            iou = [
                (area * cells * ((maps[method] == k) & (maps["observed"] == k))).sum()
                / (area * cells * ((maps[method] == k) | (maps["observed"] == k))).sum()
                for k in range(1, 5)
            ]
            assert list(result[part][method]["iou"].values()) == pytest.approx(iou, abs=1e-12)
            assert result[part][method]["miou"] == pytest.approx(np.mean(iou), abs=1e-12)


def test_maps_cover_whole_coarse_cells_and_keep_their_counts(scored: tuple) -> None:
    emulator, _, maps, _ = scored
    assert np.array_equal(maps["observed"], emulator.base_map()[20:110, 20:130])
    observed = blocks(maps["observed"])
    for name in ("quota", "random"):
        for k in range(5):
            assert np.array_equal((blocks(maps[name]) == k).sum(1), (observed == k).sum(1)), name
    for row, filled in zip(observed, blocks(maps["majority"]), strict=True):
        assert np.array_equal(row > 0, filled > 0)
        assert len(set(filled[row > 0])) <= 1
    assert not np.array_equal(maps["random"], maps["observed"])


def test_mixed_cells_are_those_without_a_class_on_95_of_100(scored: tuple) -> None:
    _, _, maps, _ = scored
    observed = blocks(maps["observed"])
    share = np.stack([(observed == k).sum(1) for k in range(1, 5)])
    expected = (100 * share.max(0) < 95 * share.sum(0))[:, None] & (observed > 0)
    assert np.array_equal(blocks(maps["mixed"]) == 1, expected)
    assert 0 < expected.sum() < (observed > 0).sum()
    edge = np.array([[95, 5, 0], [94, 6, 0], [19, 1, 0], [100, 0, 0]])
    assert metrics.mixed(edge).tolist() == [False, True, False, False]


def test_scores_by_hand() -> None:
    observed, predicted = np.array([1, 1, 2, 2], np.uint8), np.array([1, 2, 2, 2], np.uint8)
    matrix = metrics.confusion(observed, predicted, np.array([3.0, 1.0, 1.0, 1.0]), 3)
    result = metrics.scores(matrix, ("a", "b", "c"))
    assert result["accuracy"] == pytest.approx(5 / 6)
    assert result["iou"] == {"a": pytest.approx(3 / 4), "b": pytest.approx(2 / 3), "c": None}
    assert result["miou"] == pytest.approx(17 / 24)
    totals = np.array([[0.5, 0.5], [0.8, 0.2]])
    assert metrics.random_accuracy(totals, np.array([1.0, 3.0])) == pytest.approx((0.5 + 3 * 0.68) / 4)


def test_training_offset_closes_the_totals() -> None:
    torch.manual_seed(0)
    z, area = 2 * torch.randn(50, 4, 100), torch.rand(50, 100) + 0.5
    totals = torch.softmax(torch.randn(50, 4), dim=1)
    totals[:10, 2] = 0
    totals = totals / totals.sum(1, keepdim=True)
    p = torch.softmax(z + closing_offset(z, area, totals)[:, :, None], dim=1)
    reached = (p * area[:, None]).sum(2) / area.sum(1, keepdim=True)
    assert float((reached - totals).abs().max()) < 1e-3
    assert not p[:10, 2].any()


def test_gradient_of_the_closed_loss_is_weighted_p_minus_y() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, (2, 20, 20)).astype(np.uint8)
    area = ((labels > 0) * rng.uniform(0.5, 1, (2, 20, 1))).astype(np.float32)
    hit = (labels[:, None] == np.arange(1, 9)[:, None, None]) * area[:, None]
    sums = hit.reshape(2, 8, 2, 10, 2, 10).sum((3, 5))
    totals = (sums / sums.sum(1, keepdims=True)).astype(np.float32)
    batch = dataset.Batch(np.zeros((2, 1, 1, 1), np.float32), labels, area, area, totals, 10)
    z = torch.randn(2, 8, 20, 20, generator=torch.manual_seed(1)).requires_grad_()
    closed_loss(z, batch)[0].backward()
    assert z.grad is not None
    gradient = to_cells(z.grad, 10)
    weight = to_cells(torch.from_numpy(area / area.sum((1, 2), keepdims=True) / 2)[:, None], 10)[:, 0]
    f = torch.from_numpy(totals).flatten(2).transpose(1, 2).reshape(-1, 8)
    b = closing_offset(to_cells(z.detach(), 10), weight, f)
    p = torch.softmax(to_cells(z.detach(), 10) + b[:, :, None], dim=1)
    y = to_cells(torch.from_numpy(labels[:, None].astype(np.int64)), 10) == torch.arange(1, 9)[:, None]
    torch.testing.assert_close(gradient, weight[:, None] * (p - y.float()), rtol=1e-3, atol=1e-7)


def test_erased_and_withheld_land_is_never_trained_on() -> None:
    classes = np.zeros((3600, 7200), np.uint8)
    classes[1000:2200, 1800:3200] = 1
    classes[::2, 1800:3200][500:1100] = 5
    statics = np.ones((1, 3600, 7200), np.float16)
    other = dataset.Box(-85.0, -83.0, -10.0, -8.0)
    crops = dataset.Crops(statics, classes, (dataset.SOUTH_AMERICA,), (other,), rim=48)
    box = (slice(680, 2060), slice(1960, 2920))  # 56 S to 13 N, 82 to 34 W
    assert not statics[:, box[0], box[1]].any()
    assert statics[:, :680].all()
    assert not classes[box].any()
    assert not crops.trained[680 - 48 : 2060 + 48, 1960 - 48 : 2920 + 48].any()
    assert crops.trained[680 - 49, 1960]
    assert not crops.trained[1600 - 48 : 1640 + 48, 1900 - 48 : 1940 + 48].any()
    batch = crops.batch(np.array([[1600, 1840]]), 1, crops.trained)
    assert not batch.weights[:, :, 160 - 48 :].any()
    assert batch.weights.any()
    assert not batch.inputs[:, :, :, 24 + 120 :].any()
    corners, _ = crops.origins(crops.trained)
    assert len(corners) > 0


@pytest.mark.parametrize("text", ["europe", "1,2,3", "10,5,0,1", "0,1,-100,0"])
def test_regions_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        dataset.Box.parse(text)


@pytest.fixture(scope="module")
def coarser(scored: tuple) -> tuple[Region, Truth, TileRunner]:
    emulator = scored[0]
    where = Region(emulator, dataset.Box.parse(BOX), 2)
    return where, Truth.of(emulator), TileRunner(emulator, "level", "float32", 1)


def test_a_coarser_state_is_kept_by_its_host_cells_and_not_spread_evenly(coarser: tuple) -> None:
    where, truth, runner = coarser
    found = answer(where, truth, runner)
    area = np.zeros((len(found.state), len(where.emulator.legend)))
    land = np.zeros(len(found.state))
    np.add.at(area, found.host, np.einsum("ckn,cn->ck", found.fractions, found.area))
    np.add.at(land, found.host, found.area.sum(1))
    assert np.abs(area / land[:, None] - found.state).max() < 1e-12
    hosts = where.to_hosts(where.observed)
    hosts = hosts[hosts.any(1)]
    assert found.counts.tolist() == [[int((row == k).sum()) for k in range(1, 5)] for row in hosts]
    assert np.abs(found.totals - found.state[found.host]).max() > 1e-3
    maps = found.maps
    of_host = [
        tuple(sorted(row[row > 0])) for row in where.to_hosts(maps["random"])[where.to_hosts(where.observed).any(1)]
    ]
    assert of_host == [tuple(sorted(row[row > 0])) for row in hosts]
    filled = where.to_hosts(maps["majority"])
    assert all(len(set(row[row > 0])) <= 1 for row in filled)


def test_what_is_scored_is_what_a_coupled_run_delivers(scored: tuple) -> None:
    emulator, truth = scored[0], Truth.of(scored[0])
    runner = TileRunner(emulator, "level", "float32", 1)
    south, west = (x.ravel() for x in np.meshgrid(np.arange(-90, 90, 22.5), np.arange(-180, 180, 22.5), indexing="ij"))
    corners = (
        np.stack([west, west + 22.5, west + 22.5, west], 1),
        np.stack([south, south, south + 22.5, south + 22.5], 1),
    )
    land = truth.land.reshape(8, 2, 16, 2).sum((1, 3)).ravel()
    area = (truth.totals * truth.land).reshape(4, 8, 2, 16, 2).sum((2, 4)).reshape(4, -1)
    state = np.where(land > 0, area / np.maximum(land, 1), 0.25)
    found = answer(Region(emulator, dataset.Box(-180, 180, -90, 90), 2), truth, runner)
    with Component.init(Config(emulator=str(emulator.path), precision="float32"), MPI.COMM_SELF) as component:
        component.set_grid(HostGrid(np.arange(128), *corners, (land > 0) * 0.5))
        fine = component.step(2019, dict(zip(emulator.legend, state, strict=True)))
        row, col = np.divmod(component.get("fine", "cell_id").astype(int) - 1, emulator.fine.nlon)
        classes = component.get("fine", "class")
    assert row.size == (emulator.base_map() > 0).sum()
    assert np.mean(found.maps["quota"][row, col] == classes) > 0.9999
    for number, name in enumerate(emulator.legend):
        layer = np.zeros((found.where.shape[0] * found.where.shape[1] // 100, 100))
        layer[found.used] = found.fractions[:, number]
        assert np.abs(found.where.from_blocks(layer, 10)[row, col] - fine[name]).max() < 1e-10


def test_a_host_spreads_its_state_over_its_land(coarser: tuple) -> None:
    _, truth, _ = coarser
    wide = truth.spread(2).reshape(4, 16, 32)
    land = truth.land.reshape(16, 32)
    area = (truth.totals * truth.land).reshape(4, 16, 32)
    held = (land > 0).reshape(8, 2, 16, 2).sum((1, 3))
    y, x = 2 * np.argwhere(held == 3)[0]  # three of its four coarse cells have land
    mean = area[:, y : y + 2, x : x + 2].sum((1, 2)) / land[y : y + 2, x : x + 2].sum()
    for row, col in np.add(np.argwhere(land[y : y + 2, x : x + 2] > 0), (y, x)):
        assert wide[:, row, col] == pytest.approx(mean, abs=1e-15)
    assert not wide[:, land == 0].any()


def test_several_regions_at_several_resolutions(scored: tuple, tmp_path: Path) -> None:
    emulator, alone, _, _ = scored
    lines: list[str] = []
    regions = [BOX, "0,90,-90,0"]
    result = evaluate_regions(emulator, regions, [11.25, 22.5], tmp_path / "maps.nc", threads=1, report=lines.append)
    assert list(result["regions"]) == regions
    assert len(lines) == 4
    first = result["regions"][BOX]
    for part in ("all", "mixed"):
        for key, value in first[part].items():
            assert value == alone[part][key], key
    wide = first["coarser"]["22.5"]
    assert wide["state_degrees"] == 22.5
    assert wide["all"]["cells"] == first["all"]["cells"]
    assert wide["mixed_coarse"]["cells"] == first["mixed"]["cells"]
    assert wide["all"]["log_loss"]["filling"] > first["all"]["log_loss"]["filling"]
    assert len(list(tmp_path.glob("maps_*.nc"))) == 4


def test_scores_are_drawn(coarser: tuple, tmp_path: Path) -> None:
    found = answer(*coarser)
    drawn = scoreplots.draw(found, score(found), tmp_path, "here")
    assert [path.name for path in drawn] == ["here_reliability.png", "here_iou.png", "here_maps.png"]
    assert all(path.stat().st_size > 10_000 for path in drawn)
    base, observed = (found.maps[name] for name in ("observed", "majority"))
    path = scoreplots.draw_change(
        base, observed, {"random": found.maps["random"]}, small_emulator.LEGEND, tmp_path / "change.png"
    )
    assert path.stat().st_size > 10_000


def test_log_loss_and_calibration_follow_from_the_fractions(scored: tuple, coarser: tuple) -> None:
    where, truth, runner = coarser
    found = answer(Region(where.emulator, where.box), truth, runner)
    result = scored[1]["all"]
    mask = found.where.to_coarse(found.where.inside & (found.where.observed > 0))[found.used]
    p = found.fractions.swapaxes(1, 2)[mask]
    label, area = found.labels[mask].astype(int) - 1, found.area[mask]
    assert result["log_loss"]["emulator"] == pytest.approx(
        -np.average(np.log(p[np.arange(label.size), label]), weights=area)
    )
    best = p.max(1)
    right = p.argmax(1) == label
    error = 0.0
    for b in range(20):
        chosen = (best >= b / 20) & ((best < (b + 1) / 20) | (b == 19))
        if chosen.any():
            error += abs((area * (best - right))[chosen].sum()) / area.sum()
    assert result["calibration"]["error"] == pytest.approx(error, abs=1e-9)


def test_regions_have_names(scored: tuple) -> None:
    assert list(parse(["europe", "1,2,3,4"], scored[0])) == ["europe", "1,2,3,4"]
    assert len(parse(["continents"], scored[0])) >= 5
    with pytest.raises(ConfigError, match="expected one of"):
        parse(["atlantis"], scored[0])
    with pytest.raises(ConfigError, match="no blocks"):
        parse(["withheld"], scored[0])
    with pytest.raises(ConfigError, match="multiple"):
        evaluate_regions(scored[0], [BOX], [12.0])
