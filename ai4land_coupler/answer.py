"""What a host is served, as hashes that no deal of cells over ranks changes."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai4land_coupler.comm import Communicator
from ai4land_coupler.exchange import hash_all
from ai4land_coupler.year import YearFields


@dataclass(frozen=True)
class Answer:
    """year: the year served; digest: SHA-256 of its fine fields; columns: hash of its host columns; held: why last
    year's fields are served, empty where they are not.
    """

    year: int
    digest: str
    columns: str
    held: str = ""

    @classmethod
    def of(cls, comm: Communicator, fields: YearFields, cell_id: NDArray[np.int64], held: str = "") -> "Answer":
        """Of the fields served on the cells (n,) of this rank. Collective."""
        return cls(fields.year, fields.digest, columns_hash(comm, cell_id, fields.columns), held)


def columns_hash(comm: Communicator, cell_id: NDArray[np.int64], columns: NDArray[np.float64]) -> str:
    """A hash of host columns (K, n) over the set of cells of all ranks. Collective."""
    rows = np.concatenate([cell_id[:, None].view(np.float64), columns.T], axis=1)
    digests = b"".join(hashlib.sha256(row).digest() for row in np.ascontiguousarray(rows))
    return hash_all(comm, np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32))
