"""Asking the LLM: which prompts, in which order, the answer cache, and the tables of answers."""
