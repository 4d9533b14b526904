"""A host of 2 degree cells on the shipped emulator: its state is kept, and shared out as the network knows the land."""

import numpy as np
from mpi4py import MPI

from ai4land_coupler.component import Component
from ai4land_coupler.config import Config
from ai4land_coupler.domain import base_state
from ai4land_coupler.grids import HostGrid

SOUTH, WEST = (x.ravel() for x in np.meshgrid(np.arange(-12.0, 12.0, 2.0), np.arange(16.0, 34.0, 2.0), indexing="ij"))


def host() -> HostGrid:
    """Two degree cells of central Africa, each of 4 x 4 coarse cells."""
    return HostGrid(
        np.arange(SOUTH.size),
        np.stack([WEST, WEST + 2, WEST + 2, WEST], axis=1),
        np.stack([SOUTH, SOUTH, SOUTH + 2, SOUTH + 2], axis=1),
        np.full(SOUTH.size, 0.9),
    )


def test_the_state_is_the_area_mean_of_the_fine_fractions() -> None:
    with Component.init(Config(emulator="igbp-0p05"), MPI.COMM_SELF) as land:
        land.set_grid(host())
        base, area = base_state(land.emulator, np.arange(land.emulator.coarse.size))
        weighted = (base * area).reshape(-1, 90, 4, 180, 4).sum(axis=(2, 4))
        row, col = ((SOUTH + 90) // 2).astype(int), ((WEST + 180) // 2).astype(int)
        state = weighted[:, row, col] / weighted[:, row, col].sum(axis=0)
        assert ((state > 0).sum(axis=0) > 2).sum() > 80
        fine = land.step(2019, dict(zip(land.legend, state, strict=True)))
        cell = (land.get("fine", "lat") + 12) // 2 * 9 + (land.get("fine", "lon") - 16) // 2
        own = land.get("fine", "area")
        total = np.bincount(cell.astype(int), weights=own, minlength=SOUTH.size)
        assert (total > 0).all()
        for name, wanted in zip(land.legend, state, strict=True):
            mean = np.bincount(cell.astype(int), weights=own * fine[name], minlength=SOUTH.size) / total
            assert np.abs(mean - wanted).max() < 1e-12
            assert np.abs(land.get("host", name) - wanted).max() < 1e-12
        coarse = (land.get("fine", "lat") + 90) // 0.5 * 720 + (land.get("fine", "lon") + 180) // 0.5
        met, at = np.unique(coarse.astype(int), return_inverse=True)
        land_area = np.bincount(at, weights=own)
        made = np.stack([np.bincount(at, weights=own * fine[name]) for name in land.legend]) / land_area
        even = state[:, (met // 720 - 156) // 4 * 9 + (met % 720 - 392) // 4]
        off = [0.5 * (np.abs(x - base[:, met]).sum(axis=0) * land_area).sum() / land_area.sum() for x in (made, even)]
        assert off[0] < 0.85 * off[1], "the network knows more of the half degree cells than an even spread"
