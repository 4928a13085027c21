"""Reports of trained runs: one self-contained web page, and the tables and figures of a paper."""
