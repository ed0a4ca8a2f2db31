"""Benchmarks, most of whose figures are ratios to a named baseline measured in the same run."""
