"""How the boundary tests run compilers, and where the hosts lie."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from mpi import ROOT

HOSTS = Path(__file__).parent / "hosts"
Compile = Callable[..., Path]


def run(*command: str | Path, **options: object) -> str:
    """Run a command to its end and return what it printed; its whole output where it fails."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=300, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def declared(header: str, prefix: str = "ai4land_") -> list[str]:
    """Names of the functions that a header of bindings/ declares, without the prefix."""
    code = re.sub(r"/\*.*?\*/", "", (ROOT / "bindings" / header).read_text(), flags=re.DOTALL)
    return re.findall(rf"\bint {prefix}(\w+)\(", code)
