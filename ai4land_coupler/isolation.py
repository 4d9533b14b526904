"""Loads the wheels' bundled libraries beside a host that brings its own netCDF, HDF5 and BLAS.

A wheel's library asks the whole process for its symbols, and the host's libraries come first: netCDF4's own HDF5 2
would end up calling the host's HDF5 1.10, and torch the host's sgemm. RTLD_DEEPBIND makes each ask its own first.
"""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

BUNDLING = ("numpy", "torch", "netCDF4", "safetensors.torch")
"""Modules whose wheels bring libraries that climate models link too."""


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
    """Import every module that bundles libraries, so that no later import has to think of it.

    What an import adds to the environment is taken back: netCDF4 sets HDF5_PLUGIN_PATH, where the host's HDF5 would
    then look for filters.
    """
    before = set(os.environ)
    with deepbind():
        for name in BUNDLING:
            importlib.import_module(name)
    for name in set(os.environ) - before:
        del os.environ[name]
