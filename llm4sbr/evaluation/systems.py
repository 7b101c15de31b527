"""The systems of the paper's related work that run here: which row shows each, and what the paper says of it.

The sentences are quoted from section 2 of the paper (arXiv 2402.13840).
"""

from __future__ import annotations

from typing import NamedTuple

WHOLE = "LLM4SBR"
"""Name of the cell that has the paper's own method, and all baselines."""

WITHOUT = "without answers"
"""As what a row is compared with: itself, on the same samples, without the LLM's answers."""


class System(NamedTuple):
    """A system, and the comparison that tests a sentence about it."""

    name: str
    row: str
    """Its row in `metrics.json`."""
    against: str
    """The row that it is compared with, or `WITHOUT`."""
    sentence: str
    """The paper's; "" of a later system."""
    cell: str = WHOLE
    """The part of the experiment that has the row."""


_FINE = "difficulty in capturing specific fine-grained behavioral patterns"

SYSTEMS = (
    System(
        "list-wise ranking (Dai et al. 2023)",
        "list-wise",
        WITHOUT,
        "combining ChatGPT with traditional information retrieval (IR) ranking functions",
    ),
    System("pair-wise ranking (Dai et al. 2023)", "pair-wise", WITHOUT, _FINE),
    System("point-wise ranking (Dai et al. 2023)", "point-wise", WITHOUT, _FINE),
    System(
        "zero-shot rating (Kang et al. 2023)",
        "zero-shot-rating",
        WITHOUT,
        "the extent to which LLM understands user preferences based on the user's previous behavior",
    ),
    System(
        "LlamaRec (Yue et al. 2023)",
        "llamarec",
        WITHOUT,
        "a two-stage framework can better balance efficiency and performance",
    ),
    System(
        "GPT4Rec (Li et al. 2023)",
        "gpt4rec",
        WITHOUT,
        "optimizes product retrieval separately through a search engine",
    ),
    System(
        "PO4ISR (Sun et al. 2023)",
        "po4isr",
        WITHOUT,
        "continuously reflect and update the results from the perspective of real-time optimization prompts "
        "to improve the accuracy of recommendations",
    ),
    System(
        "LLMSeqSim (Harte et al. 2023)",
        "llmseqsim",
        "plain",
        "devised three strategies for leveraging LLM",
    ),
    System(
        "LLM2X (Harte et al. 2023)",
        "text-init",
        "plain",
        "using embeddings initialized with LLM significantly enhances the performance of sequence "
        "recommendation models",
    ),
    System(
        "LLM4SBR",
        "llm",
        "plain",
        "they solely rely on modeling the interaction information of sessions, thus lacking effective "
        "utilization of semantic information",
    ),
    System(
        "LLM4SBR, beside its own answers shuffled",
        "llm",
        "shuffled",
        "the importance of textual semantics",
    ),
    System(
        "CTRL (Li et al. 2023), session side",
        "llm",
        "plain",
        "adjusts the knowledge of the two modalities through comparative learning",
        cell="CTRL",
    ),
    System("SPRINT (Lee et al. 2025), validated intents", "llm", "plain", "", cell="SPRINT"),
)
"""In the order of the table."""
