"""The parts of `benchmarks/fusion.py`: what is decoded, the rivals, what the hardware allows, and the solver alone."""
