"""Trains models: the loop, one step, checkpoints, several processes, and the predictor's distillation."""

SELECT_BY = "MRR@20"
"""Validation metric by which an epoch, a seed, and a variant where there is no LLM's, is chosen."""
