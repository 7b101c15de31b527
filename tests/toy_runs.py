"""A run with intents on toy data, small enough to be finished and changed in a test."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from llm4sbr import pipeline, stamps
from llm4sbr.config import Settings, nest
from llm4sbr.progress import Progress
from llm4sbr.testing.encoders import tiny_bert
from llm4sbr.testing.toy import toy_log


def execute(run: Path, given: dict[str, Any], **options: Any) -> list[str]:
    """What a command said about the stages."""
    said = io.StringIO()
    progress = Progress(console=Console(file=said, width=300))
    pipeline.execute(run, nest(given), progress=progress, **options)
    lines = said.getvalue().splitlines()
    return [line for line in lines if line.split(":")[0] in stamps.STAGE_NAMES and " samples in " not in line]


def settings(base: Path) -> Settings:
    toy_log(base / "log")
    tiny_bert(base / "bert")
    small = {
        "data.reader": "csv",
        "data.path": str(base / "log"),
        "data.min_item_count": 1,
        "infer.llm": "item-text",
        "infer.controls": ["none"],
        "localize.encoder": f"transformers:{base / 'bert'}",
        "train.epochs": 1,
        "train.dim": 8,
        "train.neighbours": 0,
        "train.counted": [],
        "train.workers": 1,
        "train.device": "cpu",
        "train.baselines": ["popularity"],
        "evaluate.k": [5],
    }
    return nest(small)


def sign(folder: Path) -> None:
    """Record a stage's or part's files as they are now, as if the stage had written them."""
    stamp = stamps.read_stamp(folder)
    assert stamp is not None
    files, content = stamps.files_of(folder)
    stamps.write_stamp(folder, stamp._replace(files=files, content=content))
