"""What a compiler needs to know to build a host against this environment's libai4land_coupler."""

import sys
from pathlib import Path

from ai4land_coupler.errors import UsageError


def flags(cflags: bool = False, fflags: bool = False, libs: bool = False, prefix: "Path | str | None" = None) -> str:
    """Flags for a C or C++ compiler, for a Fortran compiler and for the linker, on one line.

    `libs` carries the run path, so that the host finds the library where it is installed: under `prefix`, by default
    the running environment. Raises UsageError where it was not built, or where nothing is asked for.
    """
    root = Path(prefix or sys.prefix)
    include, lib = root / "include", root / "lib"
    if not (include / "ai4land_coupler.h").exists() or not (lib / "libai4land_coupler.so").exists():
        raise UsageError(
            f"libai4land_coupler is not built in {root}; in a checkout of ai4land_coupler run: cmake -S fortran_shim "
            f"-B build -DCMAKE_INSTALL_PREFIX={root} -DPython={sys.executable} && cmake --build build && "
            "cmake --install build"
        )
    asked = (
        (cflags, f"-I{include}"),
        (fflags, f"-I{include / 'ai4land_coupler'}"),
        (libs, f"-L{lib} -lai4land_coupler_fortran -lai4land_coupler -Wl,-rpath,{lib}"),
    )
    if not (cflags or fflags or libs):
        raise UsageError("say which flags: --cflags, --fflags, --libs")
    return " ".join(text for wanted, text in asked if wanted)
