"""Any OpenAI-compatible server (vLLM, llama.cpp, Ollama, hosted ones) as an LLM.

Up to `concurrency` prompts are sent in parallel. After rate limits, server errors, broken connections and
timeouts a request is repeated, after a pause that grows or that the server asks for; the stage `infer` sends
prompts that still fail once more at its end. The API key is read from the environment and sent to this server
only.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import openai
from anyio.from_thread import start_blocking_portal

from llm4sbr import secrets
from llm4sbr.errors import ConfigError, ModelUnavailableError, UnansweredError
from llm4sbr_openai.reply import NoAnswerError, said

__all__ = ["OpenAILLM", "said"]

PUBLIC = "https://api.openai.com/v1"

KEY = "OPENAI_API_KEY"
"""The usual environment variable with the key."""

FIXED = {
    "model": "infer.options.model sets it",
    "messages": "the perspective writes them",
    "n": "one answer per prompt is read",
    "stream": "answers are read whole",
}
"""Fields of a request that `extra` cannot set, and why."""

PASSING = (408, 409, 425, 429, 503, 504, 529)
"""Statuses of a server that may answer later."""

LISTING = 5.0
"""Maximum seconds to wait for the list of models."""

SHOWN = 5
"""Maximum number of models named in a message."""

HOPELESS = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
"""Errors that every other prompt would get as well."""

LONGEST_PAUSE = 120.0
"""Maximum pause in seconds before a retry, even if the server asks for more."""

LONGEST_REASON = 300
"""Maximum number of characters shown of a server's error."""

FEW = 8
"""If a call has at least this many prompts and all fail, before any prompt was ever answered, the cause is
taken to concern all prompts."""


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
        if settings.get("max_completion_tokens"):  # its successor; servers refuse both, or take the other one
            settings["max_tokens"] = (extra or {}).get("max_tokens")
        self._settings = {name: value for name, value in settings.items() if value not in (None, "")}
        self.stops = _stops(self._settings.get("stop"))
        self._tokens: dict[str, int] = {}
        self._heard = False
        self._offered: list[str] = []
        self.answered: Callable[[str, str, int], None] | None = None
        """Called with prompt, answer and tokens as soon as an answer comes."""

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
            hopeless = [one for one in failures if _hopeless(one) or (early and _lasting(one))]
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
            found: dict[int, str | Exception] = {}
            if not self._heard and len(prompts) >= FEW:
                found = dict(enumerate(await self._first(client, gate, prompts)))
                if all(isinstance(one, Exception) and _lasting(one) for one in found.values()):
                    return [found.get(place, found[0]) for place in range(len(prompts))]
            left = [place for place in range(len(prompts)) if not isinstance(found.get(place), str)]
            more = await asyncio.gather(*(self._one(client, gate, prompts[place]) for place in left))
            found |= dict(zip(left, more, strict=True))
            return [found[place] for place in range(len(prompts))]

    async def _first(
        self, client: openai.AsyncOpenAI, gate: asyncio.Semaphore, prompts: list[str]
    ) -> list[str | Exception]:
        """What the server says to the first few prompts, with one retry at most.

        A server on which nothing works would otherwise be asked about all prompts, and every retry waits. Of
        a server that does not list the model, one prompt is enough.
        """
        self._offered = await _offered(client, min(self._timeout, LISTING))
        few = 1 if self._offered and self.model not in self._offered else FEW
        hasty = client.with_options(max_retries=min(self._retries, 1))
        return await asyncio.gather(*(self._one(hasty, gate, prompt) for prompt in prompts[:few]))

    async def _one(self, client: openai.AsyncOpenAI, gate: asyncio.Semaphore, prompt: str) -> str | Exception:
        whole = (self._retries + 1) * self._timeout + self._retries * LONGEST_PAUSE
        async with gate:
            try:
                async with asyncio.timeout(whole):
                    # Fields of `extra` that the library does not know are added to the body unchanged.
                    body = await client.post("/chat/completions", cast_to=object, body=self.request(prompt))
                answer, self._tokens[prompt], tokens = said(body, self.stops)
            except NoAnswerError as error:
                return error
            except TimeoutError:
                return TimeoutError("no answer in time")
            except openai.OpenAIError as error:
                return error
            except json.JSONDecodeError as error:
                return ValueError(f"no JSON, but: {error.doc or 'nothing'}")
            except (ValueError, RecursionError) as error:
                return ValueError(f"not an answer in the format of chat completions ({error})")
        self._tokens[answer] = tokens
        if self.answered is not None:
            self.answered(prompt, answer, self._tokens[prompt] + tokens)
        return answer

    def _explained(self, error: Exception) -> str:
        hint = f"check infer.options.model, .url and the environment variable {self._key_env}"
        if self._offered and self.model not in self._offered:
            hint = f"the server lists {', '.join(self._offered[:SHOWN])}: choose one with infer.options.model"
        elif isinstance(error, NoAnswerError):
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


def _checked(price: object, extra: object) -> None:
    if price is not None:
        pair = price if isinstance(price, list | tuple) else ()
        if len(pair) != 2 or not all(type(one) in (int, float) and 0 <= one < float("inf") for one in pair):
            raise ConfigError(f"infer.options.price = {price!r}: expected two numbers, such as [0.15, 0.6]")
    if not isinstance(extra, dict | None):
        raise ConfigError(f"infer.options.extra = {extra!r}: expected a table of fields")
    for name, reason in FIXED.items():
        if name in (extra or {}):
            raise ConfigError(f"infer.options.extra.{name}: {reason}; leave it out")


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
    """The server's error message, or what it sent instead of JSON, without a page's tags."""
    body = error.body
    if isinstance(body, dict):
        return str(body.get("message") or body.get("detail") or body.get("msg") or "")
    return re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", str(body or ""), flags=re.DOTALL).strip()


def _hopeless(error: Exception) -> bool:
    """Whether no prompt will be answered, whenever it comes."""
    if not isinstance(error, openai.APIStatusError):
        return False
    return isinstance(error, HOPELESS) or error.status_code == 402 or error.code == "insufficient_quota"


def _lasting(error: Exception) -> bool:
    """Whether an error that the first prompts have in common is one that waiting does not mend."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code not in PASSING and "context" not in _detail(error)
    return isinstance(error, ValueError)  # no answer, or no chat completion


async def _offered(client: openai.AsyncOpenAI, timeout: float) -> list[str]:
    """Ids of the models that the server lists; none if it does not say."""
    try:
        async with asyncio.timeout(timeout):
            listed: Any = await client.with_options(max_retries=0).get("/models", cast_to=object)
        return [str(one["id"]) for one in listed["data"]]
    except (openai.OpenAIError, TimeoutError, KeyError, TypeError, ValueError, RecursionError):
        return []


def _stops(given: Any) -> list[str]:
    """The texts at which an answer ends."""
    texts = [given] if isinstance(given, str) else given or []
    if not isinstance(texts, list | tuple) or not all(isinstance(one, str) and one for one in texts):
        raise ConfigError(f"infer.options.extra.stop = {given!r}: expected a text or a list of texts")
    return list(texts)
