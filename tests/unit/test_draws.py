"""What draws C's random numbers within the plugin leaves a host's sequence where it was."""

import ctypes

import pytest

from ai4land_coupler.regrid.draws import own_draws

LIBC = ctypes.CDLL(None)


def test_a_host_draws_on_as_if_nobody_else_had() -> None:
    LIBC.srand(7)
    alone = [LIBC.rand() for _ in range(40)]
    LIBC.srand(7)
    between, within = [], []
    for others in range(40):
        between.append(LIBC.rand())
        with own_draws():
            within += [LIBC.rand() for _ in range(others)]
    assert between == alone
    assert len(set(within)) == len(within)  # one sequence, which goes on from time to time


def test_an_error_within_gives_the_host_its_sequence_back() -> None:
    LIBC.srand(7)
    first, second = LIBC.rand(), LIBC.rand()
    LIBC.srand(7)
    assert LIBC.rand() == first
    with pytest.raises(ZeroDivisionError), own_draws():
        _ = LIBC.rand() / 0
    assert LIBC.rand() == second
