"""Evaluation: ranks, metrics, comparison of models, breakdown by groups of samples, and the verdict."""
