"""Cleans untrusted text: titles for prompts, and titles from an LLM's answers.

Small models wrap the title in words ("The item I'm referring to is ..."). Each rule below removes something;
the rules are applied until nothing changes, so parsing a parsed answer changes nothing.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache

__all__ = ["one_line", "parse_answer", "parse_sentence"]

TITLE_LENGTH = 120
"""Maximum length in a prompt of a title, or of all attributes of an item, in characters."""

ANSWER_LENGTH = 200
"""Maximum length of a parsed answer in characters; a longer one is not a title."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line separators, bidirectional control characters and lone surrogates."""

_TOKENS = (
    re.compile(r"<([^<>\s][^<>]{0,60})>"),
    re.compile(r"\[(/?(?:INST|SYS(?:TEM_PROMPT)?|(?:AVAILABLE_)?TOOL[A-Z_]*|g?MASK|SEP|CLS))\]"),
)
"""Text that tokenizers read as a control token: `<|im_end|>`, `</s>`, `[INST]`."""


@lru_cache(maxsize=2**15)  # millions of prompts show the same few titles again and again
def one_line(text: str, limit: int = TITLE_LENGTH) -> str:
    """A text of the data, prepared for a prompt.

    Line breaks and control characters are removed, and a long text is truncated visibly. What looks like a
    control token of a chat template gets other brackets, since the tokens of an LLM on a server are unknown.
    """
    text = _cut(_flat(text), limit)
    while (plain := _without_tokens(text)) != text:  # terminates, since every round removes brackets
        text = plain
    return text


def _without_tokens(text: str) -> str:
    for token in _TOKENS:
        text = token.sub("\u2039\\1\u203a", text)
    return text


def _flat(text: str) -> str:
    return " ".join(_CONTROL.sub(" ", text).split())


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def parse_answer(answer: str) -> str:
    """The item that an answer names, without the words around it; "" for a refusal or an empty answer.

    `The item is "Toy Story (1995)_12".` becomes `Toy Story (1995)`.
    """
    text = answer
    while (shorter := _unwrapped(_line(text))) != text:  # terminates, since every rule only removes
        text = shorter
    return text if len(text) <= ANSWER_LENGTH else ""


def parse_sentence(answer: str) -> str:
    """An answer in words of its own, on one line and not too long; "" for a refusal or an empty answer."""
    text = answer
    while (shorter := _flat(_MARKS.sub("", _spoken(text))).strip(" *`")) != text:
        text = shorter
    text = _cut(text, ANSWER_LENGTH * 2)
    return "" if any(rule.match(text) for rule in _UNUSABLE) else text


_THOUGHT = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)

_MARKS = re.compile(
    r"<\|[^<>|]{1,40}\|>|</?(?:s|eos|end_of_turn|answer|title|item|name|b|i|em|strong)>", re.I
)
"""Control tokens that a server left in the text, and markers that a model puts around its answer."""

_FENCE = re.compile(r"\s*```\w*\s*")
_RULER = re.compile(r"\|?[\s:|]*-{3}[-\s:|]*")
"""The line below a table's header."""

_JSON = re.compile(
    r'\s*(?:\{[^{}\[\]]*?"[\w ]*(?:title|name|item|movie|film|book|product|song|game|answer|recommendation|'
    r'suggestion|category)"\s*:|\[)\s*("(?:[^"\\\n]|\\.)+")',
    re.IGNORECASE,
)


def _line(answer: str) -> str:
    """The first meaningful line; a line that only announces the answer is skipped."""
    answer = _MARKS.sub("", _spoken(answer))
    texts = [text for text in answer.splitlines() if not _FENCE.fullmatch(text)]
    named = _JSON.match("\n".join(texts[:20]))
    if named:
        return _cut(_flat(_said(named[1])), ANSWER_LENGTH * 2)
    for place, text in enumerate(texts[:3]):
        if "|" in text and _RULER.fullmatch(text):
            texts = [cells.strip(" |").partition("|")[0] for cells in texts[place + 1 :]]
            break
    lines = [clean for line in texts if (clean := _cut(_flat(line), ANSWER_LENGTH * 2))]
    announced = len(lines) > 1 and lines[0].endswith((":", "："))  # noqa: RUF001
    return lines[announced] if lines else ""


def _spoken(answer: str) -> str:
    """The answer without the model's reasoning (`<think>`), also if one of the two tags is missing."""
    for mark in reversed(list(_THOUGHT.finditer(answer))):
        if mark[1]:
            return answer[mark.end() :]
        answer = answer[: mark.start()]
    return answer


