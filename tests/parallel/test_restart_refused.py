"""What a restart belongs to: runs of other kinds are refused, both sides named, and nothing is lost in between."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import small_emulator
import yaml
from mpi4py import MPI
from safetensors.torch import load_file, save_file

from ai4land_coupler.component import Component
from ai4land_coupler.config import Config, ConstraintConfig, RestartConfig
from ai4land_coupler.emulator import sha256_of
from ai4land_coupler.errors import BadInputError, RestartError, TimeOrderError
from ai4land_coupler.grids import HostGrid, RegularGrid
from ai4land_coupler.restart import IDENTITY, Restart

LEGEND = small_emulator.LEGEND
ALIKE = {name: f"this {name}" for name in IDENTITY}


def host(land: float = 0.7) -> HostGrid:
    """16 coarse cells."""
    grid = RegularGrid(8, 16)
    row, column = (x.ravel() for x in np.meshgrid(np.arange(4, 8), np.arange(8, 12), indexing="ij"))
    cells = row * grid.nlon + column
    return HostGrid(cells + 1, *grid.corners(cells), np.full(cells.size, land))


def state(year: int) -> dict[str, np.ndarray]:
    raw = np.stack([2 + np.sin(np.arange(16) * (k + 1) + year) for k in range(len(LEGEND))])
    return dict(zip(LEGEND, raw / raw.sum(axis=0), strict=True))


def bad(year: int) -> dict[str, np.ndarray]:
    return state(year) | {LEGEND[0]: np.full(16, np.nan)}


def begun(emulator: Path, grid: HostGrid | None = None, **config: object) -> Component:
    land = Component.init(Config(emulator=str(emulator), **config), MPI.COMM_SELF)
    land.set_grid(grid or host())
    return land


def fields(land: Component) -> list[bytes]:
    return [land.get(grid, name).tobytes() for grid in ("fine", "host") for name in (*LEGEND, "year")]


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_emulator.build(tmp_path_factory.mktemp("emulator") / "one", coarse=(8, 16))


@pytest.fixture(scope="module")
def kept(emulator: Path) -> Path:
    path = emulator.with_name("restart.nc")
    with begun(emulator) as land:
        land.step(2001, state(2001))
        land.write_restart(path)
    return path


@pytest.fixture(scope="module")
def trained_on(emulator: Path) -> Path:
    """The same emulator after more training: other weights, and what the description says of them."""
    folder = Path(shutil.copytree(emulator, emulator.with_name("trained")))
    weights = load_file(folder / "weights.safetensors")
    save_file({name: value.flip(0).contiguous() for name, value in weights.items()}, folder / "weights.safetensors")
    (folder / "training_record.json").write_text(json.dumps({"note": "more of it"}))
    description = yaml.safe_load((folder / "emulator.yaml").read_text())
    for name in ("weights.safetensors", "training_record.json"):
        description["sha256"][name] = sha256_of(folder / name)
    description["training"] = {"note": "more of it"}
    (folder / "emulator.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
    return folder


@pytest.mark.parametrize("key", IDENTITY)
def test_each_part_of_what_it_belongs_to_is_named_on_both_sides(tmp_path: Path, key: str) -> None:
    path, other = tmp_path / "r.nc", ALIKE | {key: "something else"}
    Restart(2001, np.ones((2, 3)), "d", 2001, None, ALIKE, {}).write(path)
    with pytest.raises(RestartError, match=f"another {key}: it has this {key}, this run has something else"):
        Restart.read(path, other, allow_other_weights=False)
    if key == "weights":
        assert Restart.read(path, other, allow_other_weights=True).year == 2001
    else:
        with pytest.raises(RestartError, match=f"another {key}"):
            Restart.read(path, other, allow_other_weights=True)


def test_other_cells_and_another_constraint_are_refused(emulator: Path, kept: Path) -> None:
    with begun(emulator, host(0.6)) as land:
        with pytest.raises(RestartError, match=f"another host_grid: it has [0-9a-f]+, this run has {grid_of(land)}"):
            land.read_restart(kept)
        land.step(2001, state(2001))
    with begun(emulator, constraint=ConstraintConfig(mode="none")) as land:  # noqa: SIM117
        with pytest.raises(RestartError, match="another constraint: it has level, this run has none"):
            land.read_restart(kept)


def grid_of(land: Component) -> str:
    return land._gridded().domain.hosts.fingerprint


def test_other_weights_are_refused_as_such_unless_they_are_allowed(
    emulator: Path, kept: Path, trained_on: Path
) -> None:
    words = f"another weights: it has {sha256_of(emulator / 'weights.safetensors')}, this run has "
    with begun(trained_on) as land, pytest.raises(RestartError, match=words + land.emulator.weights_hash):
        land.read_restart(kept)
    with begun(trained_on, restart=RestartConfig(allow_other_weights=True)) as land:
        land.read_restart(kept)
        served = fields(land)
        land.step(2002, state(2002))
    with begun(trained_on) as land:
        land.step(2001, state(2001))
        assert fields(land) == served


def test_another_emulator_is_refused_even_where_other_weights_are_allowed(emulator: Path, kept: Path) -> None:
    other = small_emulator.build(emulator.with_name("other"), seed=2, coarse=(8, 16))
    with begun(other, restart=RestartConfig(allow_other_weights=True)) as land:  # noqa: SIM117
        with pytest.raises(RestartError, match=f"another emulator: it has small [0-9a-f]+, .* {land.emulator.hash}"):
            land.read_restart(kept)


@pytest.mark.parametrize("lag", [0, 1])
def test_a_held_year_goes_through_a_restart(emulator: Path, tmp_path: Path, lag: int) -> None:
    """The fields held, the year that was refused and the right to hold again; what follows is as without the stop."""
    path = tmp_path / "r.nc"
    with begun(emulator, on_bad_input="hold", lag=lag) as land:
        for year in (2001, 2002):
            land.step(year, state(year))
        land.step(2003, bad(2003))
        assert land.held
        land.write_restart(path)
        before = fields(land)
        land.step(2004, bad(2004))
        land.step(2005, state(2005))
        land.step(2006, state(2006))
        after = fields(land)
    with begun(emulator, on_bad_input="hold", lag=lag) as land:
        land.read_restart(path)
        assert fields(land) == before
        with pytest.raises(TimeOrderError, match="after 2003"):
            land.step(2003, state(2003))
        land.step(2004, bad(2004))
        assert land.held
        assert fields(land) == before
        land.step(2005, state(2005))
        land.step(2006, state(2006))
        assert not land.held
        assert fields(land) == after
    with begun(emulator) as land:
        land.read_restart(path)
        with pytest.raises(BadInputError):
            land.step(2004, bad(2004))
        assert fields(land) == before
