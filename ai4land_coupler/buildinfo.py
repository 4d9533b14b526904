"""What a compiler needs to know to build a host against this environment's libai4land_coupler."""

import sys
from pathlib import Path

from ai4land_coupler.errors import UsageError

KINDS = ("cflags", "fflags", "libs")


def flags(kind: str, prefix: "Path | str" = sys.prefix) -> str:
    """Compiler or linker flags for the library installed under `prefix`, by default the running environment.

    kind: "cflags" for C and C++, "fflags" for Fortran, "libs" to link either, with the place of the library built in.
    Raises UsageError where the library was not built or `kind` is another one.
    """
    root = Path(prefix)
    include, lib = root / "include", root / "lib"
    if not (include / "ai4land_coupler.h").exists() or not (lib / "libai4land_coupler.so").exists():
        raise UsageError(
            f"libai4land_coupler is not built in {root}; in a checkout of ai4land_coupler: cmake -S fortran_shim -B build "
            f"-DCMAKE_INSTALL_PREFIX={root} -DPython={sys.executable} && cmake --build build && cmake --install build"
        )
    known = {
        "cflags": f"-I{include}",
        "fflags": f"-I{include / 'ai4land_coupler'}",
        "libs": f"-L{lib} -lai4land_coupler_fortran -lai4land_coupler -Wl,-rpath,{lib}",
    }
    if kind not in known:
        raise UsageError(f"unknown kind of flags {kind!r}; known are {', '.join(KINDS)}")
    return known[kind]