def _said(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        return text.strip('"')


def _unwrapped(text: str) -> str:
    """Apply all rules once."""
    text = text.strip(" *`_,;:")
    for rule in _LEADS:
        text = rule.sub("", text, count=1)
    text = _unquoted(text)
    for rule in _TAILS:
        text = rule.sub("", text, count=1)
    return "" if any(rule.match(text) for rule in _UNUSABLE) else text


def _unquoted(text: str) -> str:
    """The quoted text, if the text begins with a quotation and the title does not go on after it."""
    closing = _QUOTES.get(text[:1])
    if closing is None:
        return text
    inner, found, rest = text[1:].partition(closing)
    if not found:
        return inner
    return inner if inner.strip() and (closing == "》" or _AFTER_QUOTE.match(rest)) else text


_PAIRS = ('""', "''", "“”", "„“", "\u2018\u2019", "«»", "»«", "\u2039\u203a", "「」", "『』", "《》")
_QUOTES = {pair[0]: pair[1] for pair in _PAIRS}
_AFTER_QUOTE = re.compile(r"$|[.,;:!?)_\d。，、（]|\s+[a-z(\-\u2013]")  # noqa: RUF001

_KIND = "(?:item|movie|film|product|book|song|game)"
_THING = f"(?:{_KIND}|title|name|answer|guess|choice|recommendation|suggestion|prediction)"
_A_KIND = rf"(?:(?:the|an?) )?{_KIND}s?(?: (?:titled|called|named))?"
_DO = (
    r"(?:to )?(?:like|love|enjoy|want|prefer|watch|see|read|buy|play|choose|pick|try|get|have|be|"
    r"also|next|likely|probably)"
)
_LIKES = rf"(?:might|may|would|could|will|should|wants?|likes?|loves?|is likely|is)(?: {_DO}| interested in)*"
_IS = "(?:is|was|would be|could be|might be|may be|will be)"

# Text after a wrapper is matched case-sensitively, so that titles such as "It" or "Like Water" survive.
_LEADS = [
    re.compile(pattern)
    for pattern in (
        r"^(?:[-*•>#]+|\d{1,3}[.)]|\(\d{1,2}\))\s+",
        r"^[^《]{1,80}(?=《[^》]+》)",  # marks that surround Chinese titles and occur in none
        r"^\[(?=[^\]]+\]\(\w+://)",  # a Markdown link; its address is removed below
        r"^(?i:sure|certainly|of course|okay|ok|absolutely)\s*[,!.:]\s+",
        rf"^(?i:(?:my |final |the )?(?:assistant|output|response|recommended|{_THING}(?: name| title)?)"
        r"(?: #?\d{1,3})?)\s*:\s*",
        r"^(?i:here(?:['\u2019]s| is| are))\b[^.:\"“]{0,80}:\s+(?=\S)",
        rf"^(?i:the|an?|one)\s+(?:[\w-]+\s+){{0,3}}?{_THING}s?\s+(?:(?:that|which)\s+)?(?:the|this) user\b"
        rf"[^.:\"“]{{0,40}}\binterested in\b[^.:\"“]{{0,40}}?\s{_IS}:?\s+(?=\S)",
        r"^(?i:based on)\b[^\"“:]{0,200}?[,:]\s+",
        rf"^(?i:here(?:'s| is) )?(?i:the|an?|one|my|your|this|another)\s+(?:[\w-]+\s+){{0,3}}?"
        rf"(?i:{_THING})s?\b[^.:\"“]{{0,100}}?\s{_IS}\b:?\s+(?=\S)",
        rf"^[^.\"“]{{0,80}}[\"“][^\"”]{{1,120}}[\"”][^.\"“]{{0,80}}?\s{_IS}:?\s+(?=[\"“])",
        rf"^(?i:(?:the|this|a) user|they|you)\s+(?:chose|requested|selected|{_LIKES})"
        rf"(?: {_A_KIND})?:?\s+(?=\S)",
        rf"^I(?:'d| would|'ll| will)?\s+(?:guess|recommend|suggest|choose|pick|say|think|believe)\b"
        rf"(?: (?:that|trying|watching|reading|{_A_KIND}))*(?: {_IS})?:?\s+(?=\S)",
        rf"^[Tt]he {_KIND}(?: (?:titled|called|named))?,?\s+(?=[\"“«])",
    )
]

_TAILS = [
    re.compile(pattern)
    for pattern in (
        r"\]\(\w+://.*$",
        r"(?<=\(\d{4}\))(?:\s*[,;:]|\s+[-\u2013\u2014]|\s+and)\s+(?=[a-z]|.*\(\d{4}\)).*$",
        r"[.,;]?\s+(?:because|since|as it|as the|which is|that is|who is)\s.*$",
        r"[.!?]\s+(?:The|This|It|I|They|Based|Because|As|However|Please|If|Here|He|She|You|Note)\b:?\s+[a-z'].*$",
        r"\s+\((?i:note|explanation|because|only)\b.*$",
        r"_\d+\W*$",
        r"[\"”»]+[.,]*$",
        r"(?<!\b[A-Z])(?<!\bJr)(?<!\bSr)(?<!\bInc)(?<!\bCo)(?<!\bLtd)(?<!\bVol)(?<!\.)\.$",
        r"[\s,;:。，、；：]+$",  # noqa: RUF001
    )
]

_UNUSABLE = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"^(?:i['\u2019]m |i am )?(?:very )?sorry\b,? (?:but|i\b|for\b)",
        r"^(?:i apologi[sz]e|unfortunately|my apologies)\b,? "
        r"(?:but|i\b|for\b|as\b|there\b|the (?:list|information)\b)",
        r"^(?:je suis désolée?|lo siento|es tut mir leid|к сожалению|"
        r"(?:很|非常)?抱歉|对不起|申し訳\w*|죄송\w*)\s*[,，、。.].",  # noqa: RUF001
        r"^as an? (?:ai|language|large)\b",
        r"^i (?:can['\u2019]t|can ?not|could not|am unable|am not able|do not|don['\u2019]t|need more)\b"
        r".*\b(?:guess|predict|recommend|provide|help|assist|answer|know|determine|have|access|information)\b",
        r"^(?:unknown|none|null|nothing|n/?a|no item|no answer|(?:the )?(?:item|title)|item ?name)\W*$",
        r"^there (?:is|are) no\b.*\b(?:item|answer|information|title)s?\b",
        r"^\W*$",
    )
]
