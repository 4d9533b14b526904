"""Tables on the terminal for `ai4land info` and `ai4land doctor`."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from ai4land_coupler.emulator import Emulator, shipped_names
from ai4land_coupler.errors import EmulatorError

CARD = "CARD.md"


def emulators(name: str) -> None:
    """Print one emulator, or all shipped ones where `name` is empty."""
    for one in [name] if name else shipped_names():
        _emulator(Emulator.load(one))


def card(name: str) -> None:
    """Print the model card of an emulator. Raises EmulatorError where it has none."""
    emulator = Emulator.load(name)
    path = emulator.path / CARD
    if not path.is_file():
        raise EmulatorError(
            f"emulator {emulator.name} has no {CARD} in {emulator.path}; `ai4land evaluate --card` writes one"
        )
    Console().print(Markdown(path.read_text()))


def _emulator(emulator: Emulator) -> None:
    table = Table(title=f"emulator {emulator.name} {emulator.version}", show_header=False, title_justify="left")
    size = sum(file.stat().st_size for file in emulator.path.iterdir()) / 1e6
    rows: dict[str, object] = {
        "folder": f"{emulator.path} ({size:.1f} MB)",
        "legend": ", ".join(f"{i} {name}" for i, name in enumerate(emulator.legend, start=1)),
        "fine grid": f"{emulator.fine.nlat} x {emulator.fine.nlon}, {180 / emulator.fine.nlat:g} degree",
        "coarse grid": f"{emulator.coarse.nlat} x {emulator.coarse.nlon}, {180 / emulator.coarse.nlat:g} degree",
        "tiles": f"{emulator.tile} fine cells, halo {emulator.halo}",
        "base map": emulator.base_year,
        "static inputs": ", ".join(channel.name for channel in emulator.statics),
        "hash": emulator.hash,
        "weights": emulator.weights_hash,
        "model card": emulator.path / CARD if (emulator.path / CARD).is_file() else "none",
        **{f"training: {key}": value for key, value in emulator.training.items()},
    }
    for key, value in rows.items():
        table.add_row(key, str(value))
    Console().print(table)


def findings(found: Iterable[Any]) -> int:
    """Print what the doctor found; returns 1 where something that is needed is missing, else 0."""
    table = Table(title="ai4land doctor", title_justify="left")
    for column in ("what", "state", "found", "mend"):
        table.add_column(column, overflow="fold")
    missing = 0
    for one in found:
        state = "ok" if one.ok else ("missing" if one.needed else "optional")
        missing += not one.ok and one.needed
        table.add_row(one.name, state, one.found, "" if one.ok else one.mend)
    Console().print(table)
    return int(missing > 0)
