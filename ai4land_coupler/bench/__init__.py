"""`ai4land bench`: what a step costs on this machine, as ratios taken in turn in one run."""
