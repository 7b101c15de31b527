"""The contract kit finds faults that are planted, by the name of the check, and says where they are."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm4sbr import registry
from llm4sbr.scaffold import new_plugin
from llm4sbr.testing.backbones import BackboneContract
from llm4sbr.testing.baselines import BaselineContract
from llm4sbr.testing.contract import Contract, terms
from llm4sbr.testing.encoders import EncoderContract
from llm4sbr.testing.engines import EngineContract
from llm4sbr.testing.exporters import ExporterContract
from llm4sbr.testing.fusers import FuserContract
from llm4sbr.testing.llms import ControlContract, LLMContract
from llm4sbr.testing.localizers import LocalizerContract
from llm4sbr.testing.loggers import LoggerContract
from llm4sbr.testing.perspectives import PerspectiveContract
from llm4sbr.testing.readers import ReaderContract
from llm4sbr.testing.toy import toy_log

sys.path.insert(0, str(Path(__file__).parent))
from planted_faults import FAULTS

CONTRACTS: dict[str, type[Contract]] = {
    "backbones": BackboneContract,
    "baselines": BaselineContract,
    "fusers": FuserContract,
    "readers": ReaderContract,
    "exporters": ExporterContract,
    "llms": LLMContract,
    "controls": ControlContract,
    "perspectives": PerspectiveContract,
    "encoders": EncoderContract,
    "localizers": LocalizerContract,
    "engines": EngineContract,
    "loggers": LoggerContract,
}

UNBROKEN = {
    "backbones": "my_backbone:MyBackbone",
    "baselines": "my_baseline:MyBaseline",
    "fusers": "my_fuser:MyFuser",
    "readers": "my_reader:MyReader",
    "exporters": "planted_files:Whole",
    "llms": "my_llm:MyLlm",
    "controls": "llm4sbr.llms.controls:ItemText",
    "perspectives": "my_perspective:MyPerspective",
    "encoders": "my_encoder:MyEncoder",
    "localizers": "my_localizer:MyLocalizer",
    "engines": "my_engine:MyEngine",
    "loggers": "my_logger:MyLogger",
}
"""What the broken ones are made of, by contract: `module:class`."""

UNPLANTED = {("backbones", "exports_to_onnx")}
"""Checks of whose fault another check is shown: what cannot be traced cannot be exported either."""


@pytest.fixture(scope="module", autouse=True)
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The scaffolded components as modules, and all of them, unbroken and broken, as installed ones."""
    site = tmp_path_factory.mktemp("site")
    for kind in registry.KINDS:
        new_plugin(f"my-{kind[:-1]}", kind, site / kind)
        (site / kind / f"my_{kind[:-1]}").rename(site / f"my_{kind[:-1]}")
    targets = [(kind, target) for kind, target in UNBROKEN.items() if kind in registry.KINDS]
    targets += sorted(
        {(fault.contract, fault.target) for fault in FAULTS if fault.contract in registry.KINDS}
    )
    targets += [("backbones", "planted_models:SaysItLoops"), ("fusers", "planted_models:SaysTwoOnly")]
    lines = [f"[llm4sbr.{kind}]\n{name_of(target)} = {target}" for kind, target in targets]
    info = site / "planted-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(_sections(lines)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(site), *sys.path])
        importlib.invalidate_caches()
        registry._entries.cache_clear()
        yield
    registry._entries.cache_clear()
    for name in [name for name in sys.modules if name.startswith(("planted_", "my_"))]:
        del sys.modules[name]


def _sections(lines: list[str]) -> list[str]:
    """One section per group: an ini file has none twice."""
    found: dict[str, list[str]] = {}
    for line in lines:
        section, entry = line.split("\n")
        found.setdefault(section, []).append(entry)
    return [text for section, entries in found.items() for text in (section, *entries)]


def name_of(target: str) -> str:
    return f"planted-{target.partition(':')[2].lower()}"


def contract_of(kind: str, target: str) -> Contract:
    """The contract of a component, as a plugin's test makes it of a class in three lines."""
    module, _, name = target.partition(":")
    component = getattr(importlib.import_module(module), name)
    members: dict[str, object]
    if kind in ("backbones", "baselines", "fusers", "readers", "exporters"):
        members = {"name": name_of(target)}
    elif kind == "localizers":
        members = {"create": staticmethod(lambda f: component(f))}
    elif kind == "loggers":
        read = importlib.import_module("planted_loggers").read_logged
        members = {"create": lambda self, folder: component(folder=str(folder))}
        members["read"] = lambda self, folder: read(folder)
    else:
        members = {"create": component}
    if kind == "readers":
        members["write"] = lambda self, folder: write_log(folder)
    return type(f"Test{name}", (CONTRACTS[kind],), members)()


