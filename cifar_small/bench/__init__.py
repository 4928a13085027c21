"""Benchmarks on the machine at hand: `tools/bench` runs those of a config, `cifar-small bench` that of trained nets.

Nothing but these two command lines imports from here.
"""
