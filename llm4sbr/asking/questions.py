"""All prompts of a run: created, planned, and checked for leaked targets before the LLM is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from llm4sbr import registry, store
from llm4sbr.asking.asker import parse_budget
from llm4sbr.asking.cache import AnswerCache, answer_key
from llm4sbr.asking.keys import PromptKeys
from llm4sbr.asking.plan import Plan, noun, plan, sentence
from llm4sbr.config import Config, InferConfig
from llm4sbr.data.distinct import Distinct
from llm4sbr.data.mapped import blocks, firsts, mapped
from llm4sbr.data.prepared import Prepared, load
from llm4sbr.errors import ConfigError
from llm4sbr.perspectives.audit import Audit
from llm4sbr.progress import Progress
from llm4sbr.protocols import LLM, Perspective, is_control


class Questions(NamedTuple):
    """Distinct samples or items, and the perspectives to ask about them from."""

    samples: Distinct
    perspectives: Mapping[str, Perspective]

    @classmethod
    def of(cls, prepared: Prepared, settings: InferConfig) -> Questions:
        """The questions for prepared data: about every item if all perspectives ask about items.

        Raises:
            ConfigError: an unusable wording, or an attribute that the items do not have.
            RegistryError: an unknown perspective.
        """
        there = prepared.catalogue.attributes
        for name in settings.attributes:
            if name not in there:
                known = ", ".join(there) or "none"
                raise ConfigError(f"infer.attributes: the items have no {name!r}; they have: {known}")
        options = {
            "wording": settings.wording,
            "max_items": settings.max_items,
            "attributes": settings.attributes,
        }
        perspectives = {
            name: registry.create("perspectives", name, **options) for name in settings.perspectives
        }
        for perspective in perspectives.values():
            if hasattr(perspective, "fit"):
                perspective.fit(prepared.train, prepared.catalogue)
        of = Distinct.of_items if _about_items(perspectives) else Distinct.of
        return cls(of(prepared), perspectives)

    @property
    def about_items(self) -> bool:
        """Whether every sample is one item of the catalogue."""
        return _about_items(self.perspectives)

    def prompts(self, row: int) -> list[str]:
        """The prompts of one sample, one per perspective."""
        items = self.samples.prefixes[row]
        return [perspective.prompt(items) for perspective in self.perspectives.values()]


def _about_items(perspectives: Mapping[str, Perspective]) -> bool:
    return all(getattr(one, "unit", "session") == "item" for one in perspectives.values())


def open_answer_cache(settings: InferConfig) -> AnswerCache:
    """Open the answer cache that the settings name."""
    return AnswerCache.open(settings.cache or store.cache_dir() / "answers.sqlite")


def plan_questions(
    llm: LLM,
    questions: Questions,
    prepared: Prepared,
    settings: InferConfig,
    progress: Progress,
    *,
    keys: PromptKeys,
) -> Plan:
    """Plan the questions, and check that no prompt contains the target of its sample.

    Args:
        llm: the LLM.
        questions: all questions.
        prepared: the data with the targets.
        settings: wording, budget, cache.
        progress: updated after every sample.
        keys: empty; filled with the keys of all prompts.

    Raises:
        DataError: a prompt contains the target of its own sample.
    """
    samples = questions.samples
    audit, targets = Audit(questions.perspectives), samples.targets(prepared)
    items = [prepared.catalogue.item(i + 1) for i in range(prepared.catalogue.size)]

    def prompts(row: int) -> list[str]:
        texts = questions.prompts(row)
        audit.check(samples.prefixes[row], [items[i - 1] for i in targets[row]], texts)
        return texts

    count, budget = len(samples.keys), parse_budget(settings.budget)
    with (
        open_answer_cache(settings) as cache,
        progress.task("infer: planning", count, unit=noun(samples.unit)) as advance,
    ):
        most = budget.prompts
        found = plan(count, prompts, llm=llm, cache=cache, keys=keys, most=most, advance=advance)
        found = found._replace(unit=samples.unit)
        progress.note(f"infer: {settings.llm} ({llm.fingerprint}); answers are kept in {cache.path}")
    progress.note(f"infer: {sentence(found, settings.budget)}")
    return found


def plan_run(run: Path, config: Config, progress: Progress) -> Plan | None:
    """The plan for `infer`, without asking anything; None if no LLM is used (`none`, or a control).

    Raises:
        The same errors as `infer` before its first question.
    """
    model = registry.create("llms", config.infer.llm, **config.infer.options)
    if is_control(model):
        return None
    prepared = load(run / "prepare")
    questions = Questions.of(prepared, config.infer)
    with PromptKeys(len(questions.perspectives)) as keys:
        return plan_questions(model, questions, prepared, config.infer, progress, keys=keys)


def missing_prompts(run: Path, config: Config) -> Iterator[tuple[bytes, str]]:
    """Key and text of every distinct prompt without a cached answer, to have them answered elsewhere.

    Raises:
        The same errors as `infer` before its first question.
    """
    model = registry.create("llms", config.infer.llm, **config.infer.options)
    if is_control(model):
        return
    questions = Questions.of(load(run / "prepare"), config.infer)
    with PromptKeys(len(questions.perspectives)) as keys, open_answer_cache(config.infer) as cache:
        for row in range(len(questions.samples.keys)):
            keys.append([answer_key(model.fingerprint, text) for text in questions.prompts(row)])
        found = firsts(mapped(keys.short()))
        for some in blocks(len(found)):
            places = [divmod(at, keys.keys_per_sample) for at in found[some].tolist()]
            group = [keys.of(row)[place] for row, place in places]
            known = cache.known(group)
            for key, (row, place) in zip(group, places, strict=True):
                if key not in known:
                    yield key, questions.prompts(row)[place]
