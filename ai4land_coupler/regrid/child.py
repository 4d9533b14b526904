"""Run a Python module in a process of its own, beside a host that may be inside MPI.

The child is started by posix_spawn (a fork would copy the memory of a process that has MPI, GPUs and threads), sees
neither the host's open files nor its MPI job, and has a time limit.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from ai4land_coupler.errors import RegridError

NO_LIBRARY = 3
"""Exit status of a child that cannot import the library it is for."""

_JOB_VARIABLES = (
    *("OMPI_", "PMIX_", "PMI_", "PMI2_", "PRTE_", "MPI_", "MPICH_", "MPIR_", "HYDRA_", "HYDI_", "I_MPI_", "MV2_"),
    *("SLURM_", "SLURMD_", "PBS_", "LSB_", "LSF_", "COBALT_", "FLUX_", "ALPS_", "PALS_", "UCX_"),
)
Action = tuple[int, ...] | tuple[int, int, str, int, int]

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


def interpreter() -> str:
    """Path of the environment's Python; in an embedded interpreter sys.executable is the host program.

    AI4LAND_PYTHON goes first, then bin/python3 of sys.prefix, then sys.executable where it is a Python.
    Raises RegridError where there is none.
    """
    given = os.environ.get("AI4LAND_PYTHON")
    if given:
        if os.access(given, os.X_OK):
            return given
        raise RegridError(f"AI4LAND_PYTHON={given} is not a program; set it to the environment's python3")
    tried = [Path(sys.prefix, "bin", name) for name in ("python3", "python")]
    if sys.executable and Path(sys.executable).name.startswith("python"):
        tried.append(Path(sys.executable))
    for path in tried:
        if os.access(path, os.X_OK):
            return str(path)
    raise RegridError(f"no Python interpreter found at {', '.join(map(str, tried))}; set AI4LAND_PYTHON to it")


def environment() -> dict[str, str]:
    """The environment of a child: this one without its MPI job, one thread, the same modules to import.

    Where AI4LAND_PYTHON names another interpreter, that one's own modules and this package.
    """
    scrubbed = {k: v for k, v in os.environ.items() if not k.startswith(_JOB_VARIABLES)}
    own = [] if "AI4LAND_PYTHON" in os.environ else [p for p in sys.path if p]
    scrubbed |= {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys([str(_PACKAGE_ROOT), *own])),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMPI_MCA_ess_singleton_isolated": "1",  # Open MPI: start no daemon beside a process without a job
        "OMPI_MCA_pml": "ob1",  # and leave the network cards alone
        "OMPI_MCA_btl": "self",
    }
    return scrubbed


def run_module(module: str, arguments: list[str], log: Path, limit: float) -> int:
    """Run `python -m module arguments`, stdout and stderr to `log`; the exit status, negative for a signal.

    Raises TimeoutError after `limit` seconds (the child is killed), OSError where it cannot be started.
    """
    opened: list[Action] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return wait(_spawn(module, arguments, opened, []), limit)


def start_module(module: str, arguments: list[str], files: tuple[int, int, int]) -> int:
    """Start `python -m module arguments` with these three files, above 2, in place of stdin, stdout and stderr.

    Its process id, to be given to `wait`. It hears no signal that can be blocked: they are meant for the host. Raises
    OSError where it cannot be started.
    """
    given: list[Action] = [(os.POSIX_SPAWN_DUP2, fd, at) for at, fd in enumerate(files)]
    return _spawn(module, arguments, given, signal.valid_signals())


def _spawn(module: str, arguments: list[str], files: list[Action], blocked: Iterable[int]) -> int:
    python = interpreter()
    return os.posix_spawn(
        python,
        [python, "-P", "-m", module, *arguments],
        environment(),
        file_actions=[*files, *((os.POSIX_SPAWN_CLOSE, fd) for fd in _open_files())],
        setsigmask=blocked,
        setsigdef=[s for s in signal.valid_signals() if s not in (signal.SIGKILL, signal.SIGSTOP)],
    )


def _open_files() -> list[int]:
    """Descriptors above stderr that a child would inherit."""
    try:
        found = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return []
    return [fd for fd in found if fd > 2 and _inherited(fd)]


def _inherited(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


def wait(child: int, limit: float) -> int:
    """The exit status of a process that was started, negative for a signal; TimeoutError, once it is killed."""
    deadline = time.monotonic() + limit
    pause = 0.002
    while True:
        try:
            done, status = os.waitpid(child, os.WNOHANG)
        except ChildProcessError:  # the host ignores SIGCHLD, and the system has taken the status: the caller sees
            return 0  # by the result whether it went well
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)
            raise TimeoutError(f"no answer within {limit:.0f} s")
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
