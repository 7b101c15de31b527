"""Text that is not ours made safe and plain: titles for prompts, titles out of answers.

Answers of small models wrap the title in words ("The item I'm referring to is ..."). The rules below each
remove something and are applied until nothing changes, so parsing what was parsed changes nothing.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache

__all__ = ["one_line", "parse_answer"]

TITLE_LENGTH = 120
"""Characters of a title, or of all attributes of an item, that a prompt shows."""

ANSWER_LENGTH = 200
"""Characters of a parsed answer; a longer one is no title."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line separators, reordering marks and lone surrogates."""

_TOKENS = (
    re.compile(r"<([^<>\s][^<>]{0,60})>"),
    re.compile(r"\[(/?(?:INST|SYS(?:TEM_PROMPT)?|(?:AVAILABLE_)?TOOL[A-Z_]*|g?MASK|SEP|CLS))\]"),
)
"""What tokenizers read as a control token when they find it in text: `<|im_end|>`, `</s>`, `[INST]`."""


@lru_cache(maxsize=2**15)  # of millions of prompts, each names a few of the same titles
def one_line(text: str, limit: int = TITLE_LENGTH) -> str:
    """Text of the data made fit for a prompt.

    It has no line breaks or control characters and a visible cut, and what looks like a control token of a
    chat template gets other brackets, for an LLM behind a server cannot be asked which ones it knows.
    """
    text = _cut(_flat(text), limit)
    while (plain := _without_tokens(text)) != text:  # every round leaves fewer brackets
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
    """The item that an answer names, without the words around it; "" for a refusal or nothing.

    `The item is "Toy Story (1995)_12".` becomes `Toy Story (1995)`.
    """
    text = answer
    while (shorter := _unwrapped(_line(text))) != text:  # every rule only removes, so this ends
        text = shorter
    return text if len(text) <= ANSWER_LENGTH else ""


_THOUGHT = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)

_MARKS = re.compile(
    r"<\|[^<>|]{1,40}\|>|</?(?:s|eos|end_of_turn|answer|title|item|name|b|i|em|strong)>", re.I
)
"""Control tokens that a server left in the text, and marks that a model puts around its answer."""

_FENCE = re.compile(r"\s*```\w*\s*")
_RULER = re.compile(r"\|?[\s:|]*-{3}[-\s:|]*")
"""The line below the head of a table."""

_JSON = re.compile(
    r'\s*(?:\{[^{}\[\]]*?"[\w ]*(?:title|name|item|movie|film|book|product|song|game|answer|recommendation|'
    r'suggestion|category)"\s*:|\[)\s*("(?:[^"\\\n]|\\.)+")',
    re.IGNORECASE,
)


def _line(answer: str) -> str:
    """The first line that says something; a line that announces the answer gives way to the next."""
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
    """The answer without what the model said to itself, also where that has lost a mark."""
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
    """One round of all rules."""
    text = text.strip(" *`_,;:")
    for rule in _LEADS:
        text = rule.sub("", text, count=1)
    text = _unquoted(text)
    for rule in _TAILS:
        text = rule.sub("", text, count=1)
    return "" if any(rule.match(text) for rule in _UNUSABLE) else text


def _unquoted(text: str) -> str:
    """What stands in quotation marks, if the text begins with one and no more of a title follows."""
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

# What follows a wrapper is matched with its capitals, so that titles such as "It" or "Like Water" survive.
_LEADS = [
    re.compile(pattern)
    for pattern in (
        r"^(?:[-*•>#]+|\d{1,3}[.)]|\(\d{1,2}\))\s+",
        r"^[^《]{1,80}(?=《[^》]+》)",  # marks that stand around Chinese titles and in none
        r"^\[(?=[^\]]+\]\(\w+://)",  # a link; what is behind its text goes below
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
