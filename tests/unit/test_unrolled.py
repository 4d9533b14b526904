"""A batch passed through the network year after year: masked priors, teacher forcing, and a rollout by hand."""

from contextlib import nullcontext

import numpy as np
import pytest
import small_store
import torch
from torch import Tensor

from ai4land_coupler.constraint import close
from ai4land_coupler.training.fit.closing import SCORES
from ai4land_coupler.training.fit.samples import Batch, Samples, Team
from ai4land_coupler.training.fit.trainconfig import TrainConfig
from ai4land_coupler.training.fit.unrolled import years


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    folder = tmp_path_factory.mktemp("unrolled")
    small_store.build(folder)
    return Samples(TrainConfig.read(small_store.configure(folder, rollout=2, margin=16, withheld=[])), Team())


def batch(samples: Samples, known: bool, teacher: bool) -> Batch:
    items = [samples.item(row, col, range(1, 3), 1) for row, col in ((0, 40), (40, 120))]
    for item in items:
        item["known"], item["teacher"] = np.array(known), np.array([True, teacher])
    return samples.join(items, 1)


class Recorder:
    """A network that keeps what it is given: class k is likely where static channel k is high, and likely to stay."""

    def __init__(self, stay: float) -> None:
        self.seen: list[Tensor] = []
        self.stay = stay

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return 0.3 * x[:, :4] + self.stay * x[:, -4:]


def one_hot(classes: Tensor) -> Tensor:
    return (classes[:, None] == torch.arange(1, 5)[:, None, None]).float()


@pytest.mark.parametrize("teacher", [True, False])
def test_inputs_are_statics_totals_and_the_year_before(samples: Samples, teacher: bool) -> None:
    given, net = batch(samples, True, teacher), Recorder(2.0)
    found = list(years(net, given, 4, nullcontext))
    assert len(found) == 2
    first, second = net.seen
    assert torch.equal(first[:, -4:], one_hot(given.classes[:, 0]))
    assert torch.equal(first[:, : given.static.shape[1]], given.static.float())
    coarse = given.totals[:, 0].repeat_interleave(10, -1).repeat_interleave(10, -2)[..., 4:76, 4:76]
    assert torch.equal(first[:, -8:-4], coarse)
    assert torch.equal(second[:, -4:], one_hot(given.classes[:, 1])) == teacher


def test_a_masked_prior_is_zero_and_the_next_year_has_the_networks_own(samples: Samples) -> None:
    given, net = batch(samples, False, False), Recorder(0.0)
    list(years(net, given, 4, nullcontext))
    assert not net.seen[0][:, -4:].any()
    inner = slice(16, 56)
    land = (given.classes[:, 1, inner, inner] > 0).float()
    assert torch.equal(net.seen[1][:, -4:, inner, inner].sum(1), land)
    outside = net.seen[1][:, -4:].clone()
    outside[:, :, inner, inner] = 0
    assert not outside.any()


def test_a_rollout_of_two_years_by_hand(samples: Samples) -> None:
    given, net = batch(samples, True, False), Recorder(2.0)
    found = list(years(net, given, 4, nullcontext))
    inner, area = slice(16, 56), given.area[:, :, None].expand(2, 40, 40)
    prior = given.classes[:, 0]
    for t, year in enumerate(found):
        target = given.classes[:, t + 1, inner, inner]
        logits = (0.3 * given.static[:, :4].float() + 2 * one_hot(prior))[:, :, inner, inner]
        loss, own = 0.0, torch.zeros_like(target)
        for crop in range(2):
            weight, sums = 0.0, 0.0
            for row in range(0, 40, 10):
                for col in range(0, 40, 10):
                    cell = (crop, slice(row, row + 10), slice(col, col + 10))
                    y, a = target[cell].flatten(), (area[cell] * (target[cell] > 0)).flatten()
                    if not a.any():
                        continue
                    hit = (y[None] == torch.arange(1, 5)[:, None]) * a
                    totals = hit.double().sum(1) / a.double().sum()
                    z = logits[crop][:, cell[1], cell[2]].flatten(1)
                    p, _ = close(z[None].numpy(), a[None].double().numpy(), totals[None].numpy())
                    if (totals > 0).sum() > 1:
                        land = (y > 0).numpy()
                        chosen = p[0][(y.long() - 1).clamp(min=0).numpy(), np.arange(100)]
                        sums -= float((a.numpy() * np.log(np.where(land, chosen, 1))).sum())
                        weight += float(a.sum())
                    likeliest = (torch.from_numpy(p[0].argmax(0)) + 1).reshape(10, 10).to(own.dtype)
                    own[cell] = likeliest * (target[cell] > 0)
            loss += sums / weight / 2
        assert float(year.loss) == pytest.approx(loss, rel=2e-3)
        assert float(year.scores[SCORES.index("weight")]) == pytest.approx(1, abs=1e-5)
        if t == 0:
            handed = net.seen[1][:, -4:].argmax(1) + 1
            same = (handed[:, inner, inner] == own)[own > 0].float().mean()
            assert same > 0.9  # all but those that the totals take from the most likely class
            prior = torch.where(net.seen[1][:, -4:].any(1), handed, 0)
            rim = torch.ones(72, 72, dtype=torch.bool)
            rim[inner, inner] = False
            assert torch.equal(prior[:, rim], given.classes[:, 0][:, rim].long())


def test_channels_are_shifted_and_dropped_before_the_network_sees_them(samples: Samples) -> None:
    given, net = batch(samples, True, True), Recorder(2.0)
    given.shift[0, 1], given.kept[1, 2] = 0.5, 0.0
    list(years(net, given, 4, nullcontext))
    static, seen = given.static.float(), net.seen[0][:, : given.static.shape[1]]
    assert torch.equal(seen[0, 1], static[0, 1] + 0.5)
    assert not seen[1, 2].any()
    static[0, 1], static[1, 2] = seen[0, 1], seen[1, 2]
    assert torch.equal(seen, static)
