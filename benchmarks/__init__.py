"""Measurements of the project, alone and beside others: `python -m benchmarks --help`, and README.md beside this."""
