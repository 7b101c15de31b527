"""LLM4SBR's second step: backbone and intents made into one score for every item."""
