"""The command line: one file a topic, each command a thin call into the package that does the work."""
