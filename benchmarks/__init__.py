"""Benchmarks: ``python -m benchmarks.<name>`` prints tables. Never part of a test, since machines differ."""
