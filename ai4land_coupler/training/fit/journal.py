"""What a run says of itself: a bar and lines on the terminal, TensorBoard files, a log in JSON."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

log = logging.getLogger("ai4land_coupler")


class Journal:
    """Reports of a run; silent on all processes but the first."""

    def __init__(self, folder: Path, name: str, step: int, steps: int, entries: list[dict[str, Any]]) -> None:
        """Go on after `step` of `steps` with the entries so far."""
        self.entries = entries
        self._path = folder / "log.json"
        self._board = _board(folder / "tensorboard", step)
        self._bar: Progress | None = None
        if sys.stderr is not None and sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
            self._task = self._bar.add_task(name, total=steps, completed=step)
            self._bar.start()

    def advance(self) -> None:
        """A step is done."""
        if self._bar is not None:
            self._bar.advance(self._task)

    def write(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Report the values of `kind` (train, validation) at a step."""
        self.entries.append({"step": step, kind: {name: float(f"{value:.6g}") for name, value in values.items()}})
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        line = f"step {step}  {kind}  {text}"
        if self._bar is not None:
            self._bar.console.print(line, highlight=False)
        else:
            log.info(line)
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def keep(self) -> None:
        """Put everything so far on the disk."""
        self._path.write_text(json.dumps(self.entries, indent=1) + "\n")
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """End the bar and the files."""
        if self._bar is not None:
            self._bar.stop()
        if self._board is not None:
            self._board.close()


def _board(folder: Path, step: int) -> Any:
    """The writer of TensorBoard files; what an earlier run wrote after `step` is hidden."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.warning("no TensorBoard files: the package tensorboard is missing; pip install 'ai4land_coupler[train]'")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
