"""Status codes that cross the C boundary, and the exceptions that carry them."""

from enum import IntEnum


class Status(IntEnum):
    """What every hook returns to a C or Fortran host; `ai4land_status` in ai4land_coupler.h has the same numbers."""

    HELD = -1
    OK = 0
    USAGE = 1
    CONFIG = 2
    EMULATOR = 3
    GRID = 4
    BAD_INPUT = 5
    TIME_ORDER = 6
    REGRID = 7
    CONSTRAINT = 8
    OUTPUT = 9
    RESTART = 10
    DEVICE = 11
    MPI = 12
    PYTHON_START = 13
    INTERNAL = 14


class CouplerError(Exception):
    """Base of every error the plugin raises; `status` is the number a C or Fortran host receives."""

    status = Status.INTERNAL


class UsageError(CouplerError):
    """A hook called out of order, with an unknown name or with a wrong length."""

    status = Status.USAGE


class ConfigError(CouplerError):
    """A configuration that cannot be read or does not validate."""

    status = Status.CONFIG


class EmulatorError(CouplerError):
    """An emulator folder that is missing, damaged or inconsistent."""

    status = Status.EMULATOR


class GridError(CouplerError):
    """Host cells that do not describe a grid: duplicates, overlaps, radians, corners off the sphere."""

    status = Status.GRID


class BadInputError(CouplerError):
    """State values that are missing, not finite, negative, above 1, or do not sum to what they must."""

    status = Status.BAD_INPUT


class TimeOrderError(CouplerError):
    """A year that repeats or goes against the configured direction."""

    status = Status.TIME_ORDER


class RegridError(CouplerError):
    """Weights that could not be made, read or trusted."""

    status = Status.REGRID


class ConstraintError(CouplerError):
    """Totals that could not be closed in a coarse cell."""

    status = Status.CONSTRAINT


class OutputError(CouplerError):
    """A folder, file or disk that could not be written."""

    status = Status.OUTPUT


class RestartError(CouplerError):
    """A restart file that is missing, damaged or belongs to another run."""

    status = Status.RESTART


class DeviceError(CouplerError):
    """A device that is not there or failed."""

    status = Status.DEVICE


class MPIError(CouplerError):
    """A communicator that is not usable from here."""

    status = Status.MPI


_BY_STATUS = {
    cls.status: cls
    for cls in (
        UsageError, ConfigError, EmulatorError, GridError, BadInputError, TimeOrderError, RegridError,
        ConstraintError, OutputError, RestartError, DeviceError, MPIError,
    )
}  # fmt: skip


def error_of(status: int, message: str) -> CouplerError:
    """The exception whose `status` is this number, for re-raising on every rank what failed on one."""
    return _BY_STATUS.get(Status(status), CouplerError)(message)
