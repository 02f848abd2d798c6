"""Metrics of completion, depth and calibration, the baselines to beat, and what they need from ground truth.

Each metric is a pure NumPy function and an accumulator with `update`, `merge` and `compute`, whose state adds up over
frames, sequences and processes.
"""
