"""What the rest of a step needs of a tile's fields: sums by host cell and by class, and a digest of their bits."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler import kernel
from ai4land_coupler.domain import Domain
from ai4land_coupler.placement import OWN
from ai4land_coupler.tiles import TileFields

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Tally:
    """Of one tile, areas in m2.

    by_host (h, K): fractions times overlap for the h host cells over the tile; delivered (K,): of each class, and
    filled (K,): of that, where the state is not the coarse cell's own; bits: SHA-256 of the fields.
    """

    by_host: Float
    delivered: Float
    filled: Float
    bits: bytes

    @classmethod
    def of(cls, domain: Domain, i: int, fields: TileFields) -> "Tally":
        """Of a rank's i-th tile."""
        fractions = np.ascontiguousarray(fields.fractions)
        by_host, delivered, filled = domain.to_host[i](fractions, domain.placement.filled[domain.inner[i]] != OWN)
        bits = hashlib.sha256(
            domain.own[i].tile.index.to_bytes(8, "little")
            + mark(fractions.reshape(-1).view(np.uint64)).tobytes()
            + fields.classes.tobytes()
        )
        return cls(by_host, delivered, filled, bits.digest())


def mark(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """What tells words (n,) from any others that are not made to look alike, (LANES,), at the pace of memory.

    Word i is mixed into lane i modulo LANES; every step is one to one, so that one word that differs always shows.
    """
    lanes = np.arange(kernel.LANES, dtype=np.uint64)
    if kernel.ready():
        kernel.mix(words, lanes)
        return lanes
    for start in range(0, words.size, kernel.LANES):
        some = words[start : start + kernel.LANES]
        x = lanes[: some.size] ^ some
        lanes[: some.size] = (x << np.uint64(29) | x >> np.uint64(35)) * np.uint64(0x9E3779B97F4A7C15)
    return lanes
