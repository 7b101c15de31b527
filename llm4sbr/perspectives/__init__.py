"""Perspectives: how an LLM is asked about a session, and how its answers are parsed."""

from llm4sbr.perspectives.worded import (
    Audience,
    Choose,
    Complement,
    Long,
    Next,
    Normal,
    Short,
    Worded,
    Wording,
    load_wording,
)

__all__ = [
    "Audience",
    "Choose",
    "Complement",
    "Long",
    "Next",
    "Normal",
    "Short",
    "Worded",
    "Wording",
    "load_wording",
]
