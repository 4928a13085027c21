"""Numbers from labels and logits: accuracy, calibration, coverage, significance, spread."""
