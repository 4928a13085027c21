"""Pictures: of a run, of an evaluation, of a confusion matrix."""
