"""`python -m ai4land_coupler` is `ai4land`."""

from ai4land_coupler.cli import app

app()
