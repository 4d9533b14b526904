"""Nothing to load."""


def load() -> None:
    """Nothing."""
