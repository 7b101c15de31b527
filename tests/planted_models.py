"""Backbones, baselines and fusers, each with one fault: scaffolded components, changed.

Imported by test_planted_faults, which writes the scaffolded modules `my_*` first.
"""

from __future__ import annotations

import random
import sys

import torch
from my_backbone import MyBackbone
from my_baseline import MyBaseline
from my_fuser import MyFuser
from torch import nn

from llm4sbr.fusion.catalogue import TextCatalogue as CatalogueFuser
from llm4sbr.protocols import Sessions

# Backbones


class NoItemEmbeddings(MyBackbone):
    item_embeddings = None


class DoublePrecision(MyBackbone):
    def __init__(self, num_items, dim):
        super().__init__(num_items, dim)
        self.double()

    def forward(self, items, mask):
        found = super().forward(items, mask)
        return found._replace(long=found.long.float(), short=found.short.float())

    def score(self, fused, encoded):
        return fused.double() @ self.item_embeddings().T


class NotANumberForOneClick(MyBackbone):
    def forward(self, items, mask):
        found = super().forward(items, mask)
        gaps = mask.sum(1, keepdim=True) - 1
        return found._replace(long=found.long / gaps)


class WritesIntoItems(MyBackbone):
    def forward(self, items, mask):
        found = super().forward(items, mask)
        items.sub_(1)
        return found


class WritesIntoSessions(MyBackbone):
    def fit(self, sessions):
        sessions.items.copy_(sessions.items.flip(0))


class MeanOverPadding(MyBackbone):
    def forward(self, items, mask):
        found = super().forward(items, mask)
        return found._replace(long=(self.items[items - 1] * mask.unsqueeze(2)).mean(1))


class ReadsBehindTheMask(MyBackbone):
    def forward(self, items, mask):
        found = super().forward(items, mask)
        return found._replace(short=self.short(self.items[items[:, -1] - 1]))


class BatchNormalised(MyBackbone):
    def forward(self, items, mask):
        found = super().forward(items, mask)
        return found._replace(long=found.long - found.long.mean(0))


class SameForAll(MyBackbone):
    def forward(self, items, mask):
        found = super().forward(items, mask)
        return found._replace(long=found.long * 0, short=found.short * 0)


class IdleLayer(MyBackbone):
    def __init__(self, num_items, dim):
        super().__init__(num_items, dim)
        self.forgotten = nn.Linear(dim, dim)


class Detached(MyBackbone):
    def forward(self, items, mask):
        found = super().forward(items, mask)
        return found._replace(short=found.short.detach())


class IgnoresIntents(MyBackbone):
    def score(self, fused, encoded):
        return encoded.long @ self.item_embeddings().T


class UnseededWeights(MyBackbone):
    def __init__(self, num_items, dim):
        super().__init__(num_items, dim)
        nn.init.constant_(self.long.bias, random.SystemRandom().random())


class LearnsWhileScoring(MyBackbone):
    def __init__(self, num_items, dim):
        super().__init__(num_items, dim)
        self.register_buffer("seen", torch.zeros(num_items + 1))

    def forward(self, items, mask):
        self.seen += torch.bincount(items[mask], minlength=len(self.seen))
        return super().forward(items, mask)


class ReadsEveryRow(MyBackbone):
    def forward(self, items, mask):
        found = super().forward(items, mask)
        return found._replace(long=found.long + self.item_embeddings().mean(0))


class DropoutAlways(MyBackbone):
    def forward(self, items, mask):
        found = super().forward(items, mask)
        return found._replace(long=nn.functional.dropout(found.long, 0.5, training=True))


class FitsOnTestSessions(MyBackbone):
    """Finds the whole data where it is called from."""

    def __init__(self, num_items, dim):
        super().__init__(num_items, dim)
        self.register_buffer("counts", torch.zeros(num_items + 1))

    def fit(self, sessions):
        frame = sys._getframe()
        while frame and "prepared" not in frame.f_locals:
            frame = frame.f_back
        every = frame.f_locals["prepared"].sessions if frame else sessions
        self.counts = torch.bincount(every.items, minlength=len(self.counts)).float()


class LoopsOverRows(MyBackbone):
    def forward(self, items, mask):
        lengths = [row.index(False) if False in row else len(row) for row in mask.tolist()]
        found = super().forward(items, mask)
        return found._replace(long=found.long * torch.tensor(lengths).sign().unsqueeze(1))


