"""LlamaRec (Yue et al. 2023): a recommender finds candidates, and the LLM ranks their letters in one pass.

    p(i) = exp(z_i) / sum over candidates j of exp(z_j)      z_i: the LLM's logit of i's letter as next token

Differences from the paper: the LLM is asked as it is, not fine-tuned; the retriever is a named baseline, not
LRURec; candidates stand in alphabetical order; the prompt is in the LLM's own chat template.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor

from llm4sbr.errors import ConfigError, UnansweredError
from llm4sbr.protocols import LLM
from llm4sbr_related.candidates import LETTERS, Reranker

PROMPT = """Given what a user chose, oldest first, recommend one of the candidates by its letter.
Chosen:
{session}
Candidates:
{candidates}
Answer with the letter only."""


class LlamaRec(Reranker):
    """Ranks the candidates by the LLM's logits of their letters, one prompt and one pass a session."""

    component = "llamarec"

    def reader(self, llm: LLM) -> LLM:
        """Read the letters' log-probabilities from the LLM in the place of text.

        Raises:
            ConfigError: the LLM gives no logits.
        """
        return LetterScores(llm, LETTERS[: self.count])

    def prompts(self, items: Sequence[int]) -> list[str]:
        """One prompt with all candidates."""
        session, candidates = self.session(items), self.lettered(self.find(items).shown)
        return [PROMPT.format(session=session, candidates=candidates)]

    def rescored(self, items: Sequence[int], answers: Sequence[str]) -> Tensor:
        """float32 (N,): the candidates by their letters' log-probabilities."""
        found, (answer,) = self.find(items), answers
        scores = map(float, answer.split()) if _is_scores(answer) else ()
        return found.ranked(dict(zip(found.shown, scores, strict=False)))


class LetterScores:
    """An LLM whose answers are log-probabilities: of each letter among all letters, as text with spaces.

    Args:
        llm: has `next_token_scores`, as `transformers` and all that derive from it.
        letters: the letters.

    Raises:
        ConfigError: the LLM has none.
    """

    def __init__(self, llm: LLM, letters: str) -> None:
        if not hasattr(llm, "next_token_scores"):
            raise ConfigError(
                f"llamarec: the LLM ({llm.fingerprint}) gives no logits; take one that runs here, such as "
                "--set evaluate.llm=transformers:FOLDER"
            )
        self.llm = cast(Any, llm)
        self.letters = letters
        self.batch_size: int = self.llm.batch_size
        self.fingerprint = f"{self.llm.fingerprint}, next-token scores of {letters}"

    def generate(self, prompts: Sequence[str]) -> list[str]:
        """The log-probabilities after each prompt, in the letters' order.

        Raises:
            ConfigError: the LLM's tokenizer splits a letter.
            UnansweredError: some prompts are too long; it carries the others' answers.
        """
        scores: list[list[float] | None] = self.llm.next_token_scores(prompts, list(self.letters))
        texts = [None if row is None else " ".join(f"{value:.4f}" for value in row) for row in scores]
        if None in texts:
            raise UnansweredError("a prompt is longer than the model's window", texts)
        return [text for text in texts if text is not None]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of prompts; an answer is one token."""
        counts: list[int] = self.llm.count_tokens(texts)
        return [1 if _is_scores(text) else count for text, count in zip(texts, counts, strict=True)]


def _is_scores(text: str) -> bool:
    return re.fullmatch(r"-?\d+\.\d+( -?\d+\.\d+)*", text) is not None
