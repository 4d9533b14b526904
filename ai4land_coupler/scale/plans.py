"""What each of many ranks would hold and receive for a host grid, from the plugin's own plans, without the network."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from ai4land_coupler.comm import Communicator
from ai4land_coupler.config import RegridConfig
from ai4land_coupler.domain import Domain
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.grids import HostGrid
from ai4land_coupler.scale.simulated import Simulated, on_ranks

FIELD = 8 + 1 / 8
"""Bytes of a fine cell and class that the fields of a year take: a float64 fraction, and its part of the class."""


@dataclass(frozen=True)
class RankPlan:
    """One rank: its host cells, tiles and fine cells; bytes of its plan and of a year's fields, bytes received while
    the plan is made and in each step."""  # fmt: skip

    host_cells: int
    tiles: int
    fine_cells: int
    plan_bytes: int
    field_bytes: int
    setup_bytes: int
    step_bytes: int


def plan(emulator: Emulator, host: HostGrid, ranks: int) -> list[RankPlan]:
    """The plan of every rank, the host's cells dealt in bands of equal size."""

    def one(comm: Simulated) -> RankPlan:
        first, last = (host.size * r // ranks for r in (comm.rank, comm.rank + 1))
        domain = Domain.build(comm, emulator, RegridConfig(), host.take(np.arange(first, last)))
        setup, comm.received = comm.received, 0
        exchange_of_a_step(comm, domain, len(emulator.legend))
        return RankPlan(
            last - first, len(domain.own), domain.fine_size, held(domain),
            int(domain.fine_size * len(emulator.legend) * FIELD), setup, comm.received,
        )  # fmt: skip

    emulator.base_map()  # so that it is read once
    return on_ranks(ranks, one)


def exchange_of_a_step(comm: Communicator, domain: Domain, classes: int) -> None:
    """The exchanges of a step in `level` mode: states to the tiles, totals to the halos, sums to the columns."""
    domain.hosts.to_tiles(comm, np.zeros((classes, domain.hosts.own.size)))
    domain.placement.totals(comm, np.zeros((classes, domain.placement.cells.size)))
    domain.columns(comm, np.zeros((sum(part.hosts.size for part in domain.to_host), classes)))


def held(plan: Any) -> int:
    """Bytes of the arrays of a plan, each memory counted once."""
    return sum(size for _, size in _arrays(plan, set()))


def _arrays(value: Any, seen: set[int]) -> Iterator[tuple[np.ndarray, int]]:
    if isinstance(value, np.ndarray):
        owner = value
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        if id(owner) not in seen:
            seen.add(id(owner))
            yield owner, owner.nbytes
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _arrays(part, seen)
    elif is_dataclass(value) and not isinstance(value, type) and id(value) not in seen:
        seen.add(id(value))
        for field in fields(value):
            yield from _arrays(getattr(value, field.name), seen)
