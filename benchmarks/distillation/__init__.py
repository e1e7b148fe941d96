"""The parts of `benchmarks/gld.py`: each measures, and makes a table of what it has measured."""
