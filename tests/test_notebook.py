"""The example notebook: executed as it is shown, and it still runs."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).parent.parent / "examples/shop.ipynb"
NOTEBOOK = json.loads(PATH.read_text(encoding="utf-8"))
CELLS = [one for one in NOTEBOOK["cells"] if one["cell_type"] == "code"]


def test_it_is_shown_as_it_was_executed():
    assert [one["execution_count"] for one in CELLS] == list(range(1, len(CELLS) + 1))
    outputs = [output for one in CELLS for output in one["outputs"]]
    assert {one["output_type"] for one in outputs} <= {"execute_result", "stream"}
    assert sum("text/html" in one.get("data", {}) for one in outputs) >= 4  # tables
    assert not [text for text in ("/tmp/", "/home/", "/root/") if text in PATH.read_text()]


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    """What cells end with is shown as the same kind of output as in the file."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in CELLS:
        shown = _execute("".join(cell["source"]), names)
        kinds = [output["data"] for output in cell["outputs"] if output["output_type"] == "execute_result"]
        assert (shown is not None) == bool(kinds)
        assert hasattr(shown, "_repr_html_") == any("text/html" in data for data in kinds)
    assert (tmp_path / "runs/shop/export/onnx/artefact.json").exists()


def _execute(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; the value of its last line if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is None:
        return None
    assert isinstance(last, ast.Expr)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)
