"""Emulator folders: what loads, and what is refused with which message."""

from pathlib import Path

import numpy as np
import pytest
import small_emulator
import torch
import yaml

from ai4land_coupler.emulator import Emulator, sha256_of
from ai4land_coupler.errors import EmulatorError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_emulator.build(tmp_path / "small")


def edit(folder: Path, **entries: object) -> None:
    description = yaml.safe_load((folder / "emulator.yaml").read_text())
    (folder / "emulator.yaml").write_text(yaml.safe_dump(description | entries, sort_keys=False))


def test_a_folder_loads(folder: Path) -> None:
    emulator = Emulator.load(folder)
    assert emulator.legend == small_emulator.LEGEND
    assert emulator.hash == sha256_of(folder / "emulator.yaml")
    assert emulator.weights_hash == sha256_of(folder / "weights.safetensors")
    classes = emulator.base_map()
    assert classes.shape == (emulator.fine.nlat, emulator.fine.nlon)
    assert classes is emulator.base_map()
    with pytest.raises(ValueError, match="read-only"):
        classes[0, 0] = 1


def test_the_network_gives_float32_logits_in_either_precision(folder: Path) -> None:
    emulator = Emulator.load(folder)
    x = torch.rand(1, emulator.unet.static_channels + emulator.unet.classes, 48, 48)
    with torch.inference_mode():
        exact, short = (emulator.network("cpu", precision)(x) for precision in ("float32", "bfloat16"))
    assert exact.shape == (1, len(emulator.legend), 48, 48)
    assert exact.dtype == short.dtype == torch.float32
    assert 0 < float((exact - short).abs().max()) < 0.2 * float(exact.abs().max())


@pytest.mark.parametrize("name", ["weights.safetensors", "statics.nc", "base_map.nc", "training_record.json"])
def test_a_changed_file_is_refused_with_both_hashes(folder: Path, name: str) -> None:
    expected = sha256_of(folder / name)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(EmulatorError, match=f"{name}.*{expected}.*{sha256_of(folder / name)}"):
        Emulator.load(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "statics.nc").unlink()
    with pytest.raises(EmulatorError, match=r"statics\.nc is missing"):
        Emulator.load(folder)


def test_unreadable_yaml_is_refused(folder: Path) -> None:
    (folder / "emulator.yaml").write_text("legend: [forest\n")
    with pytest.raises(EmulatorError, match="is not YAML"):
        Emulator.load(folder)


def test_a_name_that_is_nothing_lists_what_ships() -> None:
    with pytest.raises(EmulatorError, match="neither a folder nor shipped"):
        Emulator.load("no-such-emulator")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"tile": 45}, "tile 45"),
        ({"halo": 40}, "halo"),
        ({"legend": ["forest", "forest", "cropland", "barren"]}, "distinct classes"),
        ({"statics": [{"name": "height"}]}, "static channels"),
        ({"fine": {"nlat": 160}}, "nlon"),
        ({"sha256": {}}, "no sha256 of"),
    ],
)
def test_inconsistent_descriptions_are_refused(folder: Path, entries: dict[str, object], message: str) -> None:
    edit(folder, **entries)
    with pytest.raises(EmulatorError, match=message):
        Emulator.load(folder)


def test_base_map_must_fit_the_legend(folder: Path) -> None:
    emulator = Emulator.load(small_emulator.build(folder.parent / "more", (*small_emulator.LEGEND, "urban")))
    assert np.unique(emulator.base_map()).tolist() == [0, 1, 2, 3, 4, 5]
