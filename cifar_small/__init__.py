"""Train, predict and submit small image classifiers under a parameter budget."""

__version__ = "0.1.0"
