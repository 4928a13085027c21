"""Images to predictions files, and several nets as one: ensembles, blends and weight averages."""
