"""One training step: forward, backward, update, on the chosen device and in the chosen precision.

Nothing here waits for the device: losses stay on it, and a GPU gets its input from pinned memory while it
still computes the previous step.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from llm4sbr.config import TrainConfig
from llm4sbr.data.repeats import without_own
from llm4sbr.errors import TrainingError
from llm4sbr.fast.onednn import faster_products
from llm4sbr.fusion.losses import Losses, joint_loss
from llm4sbr.fusion.model import LLM4SBR, Output
from llm4sbr.fusion.on_part import ItemTables, OnPart
from llm4sbr.fusion.part import Part
from llm4sbr.training.negatives import Sample, corrected
from llm4sbr.training.row_adam import RowAdam
from llm4sbr.training.team import BatchShare, Team


class Step:
    """Trains the model on one batch at a time.

    Args:
        model: already on `device`.
        config: training settings.
        team: the processes that train together.
        device: the device.
        repeats: whether lists may contain a session's own items; if not, they are left out of the softmax.
        tables: the item tables, for training on sampled items.

    Attributes:
        optimizers: by name: `adam`, the paper's, which updates all weights in one fused call; and `rows`, the
            same for item tables that are trained on sampled items.

    Raises:
        TrainingError: `train.compile` is on and there is no compiler.
    """

    def __init__(
        self,
        model: LLM4SBR,
        config: TrainConfig,
        *,
        team: Team,
        device: torch.device,
        repeats: bool = True,
        tables: ItemTables | None = None,
    ) -> None:
        self.model, self.tau, self.team, self.device = model, config.tau, team, device
        self.repeats = repeats
        rate, l2 = config.learning_rate, config.l2
        own = set(tables.parameters) if tables else set()
        rest = [parameter for name, parameter in model.named_parameters() if name not in own]
        self.optimizers: dict[str, Optimizer] = {
            "adam": torch.optim.Adam(rest, rate, weight_decay=l2, fused=True)
        }
        self.rows: RowAdam | None = None
        if tables:
            self.rows = RowAdam([model.get_parameter(name) for name in tables.parameters], rate, l2=l2)
            self.optimizers["rows"] = self.rows
            self.place = torch.zeros(len(self.rows.last) + 1, dtype=torch.int64, device=device)
        represent: Any = OnPart(model, tables) if tables else model.represent
        self.represent = compiled(represent) if config.compile else represent
        self.compiling = _explained if config.compile else nullcontext
        # The compiler and autocast do not see matrix products that oneDNN computes.
        plain = config.precision == "fp32" and not config.compile
        self.products = faster_products() if plain else nullcontext()
        self.precision = _precision(config.precision, device)

    def __call__(self, part: BatchShare, intents: Tensor | None, fold: Tensor | None = None) -> Tensor:
        """Update the weights with this process's share of a batch.

        Args:
            part: B samples.
            intents: float32 (B, P, E) on the CPU, None for a plain model.
            fold: int64 (B,) on the CPU, for a model with an item-item part (`fusion.item_item`).

        Returns:
            The losses of this share, float32 (4,) on the device, in the order of `Losses`; they sum to the
            losses of the whole batch.
        """
        batch = part.batch
        items, mask, target = (self._there(one) for one in (batch.items, batch.mask, batch.target))
        part_of = {} if part.sample is None else self._sampled(part.sample)
        with self.compiling():
            with self.products, self.precision:
                told, without = (None if one is None else self._there(one) for one in (intents, fold))
                output = self.represent(items, mask, told, fold=without, **part_of)
            output = _full(output)
            if part.sample is not None:
                items, target = self.place[items], self.place[target]
                share = self._there(part.sample.log_share)
                output = output._replace(scores=corrected(output.scores, share, target))
            if not self.repeats:  # a target keeps its score: a rare repeated one must not cost infinity
                output = output._replace(scores=without_own(output.scores, items, mask, but=target))
            losses = self._losses(output, target, part)
            self.model.zero_grad()
            losses.total.backward()  # type: ignore[no-untyped-call]
        gradients = [one.grad for one in self.model.parameters() if one.grad is not None]
        self.team.sum_gradients(gradients + (self.rows.gradients if self.rows else []))
        for optimizer in self.optimizers.values():
            optimizer.step()
        if part_of:
            self.place[part_of["part"].ids] = 0
        return torch.stack(losses).detach()

    def end_epoch(self) -> None:
        """Bring all weights up to date."""
        if self.rows is not None:
            self.rows.settle()

    def _sampled(self, sample: Sample) -> dict[str, Any]:
        """Arguments of `OnPart`."""
        assert self.rows is not None  # it was given the tables
        ids = self._there(sample.ids)
        self.place[ids] = torch.arange(1, len(ids) + 1, device=self.device)
        return {"part": Part(ids, self.place), "rows": self.rows.rows(ids - 1)}

    def _losses(self, output: Output, target: Tensor, part: BatchShare) -> Losses:
        output = self.team.whole(output, part)
        agree = getattr(self.model.fuser, "agreement", None)
        losses = joint_loss(output, target, tau=self.tau, weight=self.team.weight(part), agree=agree)
        return Losses(*(loss / self.team.size for loss in losses)) if self.team.size > 1 else losses

    def _there(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)


def compiled(represent: Any) -> Any:
    """`represent` as one compiled function for all batch shapes; `TrainingError` without a compiler."""
    chosen = os.environ.get("CXX")
    names = [chosen] if chosen else ["g++", "clang++"]
    if not any(shutil.which(name) for name in names):
        raise TrainingError(
            f"train.compile needs a C++ compiler and there is no {' or '.join(names)}; install one (Debian, "
            "Ubuntu: apt install g++), name it by CXX, or set train.compile=false"
        )
    return torch.compile(represent, dynamic=True)


@contextmanager
def _explained() -> Iterator[None]:
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise TrainingError(f"train.compile: {reason}; set train.compile=false") from None


def _precision(name: str, device: torch.device) -> AbstractContextManager[Any]:
    """Precision of the model's matrix products; weights, losses and optimizer stay float32."""
    if name == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def _full(output: Output) -> Output:
    """The tensors that the losses need, in float32."""
    auxiliary = output.encoded.auxiliary
    return output._replace(
        scores=output.scores.float(),
        encoded=output.encoded._replace(auxiliary=None if auxiliary is None else auxiliary.float()),
        behavioural=None if output.behavioural is None else output.behavioural.float(),
        semantic=None if output.semantic is None else output.semantic.float(),
    )
