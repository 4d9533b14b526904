"""The kept part of the network's first layer: the plain network's answer, whatever was asked for before."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import small_emulator
import torch
from torch.nn.functional import pixel_shuffle

from ai4land_coupler import kernel
from ai4land_coupler.ahead import Ahead, side_by_side
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.features import coarse_window
from ai4land_coupler.stem import Stem, _rectangles
from ai4land_coupler.unet import UNet

HALO, SIZE = 48, 136
FLOAT16 = 2.0**-11


@pytest.fixture(scope="module", params=[False, True])
def emulator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    return Emulator.load(small_emulator.build(tmp_path_factory.mktemp("emulator"), prior=request.param))


def given(emulator: Emulator, row: int, col: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Totals (K, 14, 14) around, and the prior map where the network has one."""
    rng = np.random.default_rng(1000 + row + col)
    totals = rng.random((4, 14, 14))
    prior = (rng.integers(0, 5, (1, SIZE, SIZE)) == np.arange(1, 5)[:, None, None]).astype(np.uint8)
    return totals / totals.sum(0), prior if emulator.unet.prior else None


@torch.inference_mode()
@pytest.mark.parametrize(("row", "col"), [(-48, -48), (32, 272), (72, 8)])
def test_what_the_plain_network_makes(emulator: Emulator, row: int, col: int) -> None:
    """Past the pole and over the date line too; the statics are kept to float16."""
    net = emulator.network()
    stem = Stem(emulator, net)
    totals, prior = given(emulator, row, col)
    found = stem.window((row, col), (SIZE, SIZE), totals, (2, 2), prior)
    parts = [stem._static.normalised(row, col, SIZE, SIZE), coarse_window(totals, 2, 2, SIZE, SIZE, 10)]
    x = torch.from_numpy(np.concatenate([*parts, *([] if prior is None else [prior])], dtype=np.float32))[None]
    plain = net.stem(net._seen(x))
    assert found.shape == plain.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    near = net.static_stem(x[:, : emulator.unet.static_channels]).abs()
    assert ((found - plain).abs() <= FLOAT16 * near + 1e-4).all()
    before = None if prior is None else torch.from_numpy(prior).float()[None]
    torch.testing.assert_close(pixel_shuffle(net.after_stem(plain, before), 2), net(x), rtol=0, atol=0)


