"""Localizers: tie an answer to real items, so that titles the LLM invented do not reach the model."""

from llm4sbr.localizers.nearest import Nearest, top

__all__ = ["Nearest", "top"]
