"""Lies here so that pytest puts this folder on the path: `from mpi import mpirun` works in every test."""
