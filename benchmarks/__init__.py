"""Measures Cronpost beside its peers on one machine. ``python -m benchmarks --help``; docs/performance.md explains
the results."""
