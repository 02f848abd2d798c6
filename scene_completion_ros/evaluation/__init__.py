"""Metrics of completion, semantics, depth, features and calibration, the baselines to beat, what truth they need.

Each metric is a pure NumPy function and an accumulator with `update` and `compute`, whose state adds up over frames and
sequences.
"""
