"""Tables in a terminal: what has to stay whole."""

from __future__ import annotations

import os

from rich.text import Text

from llm4sbr.report.terminal.layout import grid, pairs
from tests.test_report import text


def test_a_path_in_a_table_is_not_broken() -> None:
    path = f"{os.sep}".join(["runs", *["a-folder-with-a-long-name"] * 4, "onnx"])
    rows = [[path, "predicted", "float32", "20", "CPUExecutionProvider", "20 of 20", "1.0e-06"]]
    heads = ["artefact", "intents", "precision", "K", "verified on", "lists that agree", "largest difference"]
    for part in (grid(heads, rows), grid(["", "where"], [["ok", path]], left=2), pairs([("where", path)])):
        assert path in text(part)
    assert path in text(Text(f"the answers are in {path}, 3 kB"))
    wide = text(grid(["title", "score"], [["x" * 400, "1.0"]]))
    assert max(map(len, wide.splitlines())) <= 100
