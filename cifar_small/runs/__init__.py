"""What a run leaves behind: its directory, checkpoints, predictions, lineage and records."""
