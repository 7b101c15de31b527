"""Reads chat completions: the answer in a reply, or why there is none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

__all__ = ["NoAnswerError", "said"]

THOUGHT = re.compile(r"\s*<think>.*?(?:</think>|\Z)", re.DOTALL)


class NoAnswerError(ValueError):
    """A reply that was sent as a success and holds no answer; `hint` says what to do."""

    hint = "ask the server outside of llm4sbr what it says, and see its log"


class ErrorReply(NoAnswerError):
    """The server sent an error as a success."""


class RefusedError(NoAnswerError):
    """The model refused, or a filter took the answer away."""

    hint = "ask with another wording (infer.wording), or another model"


class EmptyError(NoAnswerError):
    """There is no text at all."""

    hint = (
        "look at the chat template that the server has for this model, or raise infer.options.max_new_tokens"
    )


class ThoughtError(NoAnswerError):
    """There is reasoning and no answer."""

    hint = (
        "raise infer.options.max_new_tokens, or turn reasoning off, if the server can: "
        "infer.options.extra={chat_template_kwargs={enable_thinking=false}} or "
        '{reasoning_effort="none"}'
    )


class MisplacedError(NoAnswerError):
    """The server took the answer for reasoning."""

    hint = (
        "start the server without its reasoning parser, or let the model reason: leave enable_thinking=false "
        "out of infer.options.extra"
    )


def said(body: Any, stops: Sequence[str] = ()) -> tuple[str, int, int]:
    """The text of a chat completion, and the token counts of prompt and answer.

    Args:
        body: the reply.
        stops: texts at which the answer ends, since some servers leave them in.

    Raises:
        NoAnswerError: the reply is no answer, whatever its status: an error, a refusal, a filter's work,
            reasoning alone, or nothing.
        ValueError: another format.
    """
    choice, message = _choice(body)
    content = message.get("content")
    thoughts = message.get("reasoning_content") or message.get("reasoning")
    try:
        refusal = message.get("refusal") or ""
        if isinstance(content, list):  # parts of one text, possibly with reasoning parts
            refusal = refusal or "".join(str(part.get("refusal") or "") for part in content)
            content = "".join(part["text"] for part in content if part.get("type", "text") == "text")
        if not isinstance(content, str | None):
            raise TypeError("its content is no text")
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    text = content or ""
    for stop in stops:
        text = text.partition(stop)[0]
    ending = choice.get("finish_reason")
    if ending == "content_filter":
        raise RefusedError("a content filter took the answer away")
    if not THOUGHT.sub("", text).strip():
        _explain(str(refusal), ending, bool(thoughts), bool(text.strip()))
    usage = body.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return text, _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens"))


def _choice(body: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first choice of a reply, and its message."""
    if isinstance(body, str):
        raise ValueError(f"no JSON, but: {body or 'nothing'}")
    if isinstance(body, dict) and body.get("error"):
        raise ErrorReply(f"an error sent as a success: {_words(body['error'])}")
    try:
        choice = body["choices"][0]
        if isinstance(choice, dict) and choice.get("error"):
            raise ErrorReply(f"an error sent as a success: {_words(choice['error'])}")
        message = choice["message"]
        message.get, choice.get  # noqa: B018 - both are tables
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    return choice, message


def _explain(refusal: str, ending: object, thoughts: bool, begun: bool) -> None:
    """Raise the error of a reply without a text."""
    if refusal:
        raise RefusedError(f"the model refused: {refusal}")
    if ending == "length":
        raise ThoughtError("its tokens were used up before it said anything")
    if thoughts:
        raise MisplacedError("the answer came as reasoning, and none as content")
    raise ThoughtError("a thought and no answer") if begun else EmptyError("it said nothing")


def _words(error: object) -> str:
    return str(error.get("message") or error) if isinstance(error, dict) else str(error)


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value < 2**31 else 0
