"""Stands in for the package where the C layer is watched alone: no emulator, no torch, the same crossing."""
