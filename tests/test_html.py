"""The HTML report: whole pages of real toy runs, taken apart as a browser would."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llm4sbr import pipeline, store
from llm4sbr.config import nest
from llm4sbr.data.prepared import Prepared, load
from llm4sbr.progress import Progress
from llm4sbr.protocols import Samples
from llm4sbr.report import REPORT
from llm4sbr.report.formats import size
from llm4sbr.report.page.run import leak
from llm4sbr.report.page.sessions import sessions_page
from llm4sbr.report.page.write import write_run
from llm4sbr.report.results import STILL_RISING

sys.path.insert(0, str(Path(__file__).parent))
from html_pages import HOSTILE, WHOLE, Page, hostile_data, hostile_run, parsed, rewrite, safe, sections


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_data(tmp_path_factory.mktemp("html"))


@pytest.fixture(scope="module")
def finished(base: Path) -> Path:
    return hostile_run(base, seeds=2)


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(scope="module")
def page(finished: Path) -> Page:
    return parsed(finished / REPORT)


@pytest.fixture(scope="module")
def metrics(finished: Path) -> dict[str, Any]:
    found: dict[str, Any] = store.read_json(finished / "evaluate" / "metrics.json")
    return found


def test_a_run_ends_with_a_report_that_has_every_section(page: Page, metrics: dict[str, Any]) -> None:
    assert sections(page) == WHOLE
    assert page.texts("p")[1] == metrics["verdict"]  # the first is the line above the title
    assert "Not shown" not in page.text


def test_nothing_runs_and_nothing_is_fetched(page: Page) -> None:
    safe(page)


def test_hostile_titles_and_answers_are_text(page: Page, finished: Path) -> None:
    titles = set(load(finished / "prepare").catalogue.titles)
    shown = set(page.texts("bdi"))
    assert all(any(form.split("{")[0] in title for title in shown) for form in HOSTILE)
    assert len(shown & titles) > 10
    answers = store.read_table(finished / "infer" / "llm" / "short.parquet")["answer"].to_list()
    assert shown & set(answers)


def test_the_table_says_what_metrics_json_says(page: Page, metrics: dict[str, Any]) -> None:
    header, *lines = page.tables[0]
    assert header == ["model", "HR@20P@20", "gain", "MRR@20", "gain", "NDCG@20", "gain"]
    assert len(lines) == len(metrics["rows"])
    for line, row in zip(lines, metrics["rows"], strict=True):
        assert line[0].startswith(row["label"])
        for place, name in ((1, "HR@20"), (3, "MRR@20"), (5, "NDCG@20")):
            value = row["metrics"][name]
            spread = f"± {100 * value['std']:.2f}" if len(value["values"]) > 1 else ""
            assert line[place] == f"{100 * value['mean']:.2f}{spread}"
            gain = row["gain"].get(name)
            stars = "" if gain is None else "**" if row["p"][name] < 0.01 else "*" * (row["p"][name] < 0.05)
            assert line[place + 1].startswith("-" if gain is None else f"{gain:+.1%}{stars}p ")


def test_controls_are_marked_also_where_one_stands_in_for_the_llm(page: Page) -> None:
    labels = [line[0].removesuffix(STILL_RISING) for line in page.tables[0][1:]]
    assert {label for label in labels if label.endswith("control")} == {
        "sr-gnn, intents of item-text control",
        "sr-gnn, shuffled intents control",
        "sr-gnn, no intents control",
    }


def test_breakdown_memory_and_coverage_are_those_of_the_files(
    page: Page, finished: Path, metrics: dict[str, Any]
) -> None:
    by_caption = dict(zip(page.texts("caption"), page.tables, strict=True))
    length = next(table for caption, table in by_caption.items() if "how many clicks" in caption)
    groups = metrics["breakdown"]["length"]
    assert length[0][1] == f"HR@20{groups[0]['range']}\n({groups[0]['samples']})"
    for line in length[1:]:
        row = next(row for row in metrics["rows"] if line[0].startswith(row["label"]))
        expected = [f"{100 * group['rows'][row['name']]['HR@20']:.2f}" for group in groups]
        assert line[1 : len(groups) + 1] == expected
    cost = {line[0]: line for line in by_caption["Cost of each model, compared with the plain backbone"]}
    plain, fused = (next(row for row in metrics["rows"] if row["name"] == n) for n in ("plain", "llm"))
    assert (
        cost[f"{fused['label']} control"][1]
        == f"{fused['parameters']:,}{fused['parameters'] / plain['parameters'] - 1:+.1%}"
    )
    assert cost[plain["label"]][4] == size(plain["peak_memory"])
    assert "no LLM asked" in page.text
    assert "No LLM was asked; the control item-text was used instead." in page.text
    infer = store.read_json(finished / "infer" / "infer.json")
    assert (
        f"{infer['answered']:,} of {infer['samples']:,} samples of all splits have a text from item-text"
        in page.text
    )


def test_the_quality_of_answers_is_that_of_the_file(page: Page, finished: Path) -> None:
    by_caption = dict(zip(page.texts("caption"), page.tables, strict=True))
    sources = store.read_json(finished / "localize" / "localize.json")["sources"]
    header, *lines = by_caption["Answers by source and perspective"]
    named = ["exactly", "nearly", "made up", "likeness", "repeats"]
    assert header == ["answers of", "answers", "distinct", "empty or refused", *named]
    about = sources["llm"]["perspectives"]["short"]
    (line,) = [line for line in lines if line[0] == "item-text, short control"]
    shares = [f"{about[name]:.0%}" for name in ("exact_title", "near_title", "no_title")]
    assert line[4:] == [*shares, f"{about['grounding']:.2f}", f"{about['repeats_session']:.0%}"]
    header, *lines = by_caption["The next item by the intent alone, in percent"]
    assert header == ["by the intent alone", "samples", "HR@20", "MRR@20", "median rank"]
    assert [line[0] for line in lines] == [
        "item-text, long control", "item-text, short control",
        "shuffled, long control", "shuffled, short control", "popularity baseline",
    ]  # fmt: skip
    for line, alone in [
        (lines[1], sources["llm"]["by_intent_alone"]["short"]),
        (lines[-1], sources["llm"]["by_intent_alone"]["popularity"]),
    ]:
        hits, rank = f"{100 * alone['HR@20']:.2f}", str(alone["median_rank"])
        assert line[1:] == [str(alone["samples"]), hits, f"{100 * alone['MRR@20']:.2f}", rank]


def test_gains_and_losses_are_those_of_the_file(page: Page, finished: Path) -> None:
    changes = store.read_json(finished / "evaluate" / "changes.json")
    (table,) = [table for table in page.tables if table[0][0] == "against"]
    assert [line[0] for line in table[1:]] == ["the same model without intents", "the plain backbone"]
    for line, one in zip(table[1:], changes["over"], strict=True):
        assert line[1:4] == [f"{one[name]:,}" for name in ("gained", "lost", "same")]
        assert sum(one[name] for name in ("gained", "lost", "same")) == changes["samples"]
    summaries = [text for text in page.texts("summary") if text.startswith(("Gained", "Lost"))]
    told = [one for kind in ("gained", "lost") for one in changes["examples"][kind]]
    assert len(summaries) == len(told) > 0
    for text, one in zip(summaries, told, strict=True):
        assert one["target"] in text
        assert len(one["ranks"]) == 2  # seeds
        assert f"-> {', '.join(map(str, one['ranks']))}: " in text


def test_sources_of_live_intents_are_those_of_the_file(metrics: dict[str, Any], copy: Path) -> None:
    kept = {"HR@20": {"share": 0.8, "low": 0.7, "high": 0.95}, "MRR@20": None}
    metrics = json.loads(json.dumps(metrics))
    usual = metrics["rows"][2]["metrics"]
    metrics["sources"] = [
        {"name": name, "covered": covered, "metrics": usual, "kept": {"plain": kept}}
        for name, covered in (("cache", 1.0), ("predictor", 0.5))
    ]
    rewrite(copy, metrics)
    changed = parsed(write_run(copy))
    header, first, second = next(table for table in changed.tables if table[0][0] == "intents")
    assert header == ["intents", "covered", "HR@20", "gain keptover plain", "MRR@20", "gain keptover plain"]
    assert (first[0], first[1], second[1]) == ("item-text of the session", "100%", "50%")
    assert (second[3], second[5]) == ("80%70% to 95%", "-")
    assert second[2].startswith(f"{100 * usual['HR@20']['mean']:.2f}")


def test_figures_and_tables_can_be_read_aloud(page: Page, metrics: dict[str, Any]) -> None:
    drawn = [attributes for tag, attributes in page.tags if tag == "svg" and "aria-hidden" not in attributes]
    assert len(drawn) > 5
    assert all(attributes["role"] == "img" for attributes in drawn)
    # the page's own title is one more
    assert len(page.texts("title")) == len(drawn) + 1
    assert len(page.texts("desc")) == len(drawn)
    assert all(text.strip() for text in page.texts("title") + page.texts("desc"))
    plain = next(row for row in metrics["rows"] if row["name"] == "plain")
    assert f"{plain['label']} {100 * plain['metrics']['HR@20']['mean']:.2f}" in page.texts("desc")[0]
    assert f"{plain['label']} {100 * plain['metrics']['MRR@20']['mean']:.2f}" in page.texts("desc")[1]
    assert len(page.texts("caption")) == len(page.tables)
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    scrolled = [attributes for _, attributes in page.tags if attributes.get("class") == "scroll"]
    assert all(one["tabindex"] == "0" and one["aria-label"] for one in scrolled)
    anchors = {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"}
    assert anchors <= {attributes["id"] for _, attributes in page.tags if "id" in attributes}


def test_training_curves_have_a_line_per_seed_and_ring_the_epoch_kept(page: Page, finished: Path) -> None:
    logs = list(finished.glob("train/*/seed-*/log.jsonl"))
    spoken = [text for text in page.texts("desc") if "by epoch" in text]
    assert len(spoken) == 2  # the validation metric and the loss
    assert [text.count("by epoch") for text in spoken] == [text.count("(ringed)") for text in spoken]
    assert spoken[0].count("by epoch") == len(logs)
    table = next(table for table in page.tables if table[0][0] == "variant")
    assert len(table) == len(logs) + 1
    first = json.loads((finished / "train/plain/seed-0/log.jsonl").read_text().splitlines()[0])
    assert f"plain, seed-0, by epoch: 1: {100 * first['valid']['MRR@20']:.2f}" in page.text


def test_sessions_show_the_ranks_of_the_table(finished: Path, page: Page) -> None:
    prepared = load(finished / "prepare")
    found = sessions_page(finished, prepared, {})
    shown = [session for group in found.groups for session in group.sessions]
    assert len(shown) == 30
    for session in shown:
        assert [one.label for one in session.rankings] == ["llm", "plain"]
        for ranking in session.rankings:
            places = [place for place, item in enumerate(ranking.top, 1) if item.target]
            assert not {item.title for item in ranking.top} & set(session.clicks)
            if session.target in session.clicks:
                assert (ranking.place, places) == (None, [])
                continue
            assert ranking.place is not None
            assert ranking.place <= ranking.rank <= ranking.place + len(set(session.clicks))
            assert places == ([ranking.place] if ranking.place <= 10 else [])
        assert [answer.perspective for answer in session.answers] == ["long", "short"]
        for answer in session.answers:
            assert len(answer.tied) == 3
            assert sum(weight for _, weight in answer.tied) == pytest.approx(1, abs=1e-3)
        assert session.answers[1].answer.startswith(session.clicks[-1])  # item-text, short view
    assert sum(group.size for group in found.groups) == len(prepared.samples["test"].key)
    assert found.rule in page.text
    marked = sum(1 for _, attributes in page.tags if attributes.get("class") == "target")
    assert marked == sum(item.target for s in shown for one in s.rankings for item in one.top)


def test_a_leak_is_counted(finished: Path) -> None:
    prepared = load(finished / "prepare")
    assert leak(prepared) == 0
    train, test = prepared.samples["train"], prepared.samples["test"]
    mixed = Samples(*(torch.cat([t[:2], s[:6]]) for t, s in zip(train, test, strict=True)))
    leaky: Prepared = prepared._replace(samples=prepared.samples | {"test": mixed})
    assert leak(leaky) == 2 / 8


def test_a_leaking_split_is_said(base: Path, tmp_path: Path) -> None:
    chosen = {"data.reader": "csv", "data.path": str(base / "log"), "data.min_item_count": 1}
    chosen |= {"train.epochs": 1, "train.dim": 8, "protocol": "paper", "data.test_prefixes": "all"}
    pipeline.execute(tmp_path / "run", nest(chosen), progress=Progress(quiet=True))
    page = parsed(tmp_path / "run" / REPORT)
    warned = [text for text in page.texts("p") if text.startswith("Mind:")]
    assert any("chosen on the test set" in text for text in warned)
    share = leak(load(tmp_path / "run" / "prepare"))
    assert share > 0.5
    assert any(f"The split (paper) leaks: {share:.0%}" in text for text in warned)
    assert "PROTOCOL PAPER" in page.text
    assert sections(page) == WHOLE - {"answers", "changes"}  # nobody was asked
    assert "Next click in the first 10 " in page.text  # sessions of the plain backbone alone
