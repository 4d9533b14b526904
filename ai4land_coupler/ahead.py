"""A year refined in a thread of its own while the host integrates. Nothing that runs here calls MPI."""

import signal
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Runs a function in a thread; signals stay with the host's threads."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._made: T | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ai4land ahead")
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._thread.start()  # inherits the mask
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _run(self) -> None:
        try:
            self._made = self._work()
        except BaseException as error:  # raised again where the host asks for the result
            self._error = error

    def wait(self) -> None:
        """Return when the function has ended, however it did."""
        self._thread.join()

    def result(self) -> T:
        """Wait for what the function returned; raises what it raised."""
        self.wait()
        if self._error is not None:
            raise self._error
        return self._made  # type: ignore[return-value]
