"""The U-Net: how far it sees, that tiles do not matter to it, and that folding keeps its answer."""

import numpy as np
import pytest
import torch

from ai4land_coupler.unet import UNet
from ai4land_coupler.unetconfig import RECEPTIVE_FIELD, STRIDE, UNetConfig

CONFIG = UNetConfig(static_channels=12, classes=4, widths=(16, 32, 32))


def positive_network() -> UNet:
    """A network whose weights are all positive, so that a larger input reaches every output that depends on it."""
    torch.manual_seed(0)
    net = UNet(CONFIG).eval()
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(weight.abs() + 0.01)
    return net


def reach(net: UNet, row: int, col: int) -> int:
    """Largest distance, along either axis, from an input cell to an output that changes with it."""
    x = torch.ones(1, 16, 128, 128)
    changed = x.clone()
    changed[:, :, row, col] += 1e6
    with torch.inference_mode():
        differs = (net(x) != net(changed)).any(dim=1)[0].numpy()
    where = np.argwhere(differs)
    return int(np.abs(where - [row, col]).max())


def test_receptive_field_is_what_the_halo_must_cover() -> None:
    net = positive_network()
    farthest = max(reach(net, 64 + phase, 64 + phase) for phase in range(STRIDE))
    assert farthest == RECEPTIVE_FIELD
    assert farthest <= 48


def test_a_tile_with_halo_equals_the_whole_bit_for_bit() -> None:
    """Of the sizes that ship: oneDNN picks its kernels by channels, and those of narrow layers round differently."""
    torch.manual_seed(1)
    net = UNet(UNetConfig(static_channels=28, classes=8)).eval().to(memory_format=torch.channels_last)
    x = torch.rand(1, 36, 240, 240)
    with torch.inference_mode():
        whole = net(x)
        tile = net(x[:, :, 32:208, 32:208])
    assert torch.equal(whole[:, :, 80:160, 80:160], tile[:, :, 48:-48, 48:-48])
    assert not torch.equal(whole[:, :, 32:208, 32:208], tile)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rim", [44, 46, 48])
def test_a_rim_for_which_nothing_is_asked_changes_no_bit(precision: torch.dtype, rim: int) -> None:
    """Nothing is left out there that the rest needs: the same as the middle of the answer on all of a window."""
    torch.manual_seed(4)
    net = UNet(UNetConfig(static_channels=28, classes=8, prior=True)).in_precision(precision).eval()
    net.to(memory_format=torch.channels_last)
    stem = torch.randn(1, 48, 80, 96).contiguous(memory_format=torch.channels_last)
    prior = torch.rand(1, 8, 160, 192)
    less = 48 - rim
    inner = slice(less, -less or None)
    half = slice(less // 2, -(less // 2) or None)
    with torch.inference_mode():
        whole = net.after_stem(stem, prior)
        asked = net.after_stem(stem[:, :, half, half], prior[:, :, inner, inner], rim)
    assert asked.shape == (1, 32, 32, 48)
    assert torch.equal(asked, whole[:, :, 24:-24, 24:-24])


def test_a_rim_that_is_too_small_is_refused() -> None:
    net, x = UNet(CONFIG).eval(), torch.rand(1, 16, 64, 64)
    for rim in (2, 43, 45, -44):
        with pytest.raises(ValueError, match="at least 44"):
            net.after_stem(x, None, rim)


def test_folding_keeps_the_answer_of_the_batch_norms() -> None:
    torch.manual_seed(2)
    net = UNet(CONFIG, normalise=True)
    x = torch.rand(4, 16, 64, 64)
    for _ in range(5):
        net(x)
    net.eval()
    folded = net.folded()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), net(x), rtol=1e-4, atol=1e-5)


def test_logits_and_head_stay_float32_in_bfloat16() -> None:
    net = UNet(CONFIG).in_precision(torch.bfloat16).eval()
    assert net.head.weight.dtype == torch.float32
    assert net.stem.weight.dtype == torch.bfloat16
    with torch.inference_mode():
        logits = net(torch.rand(1, 16, 32, 32))
    assert logits.dtype == torch.float32
    assert logits.shape == (1, 4, 32, 32)


def test_sizes_that_make_no_network_are_refused() -> None:
    with pytest.raises(ValueError, match="three widths"):
        UNetConfig(3, 4, (8, 8))  # type: ignore[arg-type]


def test_no_change_is_the_answer_of_a_network_that_says_nothing() -> None:
    net = UNet(UNetConfig(static_channels=2, classes=4, widths=(8, 8, 8), climate_classes=3, prior=True)).eval()
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.zero_()
    prior = torch.randint(0, 4, (1, 16, 16))
    known = torch.nn.functional.one_hot(prior, 4).permute(0, 3, 1, 2).float()
    x = torch.cat([torch.ones(1, 2, 16, 16), torch.full((1, 4, 16, 16), 0.25), known], dim=1)
    with torch.inference_mode():
        assert (net(x).argmax(1) == prior).all()
        x[:, -4:] = 0
        assert (net(x) == 0).all(), "without a prior map nothing is lifted"


def test_the_climate_class_is_embedded() -> None:
    torch.manual_seed(2)
    net = UNet(UNetConfig(static_channels=2, classes=4, widths=(8, 8, 8), climate_classes=30)).eval()
    x = torch.rand(1, 6, 16, 16)
    answers = []
    for climate in (0, 7, 30):
        x[:, 1] = climate
        with torch.inference_mode():
            answers.append(net(x).clone())
    assert not (answers[0] == answers[1]).any()
    assert not (answers[1] == answers[2]).any()
    assert net.stem.in_channels == 1 + net.config.climate_width + 4
