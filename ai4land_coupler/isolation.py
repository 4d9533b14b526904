"""Loads the wheels' bundled libraries beside a host that brings its own netCDF, HDF5 and BLAS.

A wheel's library asks the whole process for its symbols, and the host's libraries come first: netCDF4's own HDF5 2
would end up calling the host's HDF5 1.10, and torch the host's sgemm. RTLD_DEEPBIND makes each ask its own first.
"""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

FIRST, LATER = ("numpy", "netCDF4"), ("torch", "safetensors.torch")
"""Modules whose wheels bring libraries that climate models link too; the later ones take a second or two."""

_apart = False


@contextmanager
def deepbind() -> Iterator[None]:
    """Load extension modules so that they prefer the libraries they were shipped with."""
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_NOW | getattr(os, "RTLD_DEEPBIND", 0))
    try:
        yield
    finally:
        sys.setdlopenflags(flags)


def load() -> None:
    """Import the first of the modules that bundle libraries, and have `load_torch` import the others in the same way.

    What an import adds to the environment is taken back: netCDF4 sets HDF5_PLUGIN_PATH, where the host's HDF5 would
    then look for filters.
    """
    global _apart
    _apart = True
    _import(FIRST)


def load_torch() -> None:
    """Import torch, beside the host's libraries where `load` was called; before anything else imports it."""
    _import(LATER)


def _import(names: tuple[str, ...]) -> None:
    before = set(os.environ)
    with deepbind() if _apart else nullcontext():
        for name in names:
            importlib.import_module(name)
    for name in set(os.environ) - before if _apart else ():
        del os.environ[name]
