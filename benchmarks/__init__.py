"""Speed and memory of a few objectives beside the usual code: ``python -m benchmarks``."""
