"""Measurements, beside peers, on one machine. ``python -m benchmarks --help``; what they mean: docs/performance.md."""
