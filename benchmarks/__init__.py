"""Benchmarks against peers: each measurement has its own process, contenders take turns, medians are compared."""
