"""Runs programs under the real mpirun, always with a time limit, so that a hang fails instead of blocking."""

import functools
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def mpirun(
    n: int, *cmd: str | Path, timeout: float = 120.0, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `cmd` on `n` ranks with one thread each and return what it wrote and its exit status.

    `env` is added to this process's environment. Raises AssertionError, with the output so far, after `timeout` s.
    """
    command = [*launcher(), "-n", str(n), *map(str, cmd)]
    process = subprocess.Popen(
        command,
        env=environment(**(env or {})),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"{command} did not end within {timeout} s\n{out}\n{err}") from None
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def environment(**extra: str) -> dict[str, str]:
    """This environment for a child: the checkout importable, one thread a rank, mpirun allowed to root."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_mpi_yield_when_idle": "1",
        **extra,
    }


@functools.cache
def launcher() -> tuple[str, ...]:
    program = shutil.which("mpirun")
    assert program, "mpirun is not on PATH: install openmpi-bin"
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    if "Open MPI" in version or "open-mpi" in version:
        return (program, "--oversubscribe", "--bind-to", "none")
    return (program,)
