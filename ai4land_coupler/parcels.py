"""Messages to the process that writes the output, and what it says of itself, both in memory that two processes share.

Memory files have no name and go with the last process that has them open, however it ends.
"""

import io
import mmap
import os
import pickle
import struct
from collections.abc import Iterator

from ai4land_coupler.errors import OutputError

LARGEST = 16 << 20
"""Bytes from which a parcel is sent on."""
ALIGNED = 64
_COUNT = struct.Struct("<Q")


class Parcel:
    """Messages one after the other: each a pickle and the arrays it is about, copied once, from where they lie.

    size: bytes of memory, held by whoever has the file open.
    """

    def __init__(self) -> None:
        self._file = io.FileIO(memory_file(), "wb")
        self.size = 0

    @property
    def file(self) -> int:
        """Its file descriptor."""
        return self._file.fileno()

    def add(self, message: object) -> None:
        """Append a message. Raises OSError where there is no memory; the parcel is then of no use."""
        buffers: list[pickle.PickleBuffer] = []
        parts = [memoryview(pickle.dumps(message, protocol=5, buffer_callback=buffers.append))]
        parts += [buffer.raw() for buffer in buffers]
        head = struct.pack(f"<{1 + len(parts)}Q", len(parts), *(part.nbytes for part in parts))
        for part in (memoryview(head), *parts):
            self._append(part)

    def _append(self, part: memoryview) -> None:
        padded = -part.nbytes % ALIGNED
        for piece in (part, memoryview(bytes(padded))):
            at = 0
            while at < piece.nbytes:
                at += self._file.write(piece[at:]) or 0
        self.size += part.nbytes + padded

    def close(self) -> None:
        """Let go of it."""
        self._file.close()


def messages(file: int) -> Iterator[object]:
    """The messages of a parcel, whose arrays lie in it and cannot be written to."""
    view, at = memoryview(mmap.mmap(file, 0, access=mmap.ACCESS_READ)), 0
    while at < len(view):
        (count,) = _COUNT.unpack_from(view, at)
        lengths = struct.unpack_from(f"<{count}Q", view, at + _COUNT.size)
        at += _padded(_COUNT.size * (1 + count))
        parts = []
        for length in lengths:
            parts.append(view[at : at + length])
            at += _padded(length)
        yield pickle.loads(parts[0], buffers=parts[1:])


def memory_file() -> int:
    """A file in memory, closed in processes that are started from this one. Raises OSError."""
    if not hasattr(os, "memfd_create"):
        raise OSError("this system has no files in memory")
    return os.memfd_create("ai4land output")


def _padded(length: int) -> int:
    return -(-length // ALIGNED) * ALIGNED


class Page:
    """What the writing process says of itself, written there and read by the host's.

    It is read again and again, so that nothing is missed where a reader had no memory for it. ready: 1 once it takes
    parcels; taken: bytes of parcels it is done with; done: years it is done with, failed ones included; failures: how
    many it could not write; heard: how many of them the host was told of.
    """

    SIZE = 1 << 16
    _NAMES = ("ready", "taken", "done", "failures", "heard", "text")

    def __init__(self, file: int) -> None:
        os.ftruncate(file, self.SIZE)
        self._memory = mmap.mmap(file, self.SIZE)

    def __getitem__(self, name: str) -> int:
        return int(_COUNT.unpack_from(self._memory, self._at(name))[0])

    def __setitem__(self, name: str, value: int) -> None:
        _COUNT.pack_into(self._memory, self._at(name), value)

    def fail(self, text: str) -> None:
        """One more failure; the text is the first one's of those that the host has not been told of."""
        if self["failures"] == self["heard"]:
            words = text.encode(errors="replace")[: self.SIZE - 1024]
            self._memory[1024 : 1024 + len(words)] = words
            self["text"] = len(words)
        self["failures"] += 1

    def hear(self) -> None:
        """Raise OutputError where something failed that the host has not been told of."""
        failures = self["failures"]
        more = failures - self["heard"]
        if more <= 0:
            return
        text = self._memory[1024 : 1024 + self["text"]].decode(errors="replace")
        if more > 1:
            text += f" (and {more - 1} more after it)"
        error = OutputError(text)
        self["heard"] = failures
        raise error

    def _at(self, name: str) -> int:
        return _COUNT.size * self._NAMES.index(name)
