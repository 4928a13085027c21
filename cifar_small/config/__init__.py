"""The configuration of a run: schema, loading, resolved phases, hashes."""
