"""Benchmarks of a config on the machine at hand; `tools/bench` runs them. No other module imports from here."""
