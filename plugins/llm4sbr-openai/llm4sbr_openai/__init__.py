"""Any OpenAI-compatible server (vLLM, llama.cpp, Ollama, hosted ones) as an LLM.

Up to `concurrency` prompts are sent in parallel. After rate limits, server errors, broken connections and
timeouts a request is repeated, after a pause that grows or that the server asks for; the stage `infer` sends
prompts that still fail once more at its end. The API key is read from the environment and sent to this server
only.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import openai
from anyio.from_thread import start_blocking_portal

from llm4sbr import secrets
from llm4sbr.errors import ConfigError, ModelUnavailableError, UnansweredError

__all__ = ["OpenAILLM", "said"]

PUBLIC = "https://api.openai.com/v1"

KEY = "OPENAI_API_KEY"
"""The usual environment variable with the key."""

HOPELESS = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
"""Errors that every other prompt would get as well."""

LONGEST_PAUSE = 120.0
"""Maximum pause in seconds before a retry, even if the server asks for more."""

LONGEST_REASON = 300
"""Maximum number of characters shown of a server's error."""

FEW = 8
"""If a call has at least this many prompts and all fail, before any prompt was ever answered, the cause is
taken to concern all prompts."""


class ThoughtError(ValueError):
    """There is reasoning and no answer; `hint` says what to do."""

    hint = (
        "raise infer.options.max_new_tokens, or turn reasoning off, if the server can: "
        "infer.options.extra={chat_template_kwargs={enable_thinking=false}} or "
        '{reasoning_effort="none"}'
    )


class MisplacedError(ThoughtError):
    """The server took the answer for reasoning."""

    hint = (
        "start the server without its reasoning parser, or let the model reason: leave enable_thinking=false "
        "out of infer.options.extra"
    )