@torch.inference_mode()
def test_the_same_bits_whatever_was_made_before(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window alone, after its neighbours, and without the kernel."""
    net, windows = emulator.network(), [(32, 40), (72, 0), (-48, 280), (32, 272)]
    alone, together = [], Stem(emulator, net)
    for at in windows:
        alone.append(Stem(emulator, net).window(at, (SIZE, SIZE), given(emulator, *at)[0], (2, 2)))
    for at, expected in zip(windows[::-1], alone[::-1], strict=True):
        assert torch.equal(together.window(at, (SIZE, SIZE), given(emulator, *at)[0], (2, 2)), expected)
    monkeypatch.setattr(kernel, "_module", None)
    for stem in together, Stem(emulator, net):
        again = stem.window(windows[0], (SIZE, SIZE), given(emulator, *windows[0])[0], (2, 2))
        assert torch.equal(again, alone[0])


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="this system does not list the threads of a process")
def test_threads_that_make_blocks_call_no_others(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that has just begun would start a team of OpenMP of its own, and both would wait for the processor."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    net, made, makers, begun = emulator.network(), UNet.stem_of_seen, set[int](), set[str]()
    large, weight = torch.rand(1, 16, 128, 128), torch.rand(16, 16, 3, 3)  # worth the work of several

    def watched(self: UNet, block: torch.Tensor) -> torch.Tensor:
        makers.add(threading.get_ident())
        before = set(os.listdir("/proc/self/task"))
        torch.conv2d(large, weight)
        begun.update(set(os.listdir("/proc/self/task")) - before)
        return made(self, block)

    monkeypatch.setattr(UNet, "stem_of_seen", watched)
    stem, barrier = Stem(emulator, net), threading.Barrier(2, timeout=30)

    def make(start: tuple[int, int]) -> None:
        barrier.wait()
        stem.prepare(start, (SIZE, SIZE))

    side_by_side(make, [(-48, 0), (72, 0)], 2)
    left = torch.get_num_threads()
    torch.set_num_threads(threads)
    assert len(makers) == 2
    assert not begun
    assert left == 2


def test_each_block_is_made_once_and_waited_for(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four threads come for windows that overlap; none leaves before all of its own is there."""
    net, made, count = emulator.network(), UNet.stem_of_seen, [0]
    windows = [((row, column), (SIZE, SIZE)) for row in (-48, 0, 32) for column in (0, 40)]
    alone = Stem(emulator, net)
    for window in windows:
        alone.prepare(*window)

    def slow(self: UNet, block: torch.Tensor) -> torch.Tensor:
        count[0] += 1
        time.sleep(0.001)
        return made(self, block)

    monkeypatch.setattr(UNet, "stem_of_seen", slow)
    stem = Stem(emulator, net)

    def make(window: tuple[tuple[int, int], tuple[int, int]]) -> bool:
        stem.prepare(*window)
        return bool((stem._address[stem._places(*stem._blocks(*window))] != 0).all())

    assert all(side_by_side(make, list(windows), 4))
    assert count[0] == np.count_nonzero(alone._address) == np.count_nonzero(stem._address)
    assert not (stem._claimed & (stem._address == 0)).any()


def test_what_one_thread_fails_to_make_the_next_one_makes(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, made = emulator.network(), UNet.stem_of_seen
    stem, failing = Stem(emulator, net), threading.Event()

    def first_fails(self: UNet, block: torch.Tensor) -> torch.Tensor:
        if not failing.is_set():
            failing.set()
            time.sleep(0.05)
            raise MemoryError
        return made(self, block)

    monkeypatch.setattr(UNet, "stem_of_seen", first_fails)
    first = Ahead(lambda: stem.prepare((0, 0), (SIZE, SIZE)))
    first.start()
    assert failing.wait(30)
    stem.prepare((0, 0), (SIZE, SIZE))
    first.wait()
    with pytest.raises(MemoryError):
        first.result()
    assert (stem._address[stem._places(*stem._blocks((0, 0), (SIZE, SIZE)))] != 0).all()


def test_what_was_claimed_by_nobody_who_is_left_is_made(emulator: Emulator) -> None:
    """As where a thread ran out of memory before it could give its claim back."""
    stem = Stem(emulator, emulator.network())
    stem._claimed[...] = True
    made = Ahead(lambda: stem.prepare((0, 0), (SIZE, SIZE)))
    made.start()
    assert made._thread is not None
    made._thread.join(60)
    assert not made._thread.is_alive()
    assert (stem._address[stem._places(*stem._blocks((0, 0), (SIZE, SIZE)))] != 0).all()


@torch.inference_mode()
def test_coarse_cells_of_an_odd_number_of_cells_are_seen_cell_by_cell(emulator: Emulator) -> None:
    """The two ways to what the fractions add agree where both can go."""
    stem = Stem(emulator, emulator.network())
    totals, _ = given(emulator, 0, 0)
    short = stem._of_totals(totals)
    cells = stem._network.moving_stem(torch.from_numpy(coarse_window(totals, 0, 0, 140, 140, 10))[None],
                                      torch.zeros(1, 4, 140, 140) if emulator.unet.prior else None)[0]  # fmt: skip
    np.testing.assert_allclose(cells.permute(1, 2, 0)[::5, ::5], short, rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (7, 5), (34, 34)])
def test_what_coarse_cells_add_is_summed_class_after_class(emulator: Emulator, size: tuple[int, int]) -> None:
    """To the bit, on windows of any size."""
    stem = Stem(emulator, emulator.network())
    totals = np.random.default_rng(3).dirichlet(np.ones(4), size).transpose(2, 0, 1)
    root, expected = np.sqrt(totals.astype(np.float32)), np.float32(0)
    for of_class, weight in zip(root, stem._moving, strict=True):
        expected = expected + of_class[:, :, None] * weight
    assert np.array_equal(stem._of_totals(totals), expected)


def test_rectangles_hold_what_is_lacking() -> None:
    known = [[True, True, True], [True, False, True], [True, False, True], [False, False, False]]
    assert list(_rectangles(known)) == [(1, 3, 1, 2), (3, 4, 0, 3)]
