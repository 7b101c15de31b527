"""Ways to ask an LLM about a session, and what is made of its answers."""

from llm4sbr.perspectives.worded import Choose, Long, Normal, Short, Worded, Wording, load_wording

__all__ = ["Choose", "Long", "Normal", "Short", "Worded", "Wording", "load_wording"]
