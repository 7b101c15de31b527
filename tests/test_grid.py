"""Which cells an experiment has."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from llm4sbr import registry
from llm4sbr.cli import _guarded
from llm4sbr.config import nest
from llm4sbr.errors import ConfigError, RegistryError
from llm4sbr.experiments.grid import Dataset, Request, cells, command, parse_vary
from llm4sbr.experiments.parts import ablations
from llm4sbr.system import installation

Output = pytest.CaptureFixture[str]


def test_table2_has_a_cell_per_data_set_protocol_and_backbone() -> None:
    datasets = [Dataset("a", "csv"), Dataset("b", "csv")]
    found = cells(Request("table2", datasets, ("default", "paper")))
    assert len(found) == 2 * 2 * 4
    assert found[0].name == "a-default-sr-gnn-long.short-f5"
    assert {one.settings["train"]["backbone"] for one in found} == {"sr-gnn", "tagnn", "gce-gnn", "s2-dhcn"}
    assert found[4].settings["protocol"] == "paper"
    assert all(one.settings["infer"]["llm"] == "item-text" for one in found)


def test_an_ablation_leaves_out_one_thing_at_a_time() -> None:
    found = {part.name: part for part in ablations(("long", "short"), {})}
    assert found["without long"].perspectives == ("short",)
    assert found["without short"].perspectives == ("long",)
    assert found["normal only"].perspectives == ("normal",)
    assert found["without alignment"].settings == {"train.tau": 0.0}
    assert len(cells(Request("ablation", [Dataset("a", "csv")]))) == 5


def test_what_is_chosen_wins_over_the_kind_but_not_over_the_axes() -> None:
    chosen = nest({"train.epochs": 7, "train.backbone": "narm"})
    (cell,) = cells(Request("memory", [Dataset("a", "csv")], settings=chosen))
    assert cell.settings["train"] | {"baselines": []} == {
        "baselines": [],
        "epochs": 7,
        "seeds": 1,
        "backbone": "sr-gnn",
    }


def test_a_data_set_has_a_reader_a_path_and_a_name_of_its_own() -> None:
    assert Dataset.parse("ml-1m") == ("ml-1m", "ml-1m", None)
    assert Dataset.parse("ml-1m=data/x") == ("ml-1m", "ml-1m", "data/x")
    assert Dataset.parse("beauty=csv:data/x") == ("beauty", "csv", "data/x")
    with pytest.raises(RegistryError, match="no reader 'beauty' is installed"):
        Dataset.parse("beauty=data/x")


def asked(**axes: Any) -> Request:
    return Request("table2", [Dataset("toy", "csv")], **axes)


def test_wrong_axes_are_said_before_anything_runs() -> None:
    with pytest.raises(RegistryError, match="did you mean 'sr-gnn'"):
        cells(asked(backbones=("sr-gn",)))
    with pytest.raises(ConfigError, match="did you mean train"):
        cells(asked(settings={"train": {"epoch": 1}}))
    with pytest.raises(ConfigError, match="protocol = 'papers'"):
        cells(asked(protocols=("papers",)))
    with pytest.raises(ConfigError, match="is given twice"):
        cells(asked(backbones=("sr-gnn", "sr-gnn")))


def test_dry_run_lists_the_cells_and_makes_nothing(tmp_path: Path, capsys: Output) -> None:
    folder = tmp_path / "dry"
    arguments = ["experiment", "localization", str(folder), "--dataset", "ml-1m", "--dry-run", "-f", "0,3"]
    assert _guarded(arguments) == 0
    assert capsys.readouterr().out.count("ml-1m-default-sr-gnn-long.short-f") == 2
    assert _guarded([*arguments, "--json"]) == 0
    assert [cell["axes"]["f"] for cell in json.loads(capsys.readouterr().out)] == [0, 3]
    assert _guarded(["experiment", "localization", str(folder), "--dry-run", "-f", "one"]) == 2
    assert "-f one: expected whole numbers" in capsys.readouterr().err
    assert not folder.exists()


def test_a_data_set_without_a_name_or_a_reader() -> None:
    with pytest.raises(ConfigError, match="--dataset =csv:x: expected NAME"):
        Dataset.parse("=csv:x")
    with pytest.raises(RegistryError, match="no reader 'cvs' is installed, did you mean 'csv'"):
        Dataset.parse("shop=cvs:x")


def test_an_experiment_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match="no experiment 'table9'; there are table2, ablation"):
        cells(Request("table9", [Dataset("a", "csv")]))


VARIED = {"train.learning_rate": [0.001, 0.002], "infer.controls": [[], ["none"]]}


def test_any_setting_is_an_axis_with_a_cell_per_value() -> None:
    found = cells(asked(backbones=("sr-gnn",), vary=VARIED))
    assert [(one.settings["train"]["learning_rate"], one.settings["infer"]["controls"]) for one in found] == [
        (0.001, []),
        (0.001, ["none"]),
        (0.002, []),
        (0.002, ["none"]),
    ]
    assert found[3].axes["train.learning_rate"] == 0.002
    assert found[0].name == "toy-default-sr-gnn-long.short-f5-learning_rate-0.001-controls---"
    assert len({one.name for one in found}) == 4


def test_varied_settings_beside_the_parts_of_an_ablation() -> None:
    request = Request("ablation", [Dataset("a", "csv")], vary={"train.dim": [8, 16]})
    found = cells(request)
    assert len(found) == 2 * 5
    assert {one.axes["part"] for one in found if one.axes["train.dim"] == 8} == {
        one.axes["part"] for one in found if one.axes["train.dim"] == 16
    }


@pytest.mark.parametrize(
    ("text", "key", "values"),
    [
        ("train.learning_rate=0.001, 2e-3", "train.learning_rate", [0.001, 0.002]),
        ("train.fuser=gated,concat", "train.fuser", ["gated", "concat"]),
        ('infer.controls=["none"],[]', "infer.controls", [["none"], []]),
        ("train.plain=true,false", "train.plain", [True, False]),
        ("infer.budget=30m,none", "infer.budget", ["30m", "none"]),
    ],
)
def test_values_are_read_as_by_set(text: str, key: str, values: list[Any]) -> None:
    assert parse_vary([text]) == {key: values}


def test_the_command_of_a_varied_experiment_asks_for_the_same_cells() -> None:
    text = command(asked(backbones=("sr-gnn",), vary=VARIED))
    words = shlex.split(text)
    given = [words[place + 1] for place, word in enumerate(words) if word == "--vary"]
    assert parse_vary(given) == VARIED


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["train.dim"], "--vary train.dim: expected section.key=VALUE,VALUE"),
        (["train.dim="], "expected section.key=VALUE,VALUE"),
        (["train.dim=8", "train.dim=16"], "--vary train.dim is given twice"),
        (["train.learnin_rate=1,2"], "train.learnin_rate: no such setting .did you mean train.learning_rate"),
        (["train.dim=8,0"], "train.dim = 0: input should be greater"),
        (["train.dim=8,8"], "is given twice"),
        (["train.backbone=sr-gnn,narm"], "--vary train.backbone: use --backbone"),
        (["train={dim = 8}"], "--vary train: this is a section; name one of its settings"),
    ],
)
def test_wrong_variations_are_one_line(texts: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        cells(asked(vary=parse_vary(texts)))


def test_related_has_all_rows_that_the_settings_have_a_source_for() -> None:
    data = [Dataset("a", "csv")]
    counted = ["popularity", "s-pop", "item-knn", "vmis-knn", "slist"]
    first, *others = cells(Request("related", data))
    assert {one.axes["part"]: one.settings["train"]["baselines"] for one in others} == {
        "CTRL": [],
        "SPRINT": [],
    }
    assert first.name == "a-default-sr-gnn-long.short-f5-LLM4SBR"
    assert first.settings["train"]["baselines"] == [*counted, "llmseqsim", "llm-infer"]
    assert first.settings["train"]["text_init"] is True
    assert first.notes[0].startswith("Nobody is asked, so list-wise, pair-wise, point-wise, zero-shot-rating")
    without, *_ = cells(Request("related", data, settings=nest({"infer.llm": "none"})))
    assert without.settings["train"]["baselines"] == counted
    assert without.settings["train"]["text_init"] is False
    chosen = nest(
        {"train.baselines": ["slist"], "train.text_init": False, "train.baseline_options.slist.l2": 1.0}
    )
    own, *others = cells(Request("related", data, settings=chosen))
    assert own.settings["train"]["baseline_options"] == {"slist": {"l2": 1.0}}
    assert all("baseline_options" not in one.settings["train"] for one in others)
    assert own.settings["train"]["baselines"] == ["slist"]
    assert own.settings["train"]["text_init"] is False
    assert not own.notes


def test_related_names_the_rows_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [one for one in registry.components("baselines") if one.package != "llm4sbr-related"]
    monkeypatch.setattr(registry, "components", lambda kind: there)
    asked = Request("related", [Dataset("a", "csv")], settings=nest({"evaluate.llm": "transformers:x"}))
    first, *_ = cells(asked)
    assert "gpt4rec" not in first.settings["train"]["baselines"]
    assert first.notes[0].startswith("Not installed: list-wise")
    assert first.notes[0].endswith(f"po4isr ({installation.plugin_command('llm4sbr-related')}).")