class OpenAILLM:
    """Answers prompts through a chat completions endpoint.

    Args:
        model: its name on the server; `--llm openai:NAME` sets it.
        url: base URL of the server; by default `OPENAI_BASE_URL`, else the public one.
        key_env: the environment variable with the API key; a server without keys needs none.
        concurrency: maximum number of parallel requests.
        retries: number of retries before a prompt is left for the end of the run.
        timeout: maximum silence of the server in seconds; a response that never ends is cut off after the
            total time that all retries may take.
        max_new_tokens: maximum length of an answer in tokens.
        temperature: 0 is greedy, as far as the server supports it.
        seed: sent with each request, for servers that support it.
        extra: further fields of the request, such as `{"reasoning_effort": "low"}`; a field that is None, or
            "" since TOML has no None, is removed (`{"max_tokens": "", "max_completion_tokens": 24}`).
        price: price of a million tokens, of prompts and of answers, for the plan.

    Raises:
        ConfigError: a key in the URL, in `extra` or in place of a variable's name, a variable that is not
            set, or a number out of range.
    """

    def __init__(
        self,
        model: str,
        *,
        url: str | None = None,
        key_env: str = KEY,
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
        _checked(price, extra)
        options = {"model": model, "url": self.url, "key_env": key_env, "extra": extra or {}}
        secrets.refuse({"infer": {"options": options}})
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"infer.options.url = {self.url!r}: expected http://HOST/v1 or https://HOST/v1")
        if key_env != KEY and key_env not in os.environ:
            raise ConfigError(
                "infer.options.key_env: names an environment variable that is not set; export it, or leave "
                "the option out for a server without keys"
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
        """Prompts per call: many more than are sent in parallel, so that a few slow ones do not block it."""
        self.price = tuple(price) if price else None
        self._key_env, self._retries, self._timeout = key_env, retries, timeout
        settings = {"max_tokens": max_new_tokens, "temperature": temperature, "seed": seed} | (extra or {})
        self._settings = {name: value for name, value in settings.items() if value not in (None, "")}
        self._tokens: dict[str, int] = {}
        self._heard = False

    @property
    def fingerprint(self) -> str:
        """Model, server and settings; never the key."""
        settings = ", ".join(f"{name} {value}" for name, value in sorted(self._settings.items()))
        return f"openai {self.model} at {self.url}, chat, {settings}"

    def request(self, prompt: str) -> dict[str, Any]:
        """The request body for one prompt."""
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            **self._settings,
        }

    def generate(self, prompts: Sequence[str]) -> list[str]:
        """One answer per prompt, in the order of `prompts`.

        Raises:
            UnansweredError: some prompts got no answer; it carries the others' answers.
            ModelUnavailableError: the server cannot be reached, refuses the key, or has no such model.
        """
        self._tokens.clear()
        if not prompts:
            return []
        with start_blocking_portal() as portal:  # its own event loop, since one may already be running
            found = portal.call(self._all, list(prompts))
        failures = [one for one in found if isinstance(one, Exception)]
        if not failures:
            self._heard = True
            return cast(list[str], found)
        self._heard |= len(failures) < len(found)
        if len(failures) == len(found):  # otherwise there are some answers, which must be kept
            early = not self._heard and len(found) >= FEW
            hopeless = [one for one in failures if self._hopeless(one, early=early)]
            if hopeless or all(map(_unreachable, failures)):
                raise ModelUnavailableError(self._explained((hopeless or failures)[-1])) from None
        answers = [None if isinstance(one, Exception) else one for one in found]
        raise UnansweredError(self._reason(failures[-1]), answers)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of prompts and answers of the last call, as counted by the server; 0 for other texts."""
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
        whole = (self._retries + 1) * self._timeout + self._retries * LONGEST_PAUSE
        async with gate:
            try:
                async with asyncio.timeout(whole):
                    # Fields of `extra` that the library does not know are added to the body unchanged.
                    body = await client.post("/chat/completions", cast_to=object, body=self.request(prompt))
                answer, self._tokens[prompt], tokens = said(body)
            except ThoughtError as error:
                return error
            except TimeoutError:
                return TimeoutError("no answer in time")
            except openai.OpenAIError as error:
                return error
            except (ValueError, RecursionError) as error:
                return ValueError(f"not an answer in the format of chat completions ({error})")
        self._tokens[answer] = tokens
        return answer

    def _hopeless(self, error: Exception, *, early: bool) -> bool:
        """Whether every other prompt would fail in the same way.

        Args:
            error: one prompt's error, when all prompts of the call failed.
            early: the call had many prompts, and no prompt was ever answered.
        """
        if not isinstance(error, openai.APIStatusError):
            return early and isinstance(error, ThoughtError)
        if isinstance(error, HOPELESS) or error.status_code == 402 or error.code == "insufficient_quota":
            return True
        # A request field that the server rejects affects all prompts; a context that is too short only one.
        text = _detail(error)
        named = any(re.search(rf"\b{re.escape(name)}\b", text) for name in ("model", *self._settings))
        return early and error.status_code in (400, 422) and named and "context" not in text

    def _explained(self, error: Exception) -> str:
        hint = f"check infer.options.model, .url and the environment variable {self._key_env}"
        if isinstance(error, ThoughtError):
            hint = error.hint
        elif _unreachable(error):
            hint = "check infer.options.url and that the server is running; answers so far are kept"
        elif isinstance(error, openai.APIStatusError) and error.status_code in (400, 422):
            hint = (
                'infer.options.extra replaces fields of the request or, with "", leaves them out: '
                '{max_tokens="", max_completion_tokens=64}'
            )
        return f"the LLM {self.model!r} at {self.url}: {self._reason(error)}; {hint}"

    def _reason(self, error: Exception) -> str:
        """One line about an error, without the request or a key that the server repeats."""
        text = secrets.mask(" ".join(_reason(error).split()), [self._key_env])
        return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} ..."


def said(body: Any) -> tuple[str, int, int]:
    """The text of a chat completion, and the token counts of prompt and answer.

    Raises:
        ThoughtError: the model was cut off before its answer began, or the server took it for reasoning.
        ValueError: another format.
    """
    try:
        choice = body["choices"][0]
        content = choice["message"].get("content")
        thoughts = choice["message"].get("reasoning_content") or choice["message"].get("reasoning")
        if isinstance(content, list):  # parts of one text, possibly with reasoning parts
            content = "".join(part["text"] for part in content if part.get("type", "text") == "text")
        if not isinstance(content, str | None):
            raise TypeError("its content is no text")
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    text = content or ""
    spoken = text.strip() and not re.match(r"\s*<think>(?!.*</think>)", text, re.DOTALL)
    if choice.get("finish_reason") == "length" and not spoken:
        raise ThoughtError("its tokens were used up before it said anything")
    if thoughts and not text.strip():
        raise MisplacedError("the answer came as reasoning, and none as content")
    usage = body.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return text, _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens"))


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value < 2**31 else 0


def _checked(price: object, extra: object) -> None:
    if price is not None:
        pair = price if isinstance(price, list | tuple) else ()
        if len(pair) != 2 or not all(type(one) in (int, float) and 0 <= one < float("inf") for one in pair):
            raise ConfigError(f"infer.options.price = {price!r}: expected two numbers, such as [0.15, 0.6]")
    if not isinstance(extra, dict | None):
        raise ConfigError(f"infer.options.extra = {extra!r}: expected a table of fields")


def _unreachable(error: Exception) -> bool:
    """Whether no server is listening; a connection that breaks later concerns only its own prompt."""
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")


def _reason(error: Exception) -> str:
    """One line about an error, without the request, so that no key can be in it."""
    if isinstance(error, openai.APIStatusError):
        detail = _detail(error)
        return f"status {error.status_code}{f' ({detail})' if detail else ''}"
    if isinstance(error, openai.APITimeoutError):
        return "no answer in time"
    if isinstance(error, openai.APIConnectionError):
        return f"connection failed ({type(error.__cause__ or error).__name__})"
    return str(error)


def _detail(error: openai.APIStatusError) -> str:
    """The server's error message."""
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or body.get("detail") or "")
