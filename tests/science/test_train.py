"""Training on a store: to the bit where it goes on, the same by two processes, ended early, and what comes of it."""

import copy
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_store
import torch
import yaml
from mpi4py import MPI

from ai4land_coupler.component import Component
from ai4land_coupler.config import Config
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import BadInputError, ConfigError, RestartError
from ai4land_coupler.features import Channel, StaticFeatures
from ai4land_coupler.grids import HostGrid
from ai4land_coupler.training.data.store import Layout, Store, write_store
from ai4land_coupler.training.fit import checkpoints
from ai4land_coupler.training.fit.folder import check, tile_of
from ai4land_coupler.training.fit.samples import Samples, Team
from ai4land_coupler.training.fit.throughput import measure
from ai4land_coupler.training.fit.train import Averaged, Trainer, network, run, train
from ai4land_coupler.training.fit.trainconfig import TrainConfig

CPU = torch.device("cpu")
ROLLOUT: dict[str, Any] = {"rollout": 2, "teacher": [1.0, 0.0], "prior_mask": [0.6, 0.0]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("train")
    small_store.build(path, climate=True)
    return path


def weights(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of the last checkpoint of a run."""
    state = checkpoints.load(checkpoints.paths(path / "work" / "checkpoints")[-1])
    moments = {f"{n}.{k}": v for n, entry in state["optimiser"]["state"].items() for k, v in entry.items()}
    nets = {f"{net}.{name}": value for net in ("net", "average") for name, value in state[net].items()}
    return nets | moments


def take(config: Path, last: int | None = None) -> None:
    """Train in this process, told to end after step `last`."""
    trainer = Trainer(TrainConfig.read(config), Team(), CPU)
    run(trainer, lambda: trainer.step == last)


def test_a_run_that_ended_goes_on_to_the_bit(folder: Path) -> None:
    whole = small_store.configure(folder, "whole", accumulate=2, batch=1, **ROLLOUT)
    broken = small_store.configure(folder, "broken", accumulate=2, batch=1, **ROLLOUT)
    take(whole)
    take(broken, last=3)
    assert [path.name for path in checkpoints.paths(folder / "broken" / "work" / "checkpoints")] == ["step-00000003.pt"]
    take(broken)
    a, b = weights(folder / "whole"), weights(folder / "broken")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    steps = [entry["step"] for entry in json.loads((folder / "broken" / "work" / "log.json").read_text())]
    assert steps == sorted(steps)
    assert list((folder / "broken" / "work" / "tensorboard").glob("events*"))
    other = small_store.configure(folder, "other", accumulate=2, batch=1, seed=2, **ROLLOUT)
    take(other)
    c = weights(folder / "other")
    assert not torch.equal(a["net.stem.weight"], c["net.stem.weight"])


def test_two_processes_equal_one_with_the_doubled_batch(folder: Path) -> None:
    common = ROLLOUT | {"steps": 3, "precision": "float64", "validate_every": 2}
    one = small_store.configure(folder, "one", batch=2, **common)
    two = small_store.configure(folder, "two", batch=1, **common)
    take(one)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, "-m", "ai4land_coupler", "train", str(two)], capture_output=True, text=True, timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    a, b = weights(folder / "one"), weights(folder / "two")
    for name in a:
        if a[name].is_floating_point() and name.startswith(("net.", "average.")):
            torch.testing.assert_close(a[name], b[name], rtol=1e-8, atol=1e-10, msg=name)
    logs = [json.loads((folder / name / "work/log.json").read_text()) for name in ("one", "two")]
    losses = [[values["loss"] for entry in log for values in entry.values() if values != entry["step"]] for log in logs]
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert Emulator.load(folder / "two/emulator").legend == Store.open(folder / "store.zarr").legend


def test_a_run_that_is_told_to_end_writes_a_checkpoint(folder: Path) -> None:
    config = small_store.configure(folder, "ended", steps=100000, workers=1, log_every=1)
    process = subprocess.Popen(
        [sys.executable, "-m", "ai4land_coupler", "train", str(config)],
        stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stderr is not None
    try:
        while "step 2" not in (line := process.stderr.readline()):
            assert line, "it ended by itself"
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 143, rest
    assert "goes on from it" in rest
    (path,) = checkpoints.paths(folder / "ended" / "work" / "checkpoints")
    assert checkpoints.load(path)["step"] >= 2


def test_a_component_steps_with_what_was_trained(folder: Path) -> None:
    config = small_store.configure(
        folder, "stepped", natives=None, prior=False, steps=4, validation_years=[2004, 2004], tile=40,
        checkpoint_every=1, keep=2,
    )  # fmt: skip
    assert train(config) == folder / "stepped/emulator"
    assert len(checkpoints.paths(folder / "stepped" / "work" / "checkpoints")) == 2
    emulator, store = Emulator.load(folder / "stepped/emulator"), Store.open(folder / "store.zarr")
    assert (emulator.base_year, emulator.unet.climate_classes) == (2003, 30)
    assert (emulator.base_map() == store.classes(3, slice(0, 80), np.arange(160))).all()
    seen = StaticFeatures(emulator).window(0, 0, 80, 160)
    held = store.static(slice(0, 80), np.arange(160)).astype(np.float32)
    assert np.abs(seen[:-1] - held).max() < 2e-3 * np.abs(held).max()
    assert (seen[-1] == store.climate(slice(0, 80), np.arange(160))).all()
    state = np.random.default_rng(1).dirichlet(np.ones(4), 128).T
    with Component.init(Config(emulator=str(folder / "stepped/emulator")), MPI.COMM_SELF) as land:
        land.set_grid(coarse_cells())
        land.step(2004, dict(zip(emulator.legend, state, strict=True)))
        p, area = np.stack([land.get("fine", name) for name in emulator.legend]), land.get("fine", "area")
        row, col = ((land.get("fine", name) + start) // 22.5 for name, start in (("lat", 90), ("lon", 180)))
    host = (16 * row + col).astype(int)
    total = np.bincount(host, area, 128)
    for k in range(4):
        mean = np.bincount(host, p[k] * area, 128)[total > 0] / total[total > 0]
        assert np.abs(mean - state[k][total > 0]).max() < 1e-12
    assert p.std(1).min() > 0.05


def coarse_cells() -> HostGrid:
    """The coarse cells of the small store, 22.5 degrees wide."""
    south, west = (
        x.ravel() for x in np.meshgrid(-90 + 22.5 * np.arange(8), -180 + 22.5 * np.arange(16), indexing="ij")
    )
    lon, lat = (
        np.stack([west, west + 22.5, west + 22.5, west], 1),
        np.stack([south, south, south + 22.5, south + 22.5], 1),
    )
    return HostGrid(np.arange(1, south.size + 1), lon, lat, np.ones(south.size))


def test_a_store_that_is_no_globe_gives_weights_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layout = Layout(("a", "b"), (40, 40), 10, (2001,), kind="projected", channels=(Channel("height"),))
    static = rng.normal(size=(1, 40, 40)).astype(np.float16)
    write_store(tmp_path / "store.zarr", layout, rng.integers(1, 3, (1, 40, 40)).astype(np.uint8), static)
    config = small_store.configure(tmp_path, natives=None, withheld=[], steps=2)
    train(config)
    found = yaml.safe_load((tmp_path / "run/emulator/network.yaml").read_text())
    assert (found["legend"], found["store"]["grid"]["kind"], found["unet"]["prior"]) == (["a", "b"], "projected", False)
    assert (tmp_path / "run/emulator/weights.safetensors").is_file()


def test_what_cannot_go_well_is_said_before(folder: Path, tmp_path: Path) -> None:
    store = Store.open(folder / "store.zarr")
    assert tile_of(TrainConfig.read(small_store.configure(folder, "a")), store) == 80
    for entries, what in (({"tile": 60}, "tile"), ({"halo": 40}, "halo"), ({"natives": "nowhere"}, "statics.nc")):
        with pytest.raises(ConfigError, match=what):
            check(TrainConfig.read(small_store.configure(folder, "a", **entries)))
    work = tmp_path / "checkpoints"
    checkpoints.save(work, 3, {"step": 3}, 2)
    path = checkpoints.paths(work)[-1]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RestartError, match="step-00000003"):
        checkpoints.load(path)


def test_a_loss_that_is_not_finite_ends_the_run(folder: Path) -> None:
    config = small_store.configure(folder, "burst", log_every=1)
    trainer = Trainer(TrainConfig.read(config), Team(), CPU)
    trainer.net.head.weight.data.fill_(torch.inf)
    with pytest.raises(BadInputError, match="not finite"):
        run(trainer, lambda: False)
    assert not checkpoints.paths(trainer.folder)


def test_the_pace_of_reading_is_taken_in_turns_with_memory(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = small_store.configure(folder, "pace", steps=20, accumulate=2)
    with caplog.at_level(logging.INFO, "ai4land_coupler"):
        ratio = measure(path, rounds=2, steps=2)
    told = [record.args for record in caplog.records if "as read" in record.msg]
    assert len(told) == 2
    for read, memory, share, *_ in told:  # samples a second, and the ratio of the seconds
        assert share == pytest.approx(read / memory)
    assert min(args[2] for args in told) <= ratio <= max(args[2] for args in told)
    end = caplog.records[-1].args
    assert isinstance(end, tuple)
    assert 0 < end[2] < 1  # seconds a sample
    assert not (folder / "pace").exists()


def test_averaged_weights_by_hand(folder: Path) -> None:
    config = TrainConfig.read(small_store.configure(folder, "a"))
    net = network(config, Samples(config, Team()))
    average, start = Averaged(net, 0.5), float(net.head.bias.detach()[0])
    other = copy.deepcopy(net)
    expected = start
    for step, value in enumerate((1.0, 3.0, 7.0), start=1):
        other.head.bias.data.fill_(value)
        average.update(other, step)
        kept = min(0.5, step / (9 + step)) if step > 1 else 0.0
        expected = kept * expected + (1 - kept) * value
    assert float(average.net.head.bias[0]) == pytest.approx(expected, rel=1e-6)
