"""Many runs that differ in named settings: cells of a grid, drawn at random, proposed by TPE, or written by hand.

A sweep is a folder. Workers, on one machine or many, share nothing else: `claims` divides the runs among them, `worker` trains
them, and `table` says what came out, chosen on val alone. `run` holds the order of it all.
"""
