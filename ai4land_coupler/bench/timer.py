"""Times functions in turn, so that what else the machine does falls on all of them alike."""

import time
from collections.abc import Callable, Mapping


def alternate(functions: Mapping[str, Callable[[], object]], repeats: int, warm: int = 1) -> dict[str, list[float]]:
    """Seconds of each function, one sample a turn; `warm` turns go before and are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(-warm, repeats):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds
