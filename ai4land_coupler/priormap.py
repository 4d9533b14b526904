"""The class map of the year made before, for networks that predict the change on top of it (`unet.prior`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.comm import Communicator
from ai4land_coupler.domain import Domain
from ai4land_coupler.emulator import Emulator
from ai4land_coupler.errors import RestartError
from ai4land_coupler.tilework import TileFields

Map = NDArray[np.uint8]


@dataclass(frozen=True)
class Strip:
    """What a tile's window takes from another tile: rows and columns of the window, and the same cells in the tile.

    window and giver: indices of the tile that wants it and of the one that has it; rows and columns as (start, stop).
    """

    window: int
    giver: int
    rows: tuple[int, int]
    cols: tuple[int, int]
    from_rows: tuple[int, int]
    from_cols: tuple[int, int]

    @property
    def size(self) -> int:
        """Number of cells."""
        return (self.rows[1] - self.rows[0]) * (self.cols[1] - self.cols[0])


@dataclass(frozen=True, eq=False)
class PriorMap:
    """Gives each tile of this rank the map around it: from the tiles of all ranks, else from the base map.

    giving and taking: the strips this rank's tiles send and receive, with the rank at the other end, by rank and in
    one order at both ends.
    """

    emulator: Emulator
    domain: Domain
    giving: tuple[tuple[int, Strip], ...]
    taking: tuple[tuple[int, Strip], ...]

    @classmethod
    def build(cls, emulator: Emulator, domain: Domain, rank: int) -> "PriorMap":
        """Which strips cross which ranks follows from the tiles alone. Local."""
        owner = {tile.index: int(who) for tile, who in zip(domain.tiles, domain.owner, strict=True)}
        giving, taking = [], []
        for window in sorted(owner):
            for strip in _strips(emulator, window):
                if strip.giver in owner:
                    if owner[strip.giver] == rank:
                        giving.append((owner[window], strip))
                    if owner[window] == rank:
                        taking.append((owner[strip.giver], strip))
        return cls(
            emulator, domain, tuple(sorted(giving, key=lambda x: x[0])), tuple(sorted(taking, key=lambda x: x[0]))
        )

    def maps(self, tiles: Sequence[TileFields] | None) -> list[Map]:
        """The map (size, size) of each of this rank's tiles after a year, or before the first. Local."""
        base = self.emulator.base_map()
        whole = [base[cells.tile.rows, cells.tile.cols].copy() for cells in self.domain.own]
        if tiles is not None:
            for cells, fields, of_tile in zip(self.domain.own, tiles, whole, strict=True):
                of_tile.reshape(-1)[cells.inside] = fields.classes
        return whole

    def windows(self, comm: Communicator, maps: Sequence[Map]) -> list[Map]:
        """The map of each of this rank's tiles with the halo around, (size + 2 halo, same), 0 past poles. Collective.

        The same bits for any deal of tiles.
        """
        at = {cells.tile.index: i for i, cells in enumerate(self.domain.own)}
        sent = comm.together(lambda: self._cut_out(maps, at))
        counts = np.zeros(comm.size, dtype=np.int64)
        for rank, strip in self.giving:
            counts[rank] += strip.size
        arrived, _ = comm.alltoall(sent, counts)
        return comm.together(lambda: self._pasted(arrived, at))

    def _cut_out(self, maps: Sequence[Map], at: dict[int, int]) -> Map:
        strips = [strip for _, strip in self.giving]
        parts = [maps[at[strip.giver]][slice(*strip.from_rows), slice(*strip.from_cols)].ravel() for strip in strips]
        return np.concatenate([np.empty(0, np.uint8), *parts])

    def _pasted(self, arrived: Map, at: dict[int, int]) -> list[Map]:
        base, halo = self.emulator.base_map(), self.emulator.halo
        out = []
        for cells in self.domain.own:
            tile = cells.tile
            rows = np.arange(tile.row0 - halo, tile.row0 + tile.size + halo)
            cols = np.arange(tile.col0 - halo, tile.col0 + tile.size + halo) % base.shape[1]
            inside = (rows >= 0) & (rows < base.shape[0])
            out.append(
                np.where(inside[:, None], base[np.clip(rows, 0, base.shape[0] - 1)][:, cols], 0).astype(np.uint8)
            )
        start = 0
        for _, strip in self.taking:
            into = out[at[strip.window]][slice(*strip.rows), slice(*strip.cols)]
            into[...] = arrived[start : start + strip.size].reshape(into.shape)
            start += strip.size
        return out

    def middles(self, windows: Sequence[Map]) -> list[Map]:
        """The maps (size, size) that windows were made of. Local."""
        inner = slice(self.emulator.halo, self.emulator.halo + self.emulator.tile)
        return [window[inner, inner] for window in windows]

    def gather(self, comm: Communicator, maps: Sequence[Map]) -> Map:
        """The maps of all ranks on the fine grid (nlat, nlon), the base map elsewhere, on rank 0. Collective."""
        indices, rows = self._own_indices(), self._stacked(maps)
        tiles, values = comm.gather(indices), comm.gather(rows)
        return comm.together(lambda: self._placed(tiles, values) if comm.rank == 0 else np.empty((0, 0), np.uint8))

    def scatter(self, comm: Communicator, whole: Map) -> list[Map]:
        """The reverse of `gather`: the map of each of this rank's tiles. Collective.

        Raises RestartError on every rank where what rank 0 holds is not on the fine grid.
        """
        own = self._own_indices()
        tiles = comm.gather(own)
        parts = comm.together(lambda: self._cut_up(whole, tiles) if comm.rank == 0 else self._stacked([]))
        return list(comm.scatter(parts, own.size))

    def _cut_up(self, whole: Map, tiles: NDArray[np.int64]) -> Map:
        size, fine = self.emulator.tile, self.emulator.fine
        if whole.shape != (fine.nlat, fine.nlon):
            raise RestartError(f"the restart's map of the year before has {whole.shape} cells, "
                               f"{(fine.nlat, fine.nlon)} are expected; it is damaged")  # fmt: skip
        row, col = np.divmod(tiles, fine.nlon // size)
        return self._stacked(
            [whole[r * size : (r + 1) * size, c * size : (c + 1) * size] for r, c in zip(row, col, strict=True)]
        )

    def _own_indices(self) -> NDArray[np.int64]:
        return np.array([cells.tile.index for cells in self.domain.own], dtype=np.int64)

    def _stacked(self, maps: Sequence[Map]) -> Map:
        size = self.emulator.tile
        return np.concatenate([np.empty((0, size, size), np.uint8), *(part[None] for part in maps)])

    def _placed(self, tiles: NDArray[np.int64], values: Map) -> Map:
        size, out = self.emulator.tile, self.emulator.base_map().copy()
        row, col = np.divmod(tiles, self.emulator.fine.nlon // size)
        for r, c, part in zip(row, col, values, strict=True):
            out[r * size : (r + 1) * size, c * size : (c + 1) * size] = part
        return out


def _strips(emulator: Emulator, window: int) -> Iterator[Strip]:
    """What the window of a tile takes from the tiles around it and from the tile itself, which stands in its middle."""
    size, halo, fine = emulator.tile, emulator.halo, emulator.fine
    across, down, reach = fine.nlon // size, fine.nlat // size, -(-halo // size)
    row, col = divmod(window, across)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if 0 <= row + dy < down:
                rows = max(-halo, dy * size), min(size + halo, (dy + 1) * size)
                cols = max(-halo, dx * size), min(size + halo, (dx + 1) * size)
                giver = (row + dy) * across + (col + dx) % across
                yield Strip(
                    window, giver,
                    (rows[0] + halo, rows[1] + halo), (cols[0] + halo, cols[1] + halo),
                    (rows[0] - dy * size, rows[1] - dy * size), (cols[0] - dx * size, cols[1] - dx * size),
                )  # fmt: skip
