"""Prompts in a model's chat template, as token ids."""

from __future__ import annotations

from typing import Any, NamedTuple

from llm4sbr.errors import ModelUnavailableError

__all__ = ["Chat"]

PROBE = "Red Lamp"
"""A prompt that a template must show."""


class Chat(NamedTuple):
    """How one model is spoken to."""

    tokenizer: Any
    template: str | None
    """Jinja; None for a model that only continues text."""
    specials: tuple[str, ...]
    """Texts that the tokenizer reads as control tokens."""

    @classmethod
    def of(cls, tokenizer: Any, template: str | None = None) -> Chat:
        """With this template, or else the tokenizer's own.

        Raises:
            ModelUnavailableError: the template is broken, or leaves out what is asked.
        """
        added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        specials = tuple(sorted(t for t in added | set(tokenizer.all_special_tokens) if len(t) > 1))
        chat = cls(tokenizer, template or tokenizer.chat_template, specials)
        if chat.template is not None:
            chat._try_out()
        return chat

    def tokens(self, prompt: str) -> list[int]:
        """Token ids of a prompt in its template; control tokens in the text lose their meaning."""
        for special in self.specials:
            prompt = prompt.replace(special, f"{special[0]} {special[1:]}")
        if self.template is None:
            return list(self.tokenizer(prompt).input_ids)
        return list(self.tokenizer(self._rendered(prompt), add_special_tokens=False).input_ids)

    def _rendered(self, prompt: str) -> str:
        text: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            chat_template=self.template,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,  # for templates that know it; an answer has no room for thoughts
        )
        return text

    def _try_out(self) -> None:
        advice = "give another with infer.options.chat_template"
        try:
            text = self._rendered(PROBE)
        except Exception as error:  # of Jinja, or of the template's own making
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise ModelUnavailableError(f"the LLM's chat template fails ({reason}); {advice}") from None
        if PROBE not in text:
            raise ModelUnavailableError(f"the LLM's chat template leaves out what is asked; {advice}")
