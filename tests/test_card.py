"""The model card of an export."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from llm4sbr import store
from llm4sbr.report.card import NAME, card
from llm4sbr.stages.export import Export, export

sys.path.insert(0, str(Path(__file__).parent))
from toy_exports import QUIET, run_with_models


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_with_models(tmp_path_factory.mktemp("runs") / "shop")


def test_an_export_has_a_card(run: Path) -> None:
    export(run, Export(k=5, variant="plain"), QUIET)
    folder = run / "export" / "onnx-plain"
    text = (folder / NAME).read_text()
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "llm4sbr"
    assert body.startswith("\n# shop: plain/seed-0\n")
    assert "Not measured: `llm4sbr evaluate` did not run." in body
    record = store.read_json(folder / "artefact.json")
    assert NAME not in record["files"]  # may be edited
    assert f"{record['verified']['lists_that_agree']} of {record['verified']['lists']} lists" in body


def figures(mean: float, spread: float) -> dict[str, dict[str, float]]:
    return {f"{name}@20": {"mean": mean, "std": spread} for name in ("HR", "MRR", "NDCG")}


def test_it_has_the_table_with_controls(run: Path, tmp_path: Path) -> None:
    export(run, Export(k=5, variant="llm", intents="predictor"), QUIET)
    record = store.read_json(run / "export" / "onnx-llm-predictor" / "artefact.json")
    stats = store.read_json(run / "prepare" / "stats.json")
    rows = [("slist", "slist", 0.25, 0.0), ("llm", "stamp, intents of x|y", 0.5, 0.0125)]
    (tmp_path / "prepare").mkdir()
    (tmp_path / "evaluate").mkdir()
    store.write_json(tmp_path / "prepare" / "stats.json", stats)
    metrics = {
        "k": [5, 20],
        "samples": 1234,
        "protocol": "default",
        "verdict": "By MRR@20 nothing is shown.",
        "rows": [{"name": name, "label": label, "metrics": figures(*both)} for name, label, *both in rows],
    }
    store.write_json(tmp_path / "evaluate" / "metrics.json", metrics)
    text = card(tmp_path, record, llm="x|y", backbone="stamp")
    assert "By MRR@20 nothing is shown." in text
    assert "Percent, 1,234 test samples" in text
    assert "| slist | 25.00 | 25.00 | 25.00 |" in text
    assert "| **stamp, intents of x\\|y** | 50.00 ± 1.25 | 50.00 ± 1.25 | 50.00 ± 1.25 |" in text
    assert "| intents | predicted by the model from the session |" in text
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")}
    assert widths == {3, 5}


def test_a_refit_is_said_to_be_untested(run: Path) -> None:
    record = store.read_json(run / "export" / "onnx-plain" / "artefact.json") | {"refitted": True}
    assert "plain/seed-0, refitted on all sessions" in card(run, record, llm="none", backbone="stamp")
