"""Damaged files against every reader: see `python -m tests.fuzz --help`."""
