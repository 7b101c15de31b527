"""Recommenders without a network, under the same metrics."""
