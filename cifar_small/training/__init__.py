"""From a config to a run directory: the loop, its state, and what surrounds it."""
