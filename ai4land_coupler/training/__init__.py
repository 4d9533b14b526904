"""Rebuilding of the data, training and evaluation of an emulator; nothing here is needed to run one."""
