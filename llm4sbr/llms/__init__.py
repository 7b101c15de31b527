"""LLMs, and the controls that take their place."""
