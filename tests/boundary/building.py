"""How the boundary tests run compilers, and where the hosts lie."""

import subprocess
from collections.abc import Callable
from pathlib import Path

HOSTS = Path(__file__).parent / "hosts"
Compile = Callable[..., Path]


def run(*command: str | Path, **options: object) -> str:
    """Run a command to its end and return what it printed; its whole output where it fails."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=300, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
