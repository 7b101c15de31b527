"""Baselines: recommenders without a neural network, measured by the same metrics."""
