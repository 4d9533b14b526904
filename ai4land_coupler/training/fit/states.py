"""The network's coarse input from the store's states (LUH2's, say), brought to the legend of the maps by a crosswalk.

`coarse: states` gives the network what it is given when it is coupled: the state of the year, which holds at its start,
by the same table and the same shares of climate. The loss is still closed on the map's own totals, since a state and a
map disagree and a class that the state lacks may stand in the map; so the network learns both to place classes and to
read a state, and closed fractions of a run meet whatever totals the run asks for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.climate import GROUP_OF
from ai4land_coupler.crosswalk import GROUPS, Crosswalk, load
from ai4land_coupler.errors import ConfigError
from ai4land_coupler.training.fit.crops import Crops, Years


@dataclass(frozen=True, eq=False)
class States:
    """States of a store in its maps' legend."""

    crops: Crops
    table: Crosswalk

    @classmethod
    def of(cls, crops: Crops, years: Years) -> States | None:
        """Return the states that a configuration asks for, None where it asks for the maps' own totals.

        Raises ConfigError where the store has no states of a year, or the table does not lead from them to its legend
        or needs a climate that the store has not.
        """
        config, store = crops.config, crops.store
        if config.coarse == "maps":
            return None
        assert config.crosswalk is not None  # the configuration has been checked
        table = load(config.crosswalk)
        if not set(table.source) - set(table.optional) <= set(store.state_legend) <= set(table.source):
            raise ConfigError(
                f"crosswalk {table.name} leads from {list(table.source)}, of which {list(table.optional)} may lack; "
                f"the states of {store.path} are {list(store.state_legend)}"
            )
        if sorted(table.target) != sorted(store.legend):
            raise ConfigError(
                f"crosswalk {table.name} leads to {list(table.target)}, the classes of {store.path} are "
                f"{list(store.legend)}"
            )
        if table.by_climate and store.climate_classes not in (len(GROUPS), GROUP_OF.size - 1):
            raise ConfigError(
                f"crosswalk {table.name} depends on the climate: expected a store with {len(GROUPS)} climate groups or "
                f"{GROUP_OF.size - 1} classes, {store.path} has {store.climate_classes}; prepare it with `climate`"
            )
        targets = {int(start) + n for start in years.starts for n in range(config.rollout)} | {*years.validation}
        missing = sorted({store.years[t] for t in targets} - set(store.state_years))
        if missing:
            raise ConfigError(
                f"{store.path} has no states of {missing}; prepare them, or train on other years (`years`)"
            )
        return cls(crops, table.to(store.legend))

    def coarse(
        self, t: int, classes: NDArray[np.uint8], corner: tuple[int, int], totals: NDArray[np.float32], size: int
    ) -> NDArray[np.float32]:
        """Return what the network is given of year t (K, n, m) in coarse cells of `size` fine cells.

        classes (n size, m size): the map from `corner` on, its land the weight in cells of several of the store's;
        totals (K, n, m): its own, which stand where there is land without a state.
        """
        store, ratio = self.crops.store, self.crops.store.ratio
        (row, col), (ny, nx) = corner, (edge // ratio for edge in classes.shape)
        given = self.crops.state(store.state_years.index(store.years[t]), row // ratio, col // ratio, ny, nx)
        shares = self._climate(corner, classes.shape)
        values = np.zeros((len(self.table.source), ny, nx))
        values[[self.table.source.index(name) for name in store.state_legend]] = np.nan_to_num(given)
        stated = values.sum(0) > 0 if shares is None else (values.sum(0) > 0) & (shares.sum(0) > 0)
        state = self.table.apply(values, shares)
        land = (classes > 0) * self.crops.row_area(row, classes.shape[0])[:, None].astype(np.float64)
        weight = np.where(stated, land.reshape(ny, ratio, nx, ratio).sum((1, 3)), 0.0)
        many = size // ratio
        sums = (state * weight).reshape(len(state), ny // many, many, nx // many, many).sum((2, 4))
        whole = sums.sum(0)
        return np.where(whole > 0, sums / np.where(whole > 0, whole, 1.0), totals).astype(np.float32)

    def _climate(self, corner: tuple[int, int], shape: tuple[int, ...]) -> NDArray[np.float64] | None:
        """Shares of the main groups among the fine cells that have one (5, ny, nx), as `climate.of_coarse` has them."""
        if not self.table.by_climate:
            return None
        store = self.crops.store
        groups = self.crops.climate(*corner, *shape)
        groups = GROUP_OF[groups] if store.climate_classes == GROUP_OF.size - 1 else groups
        cells = groups.reshape(shape[0] // store.ratio, store.ratio, -1, store.ratio)
        counts = np.stack([(cells == group).sum((1, 3)) for group in range(1, len(GROUPS) + 1)])
        return counts / np.maximum(counts.sum(0), 1)
