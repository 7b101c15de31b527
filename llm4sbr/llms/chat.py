"""Prompts in a model's chat template, as token ids."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Chat"]


class Chat(NamedTuple):
    """How one model is spoken to."""

    tokenizer: Any
    template: str | None
    """Jinja; None for a model that only continues text."""
    specials: tuple[str, ...]
    """Texts that the tokenizer reads as control tokens."""

    @classmethod
    def of(cls, tokenizer: Any, template: str | None = None) -> Chat:
        """With this template, or else the tokenizer's own."""
        added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        specials = tuple(sorted(t for t in added | set(tokenizer.all_special_tokens) if len(t) > 1))
        return cls(tokenizer, template or tokenizer.chat_template, specials)

    def tokens(self, prompt: str) -> list[int]:
        """Token ids of a prompt in its template; control tokens in the text lose their meaning."""
        for special in self.specials:
            prompt = prompt.replace(special, f"{special[0]} {special[1:]}")
        if self.template is None:
            return list(self.tokenizer(prompt).input_ids)
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            chat_template=self.template,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,  # for templates that know it; an answer has no room for thoughts
        )
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)
