"""Measures RecBole on the samples that `peers.py` wrote, with RecBole's Python; llm4sbr is not needed.

python benchmarks/peers_recbole.py --child '{"folder": ..., "width": 100, "longest": 50, ...}'
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import chdir
from statistics import median
from typing import Any

import torch
from processes import answer_for

LISTS = 200
"""Number of calls; the time of one list is their median, after K warm-up calls."""
K = 20


class Timed:
    """RecBole's batches as its trainer consumes them; the first is warm-up.

    Attributes:
        samples: after the first batch.
        marks: wall clock and CPU time after the first batch and after the last.
    """

    def __init__(self, loader: Any, batches: int) -> None:
        self.loader, self.batches = loader, batches
        self.samples = 0
        self.marks: list[tuple[float, float]] = []

    def __len__(self) -> int:
        return self.batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        for number, batch in zip(range(self.batches), self.loader, strict=False):
            self.samples += len(batch) if number else 0
            yield batch
            if number in (0, self.batches - 1):
                self.marks.append((time.perf_counter(), time.process_time()))


class RecBole:
    """One data set, and its models, created on request.

    Args:
        task: `folder` with the data set `peer`, where RecBole leaves its logs, too; `width`, D; `longest`, T;
            `batch`, B; `seed`.
    """

    def __init__(self, task: dict[str, Any]) -> None:
        self.task = task
        self.made: dict[str, tuple[Any, Any]] = {}

    def __call__(self, model: str, options: dict[str, Any], batches: int) -> dict[str, Any]:
        """Train on some batches, then time single lists.

        Returns:
            `wall` and `cpu` of training in samples/s, `list_wall` and `list_cpu` in milliseconds.
        """
        loader, trainer = self.made.get(model) or self._make(model, options)
        self.made[model] = loader, trainer
        timed = Timed(loader, batches)
        trainer._train_epoch(timed, 0)
        (wall, cpu), (wall_end, cpu_end) = timed.marks
        found = {"wall": timed.samples / (wall_end - wall), "cpu": timed.samples / (cpu_end - cpu)}
        return found | self._lists(trainer.model, loader)

    def _make(self, model: str, options: dict[str, Any]) -> tuple[Any, Any]:
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.utils import get_model, get_trainer, init_seed

        task, width = self.task, self.task["width"]
        settings = {
            "data_path": task["folder"],
            "benchmark_filename": ["train", "valid", "test"],
            "USER_ID_FIELD": "session_id",
            "load_col": {"inter": ["session_id", "item_id_list", "item_id"]},
            "alias_of_item_id": ["item_id_list"],
            "MAX_ITEM_LIST_LENGTH": task["longest"],
            "train_neg_sample_args": None,
            "loss_type": "CE",
            "train_batch_size": task["batch"],
            "embedding_size": width,
            "hidden_size": width,
            "inner_size": width,
            "use_gpu": False,
            "show_progress": False,
            "state": "ERROR",
            "seed": task["seed"],
        }
        config = Config(model=model, dataset="peer", config_dict=settings | options)
        init_seed(task["seed"], True)
        loader, _, _ = data_preparation(config, create_dataset(config))
        network = get_model(model)(config, loader.dataset)
        return loader, get_trainer(config["MODEL_TYPE"], model)(config, network)

    def _lists(self, model: Any, loader: Any) -> dict[str, float]:
        """Milliseconds for one session's list of K items: scores of all items, then top-K."""
        batch = next(iter(loader))
        model.eval()
        wall, cpu = [], []
        with torch.inference_mode():
            for call in range(K + LISTS):
                one = batch[call % len(batch) : call % len(batch) + 1]
                began, spent = time.perf_counter(), time.process_time()
                torch.topk(model.full_sort_predict(one), K)
                wall.append(1000 * (time.perf_counter() - began))
                cpu.append(1000 * (time.process_time() - spent))
        model.train()
        return {"list_wall": median(wall[K:]), "list_cpu": median(cpu[K:])}


def main(task: dict[str, Any]) -> None:
    """Answer requests to measure RecBole's models."""
    from importlib.metadata import version

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(task["threads"])
    names = ("recbole", "torch", "numpy")
    with chdir(task["folder"]):  # RecBole writes log/, log_tensorboard/ and saved/ into the folder it runs in
        answer_for({"versions": {name: version(name) for name in names}}, RecBole(task))


if __name__ == "__main__":
    main(json.loads(sys.argv[2]))
