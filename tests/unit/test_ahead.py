"""Work that several threads take from one list: every result in its place, and the error of the first that has one."""

import gc
import threading
import time
import weakref

import pytest

from ai4land_coupler.ahead import side_by_side


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_stand_in_the_order_of_the_items(threads: int) -> None:
    items = list(range(50))
    assert side_by_side(lambda x: x * x, items, threads) == [x * x for x in range(50)]
    assert items == []
    assert side_by_side(lambda x: x, list[int](), threads) == []


def test_as_many_threads_as_asked_for_work_at_a_time() -> None:
    """Each item waits for two others: fewer threads than three would never end, and the barrier says so."""
    together = threading.Barrier(3, timeout=20)
    side_by_side(lambda _: together.wait(), list(range(3)), 3)
    names = side_by_side(lambda _: (together.wait(), threading.current_thread().name), list(range(3)), 3)
    assert len({name for _, name in names}) <= 3
    assert any(name == threading.current_thread().name for _, name in names)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_error_of_the_first_item_that_has_one(threads: int) -> None:
    """Item 3 fails late, item 4 at once: where both are begun the first counts. What comes after is left alone.

    All of that would take a thread ten seconds.
    """
    done, late = [], threading.Event()

    def work(x: int) -> None:
        if x == 4:
            late.set()
        if x == 3:
            late.wait(0.5)
        if x in (3, 4):
            raise ValueError(x)
        if x > 4:
            time.sleep(0.002)
        done.append(x)

    with pytest.raises(ValueError, match=r"^3$"):
        side_by_side(work, list(range(5000)), threads)
    assert done == [0, 1, 2] if threads == 1 else len(done) < 2500


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_this_thread_is_told_of_each_item_that_is_done(threads: int) -> None:
    here, told = threading.current_thread(), list[threading.Thread]()
    side_by_side(lambda _: time.sleep(0.001), list(range(30)), threads, lambda: told.append(threading.current_thread()))
    assert told == [here] * 30


@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_raised_when_an_item_is_done_ends_the_rest(threads: int) -> None:
    before, done = threading.active_count(), list[int]()

    def work(x: int) -> None:
        time.sleep(0.001)
        done.append(x)

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        side_by_side(work, list(range(500)), threads, interrupted)
    assert len(done) < 10
    assert threading.active_count() == before


def test_an_item_is_dropped_once_it_is_done() -> None:
    class Large:
        pass

    items = [Large() for _ in range(6)]
    seen = [weakref.ref(item) for item in items]
    alive = []

    def work(item: Large) -> None:
        gc.collect()
        alive.append(sum(ref() is not None for ref in seen))

    side_by_side(work, items, 1)
    assert alive == [6, 5, 4, 3, 2, 1]
