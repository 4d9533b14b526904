"""Writes the C source that embeds Python in libai4land_coupler: `python embedding.py OUTPUT.c`."""

import sys
from pathlib import Path

import cffi

START = """
import sys
from ai4land_embedding import ffi, lib
try:
    import mpi4py
    mpi4py.rc.initialize = mpi4py.rc.finalize = False  # MPI is the host's
    from ai4land_coupler import isolation
    isolation.load()
    from ai4land_coupler import capi
    capi.attach(ffi, lib)
except BaseException as error:
    text = f"{type(error).__name__}: {error} (interpreter {sys.executable}, packages of {sys.prefix})"
    lib.python_refuse(text.encode(errors="replace"))
"""

SOURCE = """
#include <stdint.h>
#include "ai4land_coupler.h"
#include "desk.h"
#include "internal.h"

/* cffi_start_python is static in this file */
int python_start_cffi(void) { return cffi_start_python(); }
"""


def _declarations(header: str) -> str:
    text = Path(__file__).with_name(header).read_text().partition("*/")[2]
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


def write(target: Path) -> None:
    """Generate the source of the module `ai4land_embedding` from the declarations in hooks.h and desk.h."""
    hooks, desk = _declarations("hooks.h"), _declarations("desk.h")
    builder = cffi.FFI()
    builder.embedding_api("")
    builder.cdef(f'extern "Python+C" {{ {hooks} }}\nvoid python_refuse(const char *reason);\n{desk}')
    builder.embedding_init_code(START)
    builder.set_source("ai4land_embedding", SOURCE)
    builder.emit_c_code(str(target))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} OUTPUT.c")
    write(Path(sys.argv[1]))
