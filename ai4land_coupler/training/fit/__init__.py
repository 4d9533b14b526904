"""The training itself: samples, loss, loop, the emulator folder that comes out."""
