"""What a run would ask of more workers and finer grids than are at hand: `ai4land plan`."""
