"""Prompts in a model's chat template, as token ids."""

from __future__ import annotations

from typing import Any, NamedTuple

from llm4sbr.errors import ModelUnavailableError

__all__ = ["Chat"]

PROBE = "Red Lamp"
"""A test prompt; a chat template is refused if it drops it."""


class Chat(NamedTuple):
    """A model's tokenizer and chat template."""

    tokenizer: Any
    template: str | None
    """Jinja template; None for a model without a chat format, which only continues text."""
    specials: tuple[str, ...]
    """Texts that the tokenizer treats as control tokens."""

    @classmethod
    def of(cls, tokenizer: Any, template: str | None = None) -> Chat:
        """With this template, or else the tokenizer's own.

        Raises:
            ModelUnavailableError: the template fails, or does not contain the prompt.
        """
        added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        specials = tuple(sorted(t for t in added | set(tokenizer.all_special_tokens) if len(t) > 1))
        chat = cls(tokenizer, template or tokenizer.chat_template, specials)
        if chat.template is not None:
            chat._try_out()
        return chat

    def tokens(self, prompt: str) -> list[int]:
        """Token ids of a prompt in its template; control tokens inside the prompt are made harmless."""
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
            enable_thinking=False,  # for templates that support it; answers are too short for reasoning
        )
        return text

    def _try_out(self) -> None:
        advice = "give another with infer.options.chat_template"
        try:
            text = self._rendered(PROBE)
        except Exception as error:  # from Jinja, or raised by the template itself
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise ModelUnavailableError(f"the LLM's chat template fails ({reason}); {advice}") from None
        if PROBE not in text:
            raise ModelUnavailableError(f"the LLM's chat template leaves out what is asked; {advice}")
