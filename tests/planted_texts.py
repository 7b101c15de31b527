"""Components of text kinds, engines and loggers, each with one fault: scaffolded ones, changed.

Imported by test_planted_faults, which writes the scaffolded modules `my_*` first.
"""

from __future__ import annotations

import random
import uuid
from itertools import pairwise

import torch
from my_encoder import MyEncoder
from my_engine import MyEngine
from my_llm import MyLlm
from my_localizer import MyLocalizer
from my_perspective import MyPerspective

from llm4sbr.llms.controls import ItemText
from llm4sbr.protocols import Item

# LLMs


class NoFingerprint(MyLlm):
    fingerprint = ""


class NewFingerprint(MyLlm):
    def __init__(self):
        super().__init__()
        self._number = uuid.uuid4().hex

    @property
    def fingerprint(self):
        return self._number


class NoneForNothing(MyLlm):
    def generate(self, prompts):
        return [answer if len(answer) < 50 else None for answer in super().generate(prompts)]


class DropsEqualPrompts(MyLlm):
    def generate(self, prompts):
        return super().generate(list(dict.fromkeys(prompts)))


class SortedByLength(MyLlm):
    def generate(self, prompts):
        return super().generate(sorted(prompts, key=len))


class Backwards(MyLlm):
    def generate(self, prompts):
        return super().generate(prompts)[::-1]


class SortsThePrompts(MyLlm):
    def generate(self, prompts):
        prompts.sort()
        return super().generate(prompts)


class Sampled(MyLlm):
    def generate(self, prompts):
        return [f"{answer} {random.random()}" for answer in super().generate(prompts)]


class SaysItSamples(Sampled):
    lacks = {"repeatable": "it samples"}


class ForAnotherVersion(MyLlm):
    plugin_api = 99


# Controls


class AlsoGenerates(ItemText, MyLlm):
    fingerprint = "both"


class OneTooFew(ItemText):
    def answer(self, sessions, perspective, answers):
        return super().answer(sessions, perspective, answers)[1:]


# Perspectives


class MediumHorizon(MyPerspective):
    horizon = "medium"


class ForgetsTheLast(MyPerspective):
    def prompt(self, items):
        return super().prompt(items[:-1])


class NamesTheTarget(MyPerspective):
    """Looks up in the training sessions what came next."""

    def fit(self, sessions, catalogue):
        ids = sessions.items.tolist()
        self._next = {one: catalogue.item(two) for one, two in pairwise(ids)}

    def prompt(self, items):
        following = getattr(self, "_next", {}).get(items[-1].id)
        return super().prompt([*items, following] if following else items)


class TurnsTheItems(MyPerspective):
    def prompt(self, items):
        items.reverse()
        return super().prompt(items[::-1])


class ShowsEverything(MyPerspective):
    def prompt(self, items):
        self._max_items = len(items)
        return super().prompt(items)


class ItemThatSeesItsSession(MyPerspective):
    """Says that its prompts are about an item, and names the whole session in them."""

    unit = "item"


class RawTitles(MyPerspective):
    def _line(self, item: Item):
        return item.title


class ParsesToNone(MyPerspective):
    def parse(self, answer):
        return super().parse(answer) or None


class KeepsQuoting(MyPerspective):
    def parse(self, answer):
        return f"{super().parse(answer)}!" if len(answer) > 10 else super().parse(answer)


# Encoders


class NoWidth(MyEncoder):
    def __init__(self):
        super().__init__()
        self._width, self.dim = self.dim, 0


class DoubleVectors(MyEncoder):
    def encode(self, texts):
        return super().encode(texts).double()


class NotANumberForNothing(MyEncoder):
    def encode(self, texts):
        lengths = torch.tensor([float(len(text)) for text in texts])
        return super().encode(texts) / lengths.unsqueeze(1)


class WithGradient(MyEncoder):
    def encode(self, texts):
        return super().encode(texts).requires_grad_()


class BatchCentred(MyEncoder):
    def encode(self, texts):
        vectors = super().encode(texts)
        return vectors - vectors.mean(0) if len(texts) else vectors


class ShortestFirst(MyEncoder):
    def encode(self, texts):
        return super().encode(sorted(texts, key=len))


class SortsTheTexts(MyEncoder):
    def encode(self, texts):
        texts.sort()
        return super().encode(texts)


class OneVector(MyEncoder):
    def encode(self, texts):
        return torch.ones(len(texts), self.dim)


class RandomProjection(MyEncoder):
    def __init__(self):
        super().__init__()
        self._signs = torch.randn(self.dim)

    def encode(self, texts):
        return super().encode(texts) * self._signs


# Localizers


class NoLocalize(MyLocalizer):
    localize = None


class Changed(MyLocalizer):
    """Changes what is found."""

    def change(self, found, answers):
        return found

    def localize(self, answers, catalogue, encoder):
        return self.change(super().localize(answers, catalogue, encoder), answers)


class DoubleWeights(Changed):
    def change(self, found, answers):
        return found._replace(weights=found.weights.double())


class BeyondTheCatalogue(Changed):
    def change(self, found, answers):
        return found._replace(items=found.items * 2)


class HalfWeights(Changed):
    def change(self, found, answers):
        return found._replace(weights=found.weights / 2)


class TwiceTheSame(Changed):
    def change(self, found, answers):
        items = found.items[:, :1].expand_as(found.items).clone()
        return found._replace(items=torch.where(found.items > 0, items, 0))


class WorstFirst(Changed):
    def change(self, found, answers):
        return found._replace(items=found.items.flip(1), weights=found.weights.flip(1))


class AlwaysAnIntent(Changed):
    def change(self, found, answers):
        return found._replace(embeddings=found.embeddings + 1)


class NeedsAnAnswer(Changed):
    def change(self, found, answers):
        assert len(max(answers, key=len)) >= 0
        return found


class LowersTheTitles(MyLocalizer):
    def localize(self, answers, catalogue, encoder):
        catalogue.titles[:] = [title.lower() for title in catalogue.titles]
        return super().localize(answers, catalogue, encoder)


class ComparedWithOthers(Changed):
    def change(self, found, answers):
        return found._replace(embeddings=found.embeddings / len(answers) if answers else found.embeddings)


class Noisy(Changed):
    def change(self, found, answers):
        given = (found.embeddings != 0).float()
        return found._replace(embeddings=found.embeddings + given * torch.randn(1))


class FactsOfTensors(MyLocalizer):
    facts = {"recall": torch.ones(1)}


# Engines


class NoWorkers(MyEngine):
    def __init__(self):
        super().__init__()
        self.workers = 0


class Results(MyEngine):
    """Changes the results."""

    def change(self, results):
        return results

    def map(self, make, blocks):
        yield from self.change(super().map(make, blocks))


class DropsTheLast(Results):
    def change(self, results):
        return list(results)[:-1]


class TwiceTheFirst(Results):
    def change(self, results):
        found = list(results)
        return found[:1] + found


class TheQuickestFirst(Results):
    def change(self, results):
        return reversed(list(results))


class MakesAnew(MyEngine):
    def map(self, make, blocks):
        yield from (make()(block) for block in blocks)


class TakesAll(MyEngine):
    def map(self, make, blocks):
        return super().map(make, list(blocks))


class WrapsErrors(MyEngine):
    def map(self, make, blocks):
        try:
            yield from super().map(make, blocks)
        except Exception as error:
            raise RuntimeError("a worker failed") from error


class SkipsWhatFails(MyEngine):
    def map(self, make, blocks):
        work = make()
        for block in blocks:
            try:
                yield work(block)
            except Exception:
                continue
