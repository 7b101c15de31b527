"""The contract over every backbone of the core; a newly registered one is tested without a change here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm4sbr import registry
from llm4sbr.fusion.saved import save_model
from llm4sbr.testing.backbones import SESSIONS, BackboneContract, pad

OWN = [c for c in registry.components("backbones") if c.package == registry.CORE]
"""Plugins test theirs."""


@pytest.mark.slow  # test_export_formats exports every backbone, too
def _exports_to_onnx(self: BackboneContract, tmp_path: Path) -> None:
    BackboneContract.test_exports_to_onnx(self, tmp_path)


for _component in OWN:
    _title = "Test" + "".join(part.title() for part in _component.name.split("-"))
    _own = {"name": _component.name, "test_exports_to_onnx": _exports_to_onnx}
    globals()[_title] = type(_title, (BackboneContract,), _own)


def test_there_are_some() -> None:
    assert any(name.startswith("Test") for name in globals())


ELSEWHERE = """
import sys
from pathlib import Path
import torch
from llm4sbr.fusion.saved import load_model, save_model
from llm4sbr.testing.backbones import SESSIONS, BackboneContract, pad
torch.set_num_threads(1)
for folder in sorted(Path(sys.argv[1]).iterdir()):
    contract = type("Contract", (BackboneContract,), {"name": folder.name})()
    scores = load_model(folder).model(*pad(SESSIONS))
    torch.testing.assert_close(scores, contract.model().eval()(*pad(SESSIONS)), atol=0, rtol=0)
    save_model(Path(sys.argv[2]) / folder.name, contract.model(), recipe=contract.recipe(), catalogue="c",
               facts={"scores": scores.tolist()})
"""


def test_a_fresh_process_fits_saves_and_scores_the_same(tmp_path: Path) -> None:
    """To the last bit, and whatever the order in which its sets and dictionaries are walked."""
    for component in OWN:
        contract = type("Contract", (BackboneContract,), {"name": component.name})()
        model = contract.model().eval()
        facts = {"scores": model(*pad(SESSIONS)).tolist()}
        folder = tmp_path / "here" / component.name
        save_model(folder, model, recipe=contract.recipe(), catalogue="c", facts=facts)
    arguments = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "here"), str(tmp_path / "there")]
    subprocess.run(arguments, env=os.environ | {"PYTHONHASHSEED": "7"}, check=True)
    files = sorted(path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*.*"))
    assert len(files) == 2 * len(OWN)
    different = [
        file
        for file in files
        if (tmp_path / "here" / file).read_bytes() != (tmp_path / "there" / file).read_bytes()
    ]
    assert different == []
