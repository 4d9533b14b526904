"""Says how `ai4land_coupler._kernel` is compiled; setup.py hands it to setuptools."""

from pathlib import Path

import cffi

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FLAGS = ["-std=c11", "-O3", "-fno-wrapv", "-ffp-contract=off", "-fvisibility=hidden"]
"""Nothing is fused: the bits do not depend on who compiled it. A host's functions of the same names stay its own.

Python's own flags have -fwrapv, which this code does not need and which costs a regrid a third of its time.
"""


def _declarations() -> str:
    text = (HERE / "kernel.h").read_text()
    kept = [line for line in text.splitlines() if not line.startswith("#") or line.startswith("#define KERNEL")]
    return "\n".join(line.partition(" /*")[0] if line.startswith("#") else line for line in kept)


builder = cffi.FFI()
builder.cdef(_declarations())
builder.set_source(
    "ai4land_coupler._kernel",
    '#include "kernel.h"',
    sources=[str(path.relative_to(ROOT)) for path in sorted(HERE.glob("*.c"))],
    include_dirs=[str(HERE.relative_to(ROOT))],
    depends=[str(path.relative_to(ROOT)) for path in sorted(HERE.glob("*.h"))],
    extra_compile_args=FLAGS,
    libraries=["m"],
    optional=True,  # without a compiler numpy serves
)
