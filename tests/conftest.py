"""Lies here so that pytest puts this folder on the path: `from mpi import mpirun` works in every test."""

import pytest

from ai4land_coupler import kernel


@pytest.fixture(params=["compiled", "numpy"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernel and without it."""
    if request.param == "numpy":
        monkeypatch.setattr(kernel, "_module", None)
    elif not kernel.ready():
        pytest.skip("the kernel is not built")
