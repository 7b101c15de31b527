"""Data-parallel training: the processes that `torchrun` started train one model together.

Every process draws the same batches and takes its share of the samples of each. The gradient is summed over
the processes, weighted so that it is the gradient of the whole batch, and all make the same update. What a
loss compares across the batch (alignment and uniformity) is made of all processes' samples.

The first process, rank 0, is the one that obeys the command: it holds the run, writes and shows progress; the
others speak only where they fail. It calls them model by model through the store of the launch; nothing is
sent but JSON and numbers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import DistError, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.nn import functional

from llm4sbr.data.batches import Batch
from llm4sbr.errors import Llm4sbrError, PeerError, TrainingError
from llm4sbr.evaluation.ranking import pick_device
from llm4sbr.fusion.model import Output
from llm4sbr.training.negatives import Sample

LONGEST = timedelta(days=365)
"""How long a process waits for the next model: an LLM may have to answer everything first."""
_FAILED = "failed"
"""In the store when a process has said why it ends."""


class BatchShare(NamedTuple):
    """What one process has of a batch."""

    batch: Batch
    """Its samples; one too many if it has none, for a model wants at least one."""
    start: int
    """Position of the first one in the whole batch."""
    own: int
    """How many samples are its own."""
    of: int
    """B, the samples of the whole batch."""
    sample: Sample | None = None
    """What all processes compute this batch with, if not with the whole catalogue."""


class Team:
    """The processes that train together; a team of one does nothing but say so.

    Args:
        rank: number of this process.
        size: number of processes.
        store: what all processes of the launch can read and write; None for a team of one.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Store | None = None) -> None:
        self.rank, self.size, self.store = rank, size, store
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0")) if size > 1 else 0
        self._calls = 0

    def device(self, name: str) -> torch.device:
        """The device of `train.device`; with several processes on a machine, each gets its own GPU."""
        found = pick_device(name)
        if found.type != "cuda" or (self.size == 1 and found.index is not None):
            return found
        if self.local_rank >= torch.cuda.device_count():
            raise TrainingError(
                f"process {self.local_rank} of this machine has no GPU, there are "
                f"{torch.cuda.device_count()}; start as many processes, or set train.device=cpu"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def call(self, text: str) -> None:
        """Rank 0: have the others do what `text` says; they get it from `awaited`."""
        if self.store is not None:
            self.store.set(f"call/{self._calls}", text)
            self._calls += 1
            if text:
                self._connect()

    def awaited(self) -> str:
        """The other ranks: what to do next; empty when there is nothing more to do."""
        store, key = cast(Store, self.store), f"call/{self._calls}"
        store.wait([key], LONGEST)
        self._calls += 1
        text = str(store.get(key).decode())
        if text:
            self._connect()
        return text

    def dismiss(self) -> None:
        """Rank 0: there is nothing more to do, however it ended."""
        with suppress(DistError):  # the launch itself may have ended
            self.call("")
        if dist.is_initialized():
            dist.destroy_process_group()

    def failed(self, error: Exception) -> int:
        """On other ranks: print why this process ends, unless another has done so; returns the exit code."""
        if not isinstance(error, PeerError):
            with suppress(DistError):
                cast(Store, self.store).set(_FAILED, "")
            reason = str(error) if isinstance(error, Llm4sbrError) else f"{type(error).__name__}: {error}"
            line = " ".join(f"error: process {self.rank} of {self.size}: {reason}".split())
            sys.stderr.write(f"{line}; run the same command to go on from the last epoch\n")
        return 1

    def part(self, batch: Batch, sample: Sample | None = None) -> BatchShare:
        """This process's samples of a batch."""
        whole = len(batch.index)
        if self.size == 1:
            return BatchShare(batch, 0, whole, whole, sample)
        start, end = (whole * rank // self.size for rank in (self.rank, self.rank + 1))
        own = Batch(*(tensor[start : max(end, start + 1)] for tensor in batch))
        return BatchShare(own, start, end - start, whole, sample)

    def whole(self, output: Output, part: BatchShare) -> Output:
        """The output with all processes' behavioural and semantic vectors, (B, P, D) of the whole batch."""
        if self.size == 1 or output.behavioural is None or output.semantic is None or output.known is None:
            return output
        known = output.known.unsqueeze(2).to(output.semantic.dtype)
        own = torch.cat([output.behavioural, output.semantic, known], 2)[: part.own]
        room = (0, 0, 0, 0, part.start, part.of - part.start - part.own)
        every = cast(Tensor, _Sum.apply(functional.pad(own, room), self))  # type: ignore[no-untyped-call]
        dim = own.shape[2] // 2
        behavioural, semantic, known = torch.split(every, [dim, dim, 1], 2)
        return output._replace(behavioural=behavioural, semantic=semantic, known=known.squeeze(2) > 0)

    def weight(self, part: BatchShare) -> float:
        """What a mean over the process's own samples counts, 1 if it has its fair share of the batch."""
        return self.size * part.own / part.of

    def sum_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Give every process the sum of all processes' gradients."""
        if self.size == 1:
            return
        flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, summed in zip(gradients, parts, strict=True):
            gradient.copy_(summed.view_as(gradient))

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place.

        Raises:
            PeerError: another process has ended.
        """
        if self.size > 1:
            with self._explained():
                dist.all_reduce(tensor)
        return tensor

    def agree(self, number: int) -> bool:
        """Whether all processes hold the same number; none goes on before all have said it."""
        said = torch.zeros(self.size, dtype=torch.int64)
        said[self.rank] = number
        return bool((self.sum(said) == number).all())

    def _connect(self) -> None:
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            with self._explained():
                dist.init_process_group(backend, store=self.store, rank=self.rank, world_size=self.size)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError:  # gloo's own, or a `DistError`
            raise PeerError(reported=self._reported()) from None

    def _reported(self) -> bool:
        with suppress(DistError):
            return bool(cast(Store, self.store).check([_FAILED]))
        return False


ALONE = Team()
_current = ALONE


def current() -> Team:
    """The team of this process; `ALONE` unless `join` was called."""
    return _current


def join() -> Team:
    """Meet the other processes that `torchrun` started."""
    global _current
    store, rank, size = next(rendezvous("env://"))
    _current = Team(rank, size, store)
    return _current


class _Sum(torch.autograd.Function):
    """The sum of all processes' tensors. Gradients sum too: each process's loss is a part of the whole."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, team: Team) -> Tensor:
        ctx.team = team
        return team.sum(tensor.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.team.sum(gradients[0].contiguous().clone()), None
