"""Benchmarks: time and memory side by side, each figure with the limit it has to keep."""
