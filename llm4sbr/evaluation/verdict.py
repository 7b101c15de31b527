"""The verdict: one sentence on what the final table shows, and what it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

CONTROLS = ("item-text", "shuffled")
"""Controls that an LLM's intents must beat before a gain is credited to the LLM."""

SAME = 0.005
"""A relative change of the metric below this is not worth a word."""

LEVEL = 0.05
"""Significance level."""


class Comparison(NamedTuple):
    """One row compared with another."""

    gain: float | None
    """Relative difference, None if the other row is 0."""
    p: float
    """Two-sided p-value."""

    @property
    def better(self) -> bool:
        """The gain is positive and significant."""
        return self.p < LEVEL and (self.gain is None or self.gain > 0)

    @property
    def worse(self) -> bool:
        """The gain is negative and significant."""
        return self.p < LEVEL and self.gain is not None and self.gain < 0

    def __str__(self) -> str:
        size = "from zero" if self.gain is None else f"{self.gain:+.1%}"
        return f"{size}, p = {self.p:.2g}"


class Evidence(NamedTuple):
    """The evidence behind a table."""

    samples: int
    """Number of test samples."""
    coverage: float | None
    """Share of test samples with an LLM answer; None without an LLM."""
    seeds: int
    """Repetitions."""
    selected_on: Sequence[str]
    """Which part the best epochs were chosen on: `valid`, `test` or `none`."""
    best_baseline: str | None = None
    """Name of the baseline with the highest value of the metric."""
    without_intents: float | None = None
    """Relative change of the metric when the LLM's model gets no intents; None if not measured."""
    plain_rising: bool = False
    """Whether the epoch limit ended the training of the plain backbone while it was still improving."""


class Asked(NamedTuple):
    """A baseline that asked an LLM about a part of the test samples."""

    label: str
    llm: str
    samples: int
    """Number of samples with answers."""
    comparison: Comparison
    """With the answers, compared with the same samples without them."""


def verdict(
    comparisons: Mapping[tuple[str, str], Comparison],
    evidence: Evidence,
    *,
    llm: str,
    metric: str,
    asked: Sequence[Asked] = (),
) -> str:
    """One sentence on whether a gain is due to the LLM.

    A gain is credited to the LLM only if its row beats the plain backbone and both `item-text` (the items'
    own text in place of answers) and `shuffled` (another session's answers), each significantly.

    Args:
        comparisons: (row, other row) -> comparison by `metric`.
        evidence: the evidence behind the table.
        llm: name of the LLM.
        metric: name of the metric compared.
        asked: the baselines that asked an LLM themselves.
    """
    text = f"on {evidence.samples:,} test samples"
    text += f" and {evidence.seeds} seeds" if evidence.seeds > 1 else " and a single seed"
    if evidence.coverage is not None and evidence.coverage < 1:
        text += f", {evidence.coverage:.0%} of them with an answer"
    if "test" in evidence.selected_on:
        text += ", with the best epoch chosen on the test set as in the paper, which flatters every row"
    found = [_finding(comparisons, llm, evidence, "intents" if asked else "an LLM")]
    found.append(_against_baseline(comparisons, evidence.best_baseline))
    found += [_of_answers(one) for one in asked]
    if evidence.without_intents is not None and abs(evidence.without_intents) < SAME:
        found.append("the lists do not depend on the intents, the model without any is as good")
    return f"By {metric} {text}, {'; '.join(filter(None, found))}."


def _of_answers(one: Asked) -> str:
    """What a baseline gains by the answers that it got."""
    if not one.samples:
        return f"{one.label} has no answers of {one.llm}"
    found = one.comparison
    word = "is better" if found.better else "is worse" if found.worse else "does not differ"
    end = "from what it finds" if word.endswith("differ") else "than it is"
    return (
        f"{one.label} {word} with the answers of {one.llm} to {one.samples:,} samples {end} without ({found})"
    )


def _finding(
    comparisons: Mapping[tuple[str, str], Comparison], llm: str, evidence: Evidence, what: str
) -> str:
    against_plain = comparisons.get(("llm", "plain"))
    controls = {name: comparisons[pair] for pair in comparisons for name in [pair[1]] if pair[0] == "llm"}
    for name in ("plain", evidence.best_baseline):
        controls.pop(name or "", None)
    if llm == "none":
        return _without_llm(comparisons, what)
    start = f"the intents of {llm}"
    if evidence.coverage == 0:
        return f"no test sample has an answer, so nothing is shown about {start}"
    if against_plain is None and not controls:
        return f"{start} stand alone: neither plain backbone nor control was trained, so no gain is known"
    if against_plain is None:
        return f"{start} {_against(controls)}; the plain backbone was not trained, so no gain is known"
    if against_plain.worse:
        return f"{start} make the backbone worse ({against_plain})"
    if not against_plain.better:
        return f"{start} change nothing that can be told from chance ({against_plain} against plain)"
    short = ", whose training train.epochs cut short," if evidence.plain_rising else ""
    gain = f"{start} raise the plain backbone{short} ({against_plain})"
    if not controls:
        return f"{gain}, but without controls nothing shows that the gain is the LLM's"
    if llm in CONTROLS:
        return f"{gain} and {_against(controls)}; no LLM was asked"
    asked = [controls[name] for name in CONTROLS if name in controls]
    if len(asked) == len(CONTROLS) and all(one.better for one in asked):
        return f"{gain} and {_against(controls)}, so the gain is the LLM's own"
    return f"{gain}, but {_against(controls)}, so the gain cannot be credited to what the LLM said"


def _against_baseline(comparisons: Mapping[tuple[str, str], Comparison], baseline: str | None) -> str:
    """How the LLM's model stands beside the best baseline, "" if one of the two is missing."""
    one = comparisons.get(("llm", baseline or ""))
    if one is None:
        return ""
    place = "is above" if one.better else "is below" if one.worse else "does not differ from"
    return f"the model {place} the best baseline, {baseline} ({one})"


def _against(controls: Mapping[str, Comparison]) -> str:
    groups: dict[str, list[str]] = {}
    for name, one in controls.items():
        word = "beat" if one.better else "fall behind" if one.worse else "do not differ from"
        groups.setdefault(word, []).append(f"{name} ({one})")
    return ", ".join(f"{word} {' and '.join(names)}" for word, names in groups.items())


def _without_llm(comparisons: Mapping[tuple[str, str], Comparison], what: str) -> str:
    floors = {first: one for (first, second), one in comparisons.items() if second == "plain"}
    parts = [f"only the plain backbone was trained, so nothing is shown about {what}"]
    for name, one in floors.items():
        place = "lies below it" if one.worse else "does better" if one.better else "does as well"
        parts.append(f"{name} {place} ({one})")
    return "; ".join(parts)
