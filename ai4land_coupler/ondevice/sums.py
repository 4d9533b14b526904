"""A tile's fields tallied where they were made; `tally.py` says what is summed."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ai4land_coupler.tally import FACTOR, STEP, TileSums


@dataclass(frozen=True, eq=False)
class DeviceSums:
    """TileSums as tensors: host (o,) int64 of each overlap, or of each of the n cells where cell and area are None.

    area_of_cell (n,) float64, m2; borrowed (n,) float64, 1 or 0; hosts: how many there are.
    """

    hosts: int
    area_of_cell: Tensor
    borrowed: Tensor
    host: Tensor
    cell: Tensor | None
    area: Tensor | None

    @classmethod
    def of(cls, sums: TileSums) -> "DeviceSums":
        """On the processor."""
        cells = sums.cells
        return cls(
            sums.hosts.size,
            torch.from_numpy(sums.area_rows[cells.rows]),
            torch.from_numpy(sums.borrowed[cells.coarse_of_cell].astype(np.float64)),
            torch.from_numpy(sums.host.astype(np.int64)),
            None if sums.cell is None else torch.from_numpy(sums.cell.astype(np.int64)),
            None if sums.area is None else torch.from_numpy(sums.area),
        )

    def __call__(self, fractions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of fractions (K, n): by_host (h, K), delivered (K,), filled (K,), and mark () int64.

        Needs torch's deterministic ways: what is added under a host cell is then sorted, and added in that order.
        """
        area = fractions * self.area_of_cell
        under = area
        if self.cell is not None and self.area is not None:
            under = fractions.index_select(1, self.cell) * self.area
        by_host = under.new_zeros((self.hosts, len(fractions))).index_add_(0, self.host, under.T.contiguous())
        return by_host, area.sum(1), (area * self.borrowed).sum(1), mark(fractions.contiguous().view(torch.int64))


def mark(words: Tensor) -> Tensor:
    """As `tally.mark`, of words of any shape, in the order in which they lie; the 64 bits as int64."""
    places = torch.arange(1, words.numel() + 1, dtype=torch.int64, device=words.device)
    x = words.flatten() + places * _signed(STEP)
    x = (x ^ _shifted(x, 32)) * _signed(FACTOR)
    return (x ^ _shifted(x, 29)).sum()


def _shifted(x: Tensor, by: int) -> Tensor:
    """To the right, filled with zeros."""
    return (x >> by) & (2 ** (64 - by) - 1)


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word
