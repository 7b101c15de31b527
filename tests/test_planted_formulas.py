"""No statement of `llm4sbr.fast` can be wrong without a check that fails: each is planted once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from llm4sbr.fast import backbones, fusion, item_item, nodes, onednn

sys.path.insert(0, str(Path(__file__).parent))
import test_fast_formulas as formulas
import test_fast_products
import test_item_item as added
from planted_formulas import Fault, faults, planted

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")


def checks_of(module: ModuleType) -> list[Callable[[], None]]:
    return [check for name, check in vars(module).items() if name.startswith("test_")]


MODULES = [onednn, nodes, backbones, fusion, item_item]
CHECKS = {
    onednn: checks_of(test_fast_products),
    nodes: [formulas.test_nodes, formulas.test_gated_graph, formulas.test_node_attention],
    backbones: checks_of(formulas),
    fusion: checks_of(formulas),
    item_item: [
        added.test_scores_are_those_of_the_formula,
        added.test_what_is_learned_has_the_gradient_of_the_formula,
    ],
}
"""Which checks are asked about a fault in a module."""

HARMLESS = {
    "onednn.weight_gradient: if ": "both orders give the same numbers; which is the faster one is measured",
    "onednn._product: if ": "so much slower that test_onednn notices; the same numbers",
    "onednn._ours: both = ": "its kind and its size are looked at, not its values",
    "nodes.session_nodes: size = ": "any larger number keeps sessions apart",
    "nodes.session_nodes: total = ": "any larger number keeps nodes apart",
    "nodes.session_nodes: edges = ": "their order does not matter",
    "nodes._order: count = ": "any larger number keeps numbers apart",
    "nodes._order: key = ": "sorted afterwards",
    "backbones._GatedNodes.backward: to_moved = ": "what is in it is not read",
}
"""Statements of which another value gives the same results, and why."""


def harmless(fault: Fault) -> bool:
    return any(str(fault).startswith(start) for start in HARMLESS)


FAULTS = [fault for module in MODULES for fault in faults(module)]


def caught(fault: Fault) -> str | None:
    """The first check that fails; it is the first to be asked about the next fault, too."""
    checks = CHECKS[fault.module]
    with planted(fault):
        for place, check in enumerate(checks):
            try:
                check()
            except (Exception, pytest.fail.Exception):
                checks.insert(0, checks.pop(place))
                return check.__name__
    return None


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_fault_in_any_statement_is_found(module) -> None:
    found = {str(one): caught(one) for one in FAULTS if one.module is module and not harmless(one)}
    sys.stdout.write("\n".join(f"{check}  {fault}" for fault, check in found.items()))  # pytest -rP shows it
    assert len(found) > (10 if module is item_item else 40)
    missed = [fault for fault, check in found.items() if not check]
    assert not missed, "no check notices\n" + "\n".join(missed)


def test_every_excuse_is_of_a_statement_that_exists() -> None:
    assert [start for start in HARMLESS if not any(str(fault).startswith(start) for fault in FAULTS)] == []
