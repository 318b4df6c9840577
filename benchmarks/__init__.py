"""Benchmarks: each figure stands beside a baseline that was measured in the same run, and the ratio is what counts."""
