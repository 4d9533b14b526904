"""Threads of the plugin's own: a year refined while the host integrates, tiles shared out. None of them calls MPI."""

import signal
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")


class Ahead(Generic[T]):
    """Runs a function in a thread, from `start` on; signals stay with the host's threads."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._made: list[T] = []
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin. Raises nothing: where no thread can be had, `result` says so."""
        try:
            thread = threading.Thread(target=self._run, name="ai4land ahead")
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                thread.start()  # inherits the mask
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self._thread = thread
        except Exception as error:
            self._error = error

    def _run(self) -> None:
        try:
            self._made.append(self._work())
        except BaseException as error:  # raised again where the host asks for the result
            self._error = error

    def wait(self) -> None:
        """Return when the function has ended, however it did."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def result(self) -> T:
        """What the function returned, once it has; raises what it raised, once: after that it is run again, here."""
        self.wait()
        if self._error is None and not self._made:
            self._run()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._made[0]


def side_by_side(
    work: Callable[[S], T], items: list[S], threads: int, done: Callable[[], None] | None = None
) -> list[T]:
    """work(item) of each item, by this thread and others, `threads` in all; raises the error of the first that has one.

    The items are taken out of their list, and each is dropped once it is done. `done` is called once an item, always by
    this thread; what it raises is raised before any other error.
    """
    rest, count, told = deque(enumerate(items)), len(items), 0
    items.clear()
    made: dict[int, T] = {}
    failed: dict[int, BaseException] = {}

    def tell() -> None:
        nonlocal told
        while done is not None and told < len(made):
            told += 1
            done()

    def take_turns(between: Callable[[], None]) -> None:
        while rest:
            try:
                i, item = rest.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                made[i] = work(item)
            except BaseException as error:
                rest.clear()
                failed[i] = error
            del item
            between()

    others = [Ahead(lambda: take_turns(lambda: None)) for _ in range(min(threads, count) - 1)]
    try:
        for other in others:
            other.start()
        take_turns(tell)
    finally:
        rest.clear()
        for other in others:
            other.wait()
    tell()
    if failed:
        raise failed[min(failed)]
    for other in others:
        other.result()
    return [made[i] for i in range(count)]
