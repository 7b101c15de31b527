"""Between samples and an LLM's text: what to ask, in which order, what is known already, and the tables."""
