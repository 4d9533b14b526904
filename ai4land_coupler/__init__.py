"""Land-use emulator plugin for Earth system models: coarse state in, conserved fine fields out."""

__version__ = "0.1.0"
