"""The configuration says which key is wrong, and what was meant."""

from pathlib import Path

import pytest

from ai4land_coupler.config import Config
from ai4land_coupler.errors import ConfigError


def parse(text: str) -> Config:
    return Config.parse(text, Path("/run"))


def test_the_emulator_is_the_only_required_key() -> None:
    config = parse("emulator: igbp-0p05")
    assert (config.time, config.constraint.mode, config.workers.threads, config.output) == ("forward", "level", 1, None)
    with pytest.raises(ConfigError, match="`emulator` is required"):
        parse("time: forward")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("emulator: x\nregird: {}", "unknown key `regird`; did you mean `regrid`"),
        ("emulator: x\nstate: {tolerence: 1}", "unknown key `state.tolerence`; did you mean `tolerance`"),
        ("emulator: x\noutput: {foler: a, folder: b}", "did you mean `folder`"),
        ("emulator: x\nworkers: {threads: 0}", "workers.threads.*greater than or equal to 1, got 0"),
        ("emulator: x\ntime: sideways", "time: .*'forward' or 'backward'.*sideways"),
        ("emulator: x\nregrid: {engine: file}", "needs `file`"),
        ("emulator: x\ndevice: tpu", "device: .*'auto', 'cpu' or 'cuda'.*tpu"),
        ("emulator: x\nstate: {crosswalk: {a: {b: 0.5}}}", "shares of 'a' must be positive and sum to 1"),
        ("emulator: x\nstate: {crosswalk: {a: {b: x}}}", r"configuration: state\.crosswalk\.a\.b: .*valid number"),
        ("emulator: x\nstate: {crosswalk: 3}", r"configuration: state\.crosswalk: .*valid dictionary, got 3"),
        ("- emulator", "must be a mapping"),
        ("emulator: [", "not valid YAML"),
    ],
)
def test_refusals_name_the_key(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse(text)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("emulator: ./mine\noutput: {folder: out}\nregrid: {file: w.nc}\n")
    config = Config.load(tmp_path / "a.yaml")
    assert config.emulator == str(tmp_path / "mine")
    assert config.output is not None
    assert config.output.folder == tmp_path / "out"
    assert config.regrid.file == tmp_path / "w.nc"
    (tmp_path / "b.yaml").write_text("emulator: x\nstate: {crosswalk: mine.yaml}\n")
    assert Config.load(tmp_path / "b.yaml").state.crosswalk == str(tmp_path / "mine.yaml")
    assert parse("emulator: x\nstate: {crosswalk: luh2-igbp}").state.crosswalk == "luh2-igbp"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read"):
        Config.load(tmp_path / "nowhere.yaml")


def test_the_text_reads_back_as_the_same_configuration() -> None:
    config = parse("emulator: x\noutput: {folder: /out, fractions: [2019, 2021]}\nstate: {fraction_of: cell}")
    assert Config.parse(config.text(), Path("/elsewhere")) == config