class SaysItLoops(LoopsOverRows):
    lacks = {"export": "it loops over rows"}


class GraphOutsideTheFile(MyBackbone):
    counts = torch.ones(1)

    def fit(self, sessions):
        self.counts = torch.bincount(sessions.items).float().mean()

    def forward(self, items, mask):
        found = super().forward(items, mask)
        return found._replace(long=found.long * self.counts)


class FirstClickOnly(MyBackbone):
    def forward(self, items, mask):
        return super().forward(items[:, :1], mask[:, :1])


class SuggestsNonsense(MyBackbone):
    suggests = {"train.widht": 64}


class LacksWhatIsRequired(MyBackbone):
    lacks = {"padding": "too hard"}


# Baselines


class NoScore(MyBaseline):
    score = None


class DoubleScores(MyBaseline):
    def score(self, items, mask):
        return super().score(items, mask).double()


class LastColumn(MyBaseline):
    def score(self, items, mask):
        return super().score(items, mask) + (items[:, -1:] == 7)


class WritesIntoMask(MyBaseline):
    def score(self, items, mask):
        found = super().score(items, mask)
        mask.fill_(True)
        return found


class LearnsFromTestSessions(MyBaseline):
    def score(self, items, mask):
        found = super().score(items, mask)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)])
        self.fit(Sessions(items[mask], offsets))
        return found


class Asks(MyBaseline):
    asks = True

    def fit_catalogue(self, catalogue, *, repeats):
        self._titles = catalogue.titles

    def prompts(self, items):
        return [f"after {self._titles[items[-1] - 1]}?"]

    def rescored(self, items, answers):
        return torch.zeros(len(self._titles))


class AsksAboutIds(Asks):
    def prompts(self, items):
        return [f"after {items[-1]}?"]


class ScoresTheLengthOfAnswers(Asks):
    def rescored(self, items, answers):
        return super().rescored(items, answers) / len(answers[0])


class KeepsAnswers(Asks):
    def rescored(self, items, answers):
        self._counts += len(answers)
        return super().rescored(items, answers)


class AddsUp(MyBaseline):
    def fit(self, sessions):
        before = self._counts.sum()
        super().fit(sessions)
        self._counts += before


# Fusers


class NotCallable(nn.Module):
    def __init__(self, dim, perspectives):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    __call__ = None


class DoubleFuser(MyFuser):
    def forward(self, behavioural, semantic):
        return super().forward(behavioural, semantic).double()


class TwoPerspectivesOnly(MyFuser):
    def forward(self, behavioural, semantic):
        first, second = (behavioural + semantic).unbind(1)
        return super().forward(behavioural, semantic) + first - second


class SaysTwoOnly(TwoPerspectivesOnly):
    lacks = {"any-number": "made for long and short"}


class RandomFuser(MyFuser):
    def forward(self, behavioural, semantic):
        return nn.functional.dropout(super().forward(behavioural, semantic), 0.5, training=True)


class AddsInPlace(MyFuser):
    def forward(self, behavioural, semantic):
        return super().forward(behavioural.add_(semantic), semantic)


class LooksAtNeighbours(MyFuser):
    def forward(self, behavioural, semantic):
        return super().forward(behavioural, semantic - semantic.mean(0))


class DeafToIntents(MyFuser):
    def forward(self, behavioural, semantic):
        return super().forward(behavioural, torch.zeros_like(semantic))


class NotANumberWithoutIntents(MyFuser):
    def forward(self, behavioural, semantic):
        return super().forward(behavioural, semantic / semantic.norm(dim=2, keepdim=True))


class AllAlikeWithoutIntents(MyFuser):
    def forward(self, behavioural, semantic):
        return super().forward(behavioural * (semantic.abs().sum(2, keepdim=True) > 0), semantic)


class IdleGate(MyFuser):
    def forward(self, behavioural, semantic):
        return self.out((behavioural + semantic).flatten(1))


class ComparesAllItems(CatalogueFuser):
    def rescore(self, scores, fused, intents):
        found = super().rescore(scores, fused, intents)
        return found - found.mean(1, keepdim=True)


class NoneIsNotZero(CatalogueFuser):
    def rescore(self, scores, fused, intents):
        return super().rescore(scores, fused, intents) + (intents is None)
