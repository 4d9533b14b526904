"""A program on some ranks that is told what to do line by line, and answers with numbers."""

import os
import re
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from ai4land_coupler.errors import MPIError

STAGES = re.compile(r"ai4land: (-?\d+)  .*seconds: (.*?)  \(")


class Session:
    """Runs a command under the launcher until it is left; what it says on stderr goes to a file."""

    def __init__(self, launcher: str, ranks: int, command: Sequence[str], threads: int, said: Path) -> None:
        start = [*shlex.split(launcher.replace("{n}", str(ranks))), *command]
        self._said, self._command, self._waiting = said, shlex.join(start), b""
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        with said.open("wb") as errors:
            self._process = subprocess.Popen(
                start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment,
                start_new_session=True,
            )  # fmt: skip

    def ask(self, *words: object, limit: float = 1800.0) -> list[float]:
        """The numbers with which a command is answered. Raises MPIError where the program ends or takes too long."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((" ".join(map(str, words)) + "\n").encode())
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._ended("ended") from error
        return [float(word) for word in self._line(time.monotonic() + limit).split()]

    def stages(self, year: int, limit: float = 10.0) -> dict[str, float]:
        """Seconds of the stages of a year that was stepped to, as the plugin's log has them."""
        until = time.monotonic() + limit
        while time.monotonic() < until:  # the launcher may bring stderr later than stdout
            found = [text for at, text in STAGES.findall(self._said.read_text(errors="replace")) if int(at) == year]
            if found:
                words = found[-1].split()
                return dict(zip(words[::2], map(float, words[1::2]), strict=True))
            time.sleep(0.02)
        raise self._ended(f"did not log the stages of {year}")

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin is not None and self._process.poll() is None and kind is None:
            self._process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(60)
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(30)

    def _line(self, until: float) -> str:
        assert self._process.stdout is not None
        stream = self._process.stdout.fileno()
        while b"\n" not in self._waiting:
            ready, _, _ = select.select([stream], [], [], max(0.0, until - time.monotonic()))
            part = os.read(stream, 65536) if ready else b""
            if not part:
                raise self._ended("ended" if ready else "was stopped for taking too long")
            self._waiting += part
        line, self._waiting = self._waiting.split(b"\n", 1)
        return line.decode()

    def _ended(self, how: str) -> MPIError:
        text = self._said.read_text(errors="replace").strip()[-2000:]
        return MPIError(f"bench: {self._command} {how} and said:\n{text}")
