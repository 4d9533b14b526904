"""Training that goes on from another run, what it perturbs, and what is taken away to see what it is worth."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import small_emulator
import torch

from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import ConfigError
from ai4land_coupler.features import CLIMATE_CLASS, GROUPS, Channel
from ai4land_coupler.training.data.dataset import FIRST_INPUTS, Perturbation
from ai4land_coupler.training.data.rebuild import CLIMATE_CLASSES, MOST_PEOPLE, count_places
from ai4land_coupler.training.fit.loop import go_on_from
from ai4land_coupler.training.scores.ablate import NEIGHBOURHOOD, TAKEN, Without, ablate
from ai4land_coupler.unet import UNet
from ai4land_coupler.unetconfig import UNetConfig

OLD = (Channel("height", 1.0, 2.0), Channel("land"))
NEW = (Channel("height", 1.0, 2.0), Channel("places_3"), Channel("land"), Channel(CLIMATE_CLASS))


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Path, UNet]:
    """The work folder of a run of two channels, and its averaged network."""
    torch.manual_seed(3)
    net = UNet(UNetConfig(2, 3, (16, 16, 24)), normalise=True)
    for _ in range(3):
        net(torch.rand(2, 5, 16, 16))
    average = torch.optim.swa_utils.AveragedModel(net, use_buffers=True)
    average.update_parameters(net)
    torch.save({"average": average.state_dict()}, tmp_path / "checkpoint.pt")
    (tmp_path / "channels.json").write_text(json.dumps([asdict(channel) for channel in OLD]))
    return tmp_path, net


def test_a_wider_net_with_more_inputs_first_answers_as_the_one_it_goes_on_from(finished: tuple[Path, UNet]) -> None:
    folder, old = finished
    new = UNet(UNetConfig(4, 3, (24, 16, 32), climate_classes=30), normalise=True)
    go_on_from(folder, new, NEW)
    statics, fractions = torch.rand(2, 4, 32, 32), torch.rand(2, 3, 32, 32)
    statics[:, 3] = torch.randint(0, 31, (2, 32, 32))
    with torch.inference_mode():
        first = old.eval()(torch.cat([statics[:, [0, 2]], fractions], dim=1))
        second = new.eval()(torch.cat([statics, fractions], dim=1))
    torch.testing.assert_close(second, first, rtol=1e-4, atol=1e-5)
    second = new.train()(torch.cat([statics, fractions], dim=1))
    second.sum().backward()
    assert new.stem.weight.grad[:, 1].any()
    assert new.stem.weight.grad[:, 3:11].any()


def test_channels_normalised_otherwise_are_refused(finished: tuple[Path, UNet]) -> None:
    new = UNet(UNetConfig(2, 3, (16, 16, 24)), normalise=True)
    with pytest.raises(ConfigError, match="height"):
        go_on_from(finished[0], new, (Channel("height"), Channel("land")))


def test_perturbation_drops_whole_groups_and_never_the_land_mask() -> None:
    names = [name for group in GROUPS.values() for name in group]
    channels = tuple(Channel(name) for name in names)
    always = Perturbation.of(channels, drop=1.0, noise=0.1)
    inputs = np.ones((2, len(names) + 8, 4, 4), np.float32)
    always.apply(inputs, np.random.default_rng(1))
    assert {name for index, name in enumerate(names) if inputs[:, index].any()} == {"land"}
    assert (inputs[:, len(names) :] == 1).all()
    first = tuple(Channel(name) for group in FIRST_INPUTS for name in GROUPS[group])
    assert len(Perturbation.of(first, 0.1, 0.1).dropped) == 4


def test_zones_of_the_source_become_thirty_classes() -> None:
    assert CLIMATE_CLASSES.size == 33
    assert CLIMATE_CLASSES[3] == CLIMATE_CLASSES[4] == 3
    assert CLIMATE_CLASSES[32] == CLIMATE_CLASSES[0] == 0
    assert CLIMATE_CLASSES[31] == 30
    assert set(CLIMATE_CLASSES) == set(range(31))


def test_places_are_counted_in_their_cells() -> None:
    lat, lon = np.array([-54.93, -54.94, 48.8534, 10.0]), np.array([-67.62, -67.63, 2.3488, 180.0])
    number, total = count_places(lat, lon, np.array([2000, 500, 20_000_000, 0]))
    assert number.sum() == 4
    assert number[701, 2247] == 2
    assert total[701, 2247] == 2500
    assert total[2777, 3646] == MOST_PEOPLE
    assert number[2000, 0] == 1


def test_without_a_group_the_network_answers_as_to_zeros(tmp_path: Path) -> None:
    emulator = Emulator.load(small_emulator.build(tmp_path))
    names = [channel.name for channel in emulator.statics]
    x = torch.rand(1, len(names) + 4, 64, 64)
    x[:, len(names) - 1] = torch.randint(0, 31, (64, 64))
    gone = x.clone()
    gone[:, [names.index(name) for name in TAKEN["koppen"]]] = 0
    torch.testing.assert_close(Without.of(emulator, TAKEN["koppen"]).network()(x), emulator.network()(gone))
    assert not torch.equal(emulator.network()(x), emulator.network()(gone))


def test_ablation_scores_every_group(tmp_path: Path) -> None:
    emulator = Emulator.load(small_emulator.build(tmp_path))
    table = ablate(emulator, ["0,30,-30,0"], threads=1, report=lambda line: None)["mixed"]
    assert list(table) == ["all", *TAKEN, NEIGHBOURHOOD]
    assert table["all"]["drop_quota_over_random"] == 0
    losses = [row["log_loss"] for row in table.values()]
    assert len(set(losses)) == len(losses)
    assert len({row["log_loss_filling"] for row in table.values()}) == 1
