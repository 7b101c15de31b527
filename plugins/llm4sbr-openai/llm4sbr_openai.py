"""Any OpenAI-compatible server (vLLM, llama.cpp, Ollama, hosted ones) as an LLM.

Prompts are asked side by side, at most `concurrency` at once. Limits of rate, errors of the server, cut
connections and time-outs are tried again after a pause that grows, or that the server asked for; what still
fails is asked once more at the end of the run, by the stage itself. The key comes from the environment and
goes nowhere else.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import openai
from anyio.from_thread import start_blocking_portal
from openai.types.chat import ChatCompletion

from llm4sbr.errors import ConfigError, ModelUnavailableError, UnansweredError

__all__ = ["OpenAILLM"]

PUBLIC = "https://api.openai.com/v1"

HOPELESS = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
"""Errors that every other prompt would meet as well."""


class OpenAILLM:
    """Answers prompts through a chat completions endpoint.

    Args:
        model: its name on the server; `--llm openai:NAME` sets it.
        url: base URL of the server, by default `OPENAI_BASE_URL`, else the public one.
        key_env: the environment variable that holds the key; a server without keys needs none.
        concurrency: requests at once, at most.
        retries: how often a request is tried again before it is left for the end of the run.
        timeout: seconds that a request may take.
        max_new_tokens: an answer is cut off after so many tokens.
        temperature: 0 is greedy, as far as the server is.
        seed: sent along, for servers that know it.
        extra: further fields of the request, such as `{"reasoning_effort": "low"}`; a field that is None is
            left out (`{"max_tokens": None, "max_completion_tokens": 24}`).
        price: what a million tokens cost, of prompts and of answers, for the plan.

    Raises:
        ConfigError: a URL with a password in it, or a number out of range.
    """

    def __init__(
        self,
        model: str,
        *,
        url: str | None = None,
        key_env: str = "OPENAI_API_KEY",
        concurrency: int = 16,
        retries: int = 5,
        timeout: float = 60.0,
        max_new_tokens: int = 24,
        temperature: float = 0.0,
        seed: int = 0,
        extra: dict[str, Any] | None = None,
        price: Sequence[float] | None = None,
    ) -> None:
        self.url = (url or os.environ.get("OPENAI_BASE_URL") or PUBLIC).rstrip("/")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"infer.options.url = {self.url!r}: expected http://HOST/v1 or https://HOST/v1")
        if parts.username or parts.password or parts.query:
            raise ConfigError(
                f"infer.options.url: a key does not belong in a URL of {parts.hostname}; put it into the "
                f"environment variable {key_env}"
            )
        if concurrency < 1 or retries < 0 or timeout <= 0 or max_new_tokens < 1:
            raise ConfigError(
                "infer.options: concurrency and max_new_tokens must be at least 1, timeout above 0, retries "
                "not below 0"
            )
        self.model = model
        self.concurrency = concurrency
        self.max_new_tokens = max_new_tokens
        self.batch_size = 8 * concurrency
        """Prompts per call, so many that slow ones hold nobody up."""
        self.price = tuple(price) if price else None
        self._key_env, self._retries, self._timeout = key_env, retries, timeout
        settings = {"max_tokens": max_new_tokens, "temperature": temperature, "seed": seed} | (extra or {})
        self._settings = {name: value for name, value in settings.items() if value is not None}
        self._tokens: dict[str, int] = {}

    @property
    def fingerprint(self) -> str:
        """Model, server and settings; never the key."""
        settings = ", ".join(f"{name} {value}" for name, value in sorted(self._settings.items()))
        return f"openai {self.model} at {self.url}, chat, {settings}"

    def request(self, prompt: str) -> dict[str, Any]:
        """The body of the request about one prompt."""
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            **self._settings,
        }

    def generate(self, prompts: Sequence[str]) -> list[str]:
        """One answer per prompt, in the order of `prompts`.

        Raises:
            UnansweredError: some got none; it carries the others' answers.
            ModelUnavailableError: the server cannot be reached, refuses the key, or has no such model.
        """
        self._tokens.clear()
        if not prompts:
            return []
        with start_blocking_portal() as portal:  # a loop of its own, also where one is running already
            found = portal.call(self._all, list(prompts))
        failures = [one for one in found if isinstance(one, Exception)]
        if not failures:
            return cast(list[str], found)
        if len(failures) == len(found):  # otherwise some answers are here, and must not be lost
            hopeless = [one for one in failures if isinstance(one, HOPELESS)]
            if hopeless or all(map(_unreachable, failures)):
                raise ModelUnavailableError(self._explained((hopeless or failures)[-1])) from None
        answers = [None if isinstance(one, Exception) else one for one in found]
        raise UnansweredError(_reason(failures[-1]), answers)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """What the server counted for prompts and answers of the last call; 0 for any other text."""
        return [self._tokens.get(text, 0) for text in texts]

    async def _all(self, prompts: list[str]) -> list[str | Exception]:
        gate = asyncio.Semaphore(self.concurrency)
        async with openai.AsyncOpenAI(
            api_key=os.environ.get(self._key_env) or "none",
            base_url=self.url,
            max_retries=self._retries,
            timeout=self._timeout,
        ) as client:
            return list(await asyncio.gather(*(self._one(client, gate, prompt) for prompt in prompts)))

    async def _one(self, client: openai.AsyncOpenAI, gate: asyncio.Semaphore, prompt: str) -> str | Exception:
        async with gate:
            try:
                # Fields of `extra` that the library does not know go into the body as they are.
                found = await client.post(
                    "/chat/completions", cast_to=ChatCompletion, body=self.request(prompt)
                )
                answer = found.choices[0].message.content or ""
                if not isinstance(answer, str):
                    raise TypeError("its content is no text")
            except openai.OpenAIError as error:
                return error
            except (AttributeError, IndexError, TypeError, ValueError) as error:
                return ValueError(f"not an answer in the format of chat completions ({error})")
        usage = getattr(found, "usage", None)
        if usage is not None:
            self._tokens[prompt], self._tokens[answer] = (
                usage.prompt_tokens or 0,
                usage.completion_tokens or 0,
            )
        return answer

    def _explained(self, error: Exception) -> str:
        hint = f"check infer.options.model, .url and the environment variable {self._key_env}"
        if _unreachable(error):
            hint = "check infer.options.url and that the server runs; answers so far are kept"
        return f"the LLM {self.model!r} at {self.url}: {_reason(error)}; {hint}"


def _unreachable(error: Exception) -> bool:
    """Whether nobody listens there; a connection that was cut later is the prompt's own misfortune."""
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")


def _reason(error: Exception) -> str:
    """One line about an error, without the request, so that no key can be in it."""
    if isinstance(error, openai.APIStatusError):
        body = error.body if isinstance(error.body, dict) else {}
        detail = " ".join(str(body.get("message", "")).split())[:200]
        return f"status {error.status_code}{f' ({detail})' if detail else ''}"
    if isinstance(error, openai.APITimeoutError):
        return "no answer in time"
    if isinstance(error, openai.APIConnectionError):
        return f"connection failed ({type(error.__cause__ or error).__name__})"
    return " ".join(str(error).split())[:300]
