"""`ai4land selfcheck` from the command line, as a user runs it; and with a run that is not like the others."""

import subprocess
import sys
from pathlib import Path

import pytest
import small_emulator
from mpi import environment, launcher

from ai4land_coupler.device import choose_precision

GRID = ("--grid", "latlon:22.5")


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_emulator.build(tmp_path_factory.mktemp("emulator"), coarse=(8, 16))


def selfcheck(emulator: Path, folder: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ai4land_coupler", "selfcheck", *GRID, "--emulator", emulator, *options]
    return subprocess.run(
        [str(word) for word in command], env=environment(COLUMNS="300"), cwd=folder, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


def test_every_run_has_the_same_bits(emulator: Path, tmp_path: Path) -> None:
    done = selfcheck(emulator, tmp_path, "--ranks", "1,2")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if " ok " in line]
    assert len(rows) == 2 * len(small_emulator.LEGEND) + 6 + 2
    assert "8 of 8: 1 rank, random, lag 1, after a restart of 2 ranks, bands, lag 1" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_in_another_precision_is_named(emulator: Path, tmp_path: Path) -> None:
    """The launcher is a script that changes the precision of what runs on one of two ranks."""
    script = tmp_path / "launch.sh"
    other = {"float32": "bfloat16", "bfloat16": "float32"}[choose_precision("auto")]
    script.write_text(
        "n=$1; shift; for job; do :; done\n"
        f'if [ "$n" = 2 ]; then sed -i "s/precision: auto/precision: {other}/" "$job"; fi\n'
        f'exec {" ".join(launcher())} -n "$n" "$@"\n'
    )
    (tmp_path / "room").mkdir()
    done = selfcheck(emulator, tmp_path / "room", "--ranks", "1", "--lag", "0", "--launcher", f"sh {script} {{n}}")
    assert done.returncode == 1, done.stdout + done.stderr
    row = {line.split("│")[1].strip(): line.split("│")[3].strip() for line in done.stdout.splitlines() if "│" in line}
    assert row["fine forest"] == "1 of 2 ranks, random (2001); 1 of 2 ranks, random (2002)"
    assert row["fine lon"] == row["fine filled"] == "ok"
