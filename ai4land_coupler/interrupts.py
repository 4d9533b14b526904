"""Python signal handlers of the host, kept from raising where the other ranks would then wait for this one."""

import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = tuple(sorted(signal.valid_signals()))
ACTION = 512
"""Bytes that hold a `struct sigaction` of any system."""

_libc = ctypes.CDLL(None)


class Interrupts:
    """Notes signals whose handlers are Python functions, and runs these at `deliver` and at the end.

    Handlers in C, and signals without one, are not touched: they act at once.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._waiting: list[int] = []
        self._held = False

    @contextmanager
    def held_back(self, wanted: bool) -> Iterator[None]:
        """Hold the handlers back in this block, where wanted, and run them after it."""
        if not wanted or self._held or threading.current_thread() is not threading.main_thread():
            yield
            return
        found = {number: signal.getsignal(number) for number in SIGNALS}
        self._handlers = {number: handler for number, handler in found.items() if callable(handler)}
        actions = {number: _action(number) for number in self._handlers}
        note = self._note
        self._held = True
        for number in self._handlers:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in self._handlers.items():
                if signal.getsignal(number) == note:  # else a handler has put another in its place
                    signal.signal(number, handler)
                    _libc.sigaction(number, actions[number], None)
            self._held = False
            self.deliver()

    def deliver(self) -> None:
        """Run the handlers of the signals that came since; what one raises is raised, and the others stay."""
        while self._waiting:
            number = self._waiting.pop(0)
            self._handlers[number](number, sys._getframe(1))

    def _note(self, number: int, _: FrameType | None) -> None:
        self._waiting.append(number)


def _action(number: int) -> Any:
    """What the system holds of a signal, its flags included, which Python does not show."""
    room = ctypes.create_string_buffer(ACTION)
    _libc.sigaction(number, None, room)
    return room