def write_log(folder: Path) -> Path:
    """The toy log in the format of the scaffolded reader."""
    source = toy_log(folder.parent / f"{folder.name}-csv")
    folder.mkdir(parents=True, exist_ok=True)
    for name, old, columns in (("clicks", "interactions", 3), ("titles", "items", 2)):
        rows = [line.split(",")[:columns] for line in (source / f"{old}.csv").read_text().splitlines()[1:]]
        (folder / f"{name}.tsv").write_text("\n".join(map("\t".join, rows)))
    return folder


def run(contract: Contract, check: str, folder: Path) -> None:
    """Run one check as pytest would."""
    function = getattr(contract, f"test_{check}")
    given = {"tmp_path": folder}
    if isinstance(contract, EngineContract):
        given["engine"] = contract.create()
    function(**{name: given[name] for name in inspect.signature(function).parameters})


LONG = {"can_be_traced", "fused_with_missing_intents", "test_sessions_leave_no_trace", "learns_a_rule"}
"""Checks that take a second."""

WITHOUT = {("fusers", "scores_of_text"), ("localizers", "facts_can_be_written_down")}
"""Checks of what the unbroken components do not offer."""


def marks(check: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow] if check in LONG else []


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(one, id=f"{one.contract}-{one.name}-{one.check}", marks=marks(one.check))
        for one in FAULTS
    ],
)
def test_a_planted_fault_is_found_by_name(fault, tmp_path):
    contract = contract_of(fault.contract, fault.target)
    with pytest.raises((Exception, pytest.fail.Exception)) as caught:
        run(contract, fault.check, tmp_path)
    error = caught.value
    notes = "\n".join(getattr(error, "__notes__", []))
    text = getattr(type(contract), f"test_{fault.check}").__doc__.split(".")[0].split(",")[0]
    assert f"contract of {contract.kind}, test_{fault.check}: {' '.join(text.split())}" in notes
    assert "broken by " in notes
    assert fault.name.lower() in notes.lower()
    assert re.search(fault.said, f"{error}\n{notes}", re.DOTALL)


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        pytest.param(*one, id="-".join(one), marks=marks(one[1]))
        for one in sorted({(fault.contract, fault.check) for fault in FAULTS} - WITHOUT)
    ],
)
def test_what_is_not_broken_passes_the_same_check(kind, check, tmp_path):
    run(contract_of(kind, UNBROKEN[kind]), check, tmp_path)


def test_every_check_has_a_fault_that_it_finds():
    found = {(fault.contract, f"test_{fault.check}") for fault in FAULTS}
    found |= {(kind, f"test_{check}") for kind, check in UNPLANTED}
    found |= {(kind, "test_claims_make_sense") for kind in CONTRACTS}  # one check for all kinds
    every = {(kind, term.name) for kind, contract in CONTRACTS.items() for term in terms(contract)}
    assert every == found


def test_every_check_says_what_the_contract_is():
    assert [term.name for contract in CONTRACTS.values() for term in terms(contract) if not term.text] == []


@pytest.mark.parametrize(
    ("kind", "name", "check", "reason"),
    [
        ("backbones", "planted_models:SaysItLoops", "can_be_traced", "lacks export: it loops over rows"),
        ("fusers", "planted_models:SaysTwoOnly", "any_number_of_perspectives", "lacks any-number: made for"),
        ("llms", "planted_texts:SaysItSamples", "repeatable", "lacks repeatable: it samples"),
    ],
)
def test_what_a_component_says_it_lacks_is_skipped_with_its_reason(kind, name, check, reason, tmp_path):
    contract = contract_of(kind, name)
    with pytest.raises(pytest.skip.Exception, match=reason):
        run(contract, check, tmp_path)
    run(contract, "claims_make_sense", tmp_path)


AUTHORS_TEST = """
from llm4sbr.testing.engines import EngineContract
from my_engine import MyEngine

class Mine(MyEngine):
    def map(self, make, blocks):
        yield from list(super().map(make, blocks))[:-1]

class TestMine(EngineContract):
    create = Mine
"""


@pytest.mark.slow
def test_an_author_sees_which_term_was_broken_and_where(tmp_path):
    new_plugin("my-engine", "engine", tmp_path)
    (tmp_path / "tests" / "test_mine.py").write_text(AUTHORS_TEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path / "tests")]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    assert "AssertionError: 50 blocks gave 49 results" in said
    assert "contract of engines, test_results_come_in_the_order_of_the_blocks: One result per block" in said
    assert "broken by TestMine" in said
