"""Localizers: tie an answer to real items, so that what the LLM made up cannot reach the model."""

from llm4sbr.localizers.nearest import Nearest, top

__all__ = ["Nearest", "top"]
