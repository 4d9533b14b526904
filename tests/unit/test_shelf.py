"""Memory that is lent: who has it keeps it, and it is used again once nobody does."""

import gc

import numpy as np

from ai4land_coupler.shelf import Shelf

SHAPES = [(2, 3), (2, 0), (2, 5)]


def where(arrays: list[np.ndarray]) -> int:
    return arrays[0].__array_interface__["data"][0]


def test_arrays_stand_apart_in_one_block() -> None:
    arrays = Shelf().lend(SHAPES)
    assert [part.shape for part in arrays] == SHAPES
    for number, part in enumerate(arrays):
        part[...] = number
    assert [part.tolist() for part in arrays] == [[[0.0] * 3] * 2, [[], []], [[2.0] * 5] * 2]
    assert where(arrays[2:]) - where(arrays) == 6 * 8
    assert all(part.flags.c_contiguous and type(part) is np.ndarray for part in arrays)


def test_a_block_is_lent_again_once_no_array_on_it_is_left() -> None:
    shelf = Shelf()
    first = shelf.lend(SHAPES)
    place, last = where(first), first[2][0, 1:].view(np.uint64)
    del first
    gc.collect()
    second = shelf.lend(SHAPES)
    assert where(second) != place, "a part of a part is still there"
    del last
    gc.collect()
    assert where(shelf.lend(SHAPES)) == place


def test_blocks_of_another_size_are_not_kept() -> None:
    shelf = Shelf()
    for shapes in (SHAPES, [(1, 4)], SHAPES):
        assert [part.shape for part in shelf.lend(shapes)] == list(shapes)
    assert len(shelf._free) <= 1


def test_one_block_waits_at_most() -> None:
    shelf = Shelf()
    several = [shelf.lend(SHAPES) for _ in range(3)]
    several.clear()
    gc.collect()
    assert len(shelf._free) == 1
    assert shelf.lend([]) == []
