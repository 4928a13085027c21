"""Benchmarks of training on the machine at hand: `tools/bench` and `tools/kill_resume`."""
