"""C's random numbers, which a host may draw: what runs inside `own_draws` draws from a sequence of its own."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_SIZE = 128
_state = ctypes.create_string_buffer(_SIZE)
_seeded = False


@contextmanager
def own_draws() -> Iterator[None]:
    """Keep the host's rand() where it is. ESMF makes names for its objects of it."""
    global _seeded
    libc = ctypes.CDLL(None)
    libc.initstate.restype = libc.setstate.restype = ctypes.c_void_p
    libc.initstate.argtypes = ctypes.c_uint, ctypes.c_void_p, ctypes.c_size_t
    libc.setstate.argtypes = (ctypes.c_void_p,)
    before = libc.setstate(_state) if _seeded else libc.initstate(1, _state, _SIZE)
    _seeded = True
    try:
        yield
    finally:
        libc.setstate(before)
