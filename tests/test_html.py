"""The HTML report: whole pages of real toy runs, taken apart as a browser would."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr import pipeline, store
from llm4sbr.cli import _guarded
from llm4sbr.config import nest
from llm4sbr.data.prepared import Prepared, load
from llm4sbr.errors import StoreError
from llm4sbr.progress import Progress
from llm4sbr.protocols import Samples
from llm4sbr.report import REPORT, figures
from llm4sbr.report.choice import choose
from llm4sbr.report.html import write, write_experiment, write_run
from llm4sbr.report.layout import size
from llm4sbr.report.run_page import leak
from llm4sbr.report.sessions import sessions_page
from llm4sbr.testing.encoders import tiny_bert
from llm4sbr.testing.toy import toy_log

HOSTILE = (
    "<script>alert({})</script>",
    '"><img src=https://evil.example/{}.png onerror=alert(1)>',
    "{{{{ 7 * {} }}}} & </td></table>",
    "\u202egpj.{} <!--",
)
VOID = {"meta", "br", "img", "link", "input", "hr"}
ADDRESSES = ("src", "href", "data", "action", "poster", "srcset", "xlink:href", "formaction", "background")

Output = pytest.CaptureFixture[str]


class Page(HTMLParser):
    """A parsed page; a tag that is not closed where it should be fails the test."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[tuple[str, list[str]]] = [("", [])]
        self.closed: list[tuple[str, str]] = []
        """Tag and the text inside, by the order in which they end."""
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        self.close()
        assert len(self.open) == 1, f"never closed: {self.open[1:]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag not in VOID:
            self.open.append((tag, []))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        name, texts = self.open.pop()
        assert name == tag, f"</{tag}> closes <{name}>"
        text = "".join(texts)
        self.closed.append((tag, text))
        self.open[-1][1].append(text)
        if tag in ("td", "th"):
            self.tables[-1][-1].append(text.strip())

    def handle_data(self, data: str) -> None:
        self.open[-1][1].append(data)

    @property
    def text(self) -> str:
        return "".join(self.open[0][1])

    def texts(self, tag: str) -> list[str]:
        return [text for name, text in self.closed if name == tag]


def parsed(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toy data whose titles try to break out of the page, and an encoder."""
    folder = tmp_path_factory.mktemp("html")
    log = toy_log(folder / "log")
    with (log / "items.csv").open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    for number, row in enumerate(rows):
        row[1] = f"{row[1]} {HOSTILE[number % len(HOSTILE)].format(number)}"
    with (log / "items.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    tiny_bert(folder / "bert")
    return folder


@pytest.fixture(scope="module")
def finished(base: Path) -> Path:
    """A whole run with two seeds; its report was written at its end."""
    chosen = {
        "data.reader": "csv",
        "data.path": str(base / "log"),
        "data.min_item_count": 1,
        "infer.llm": "item-text",
        "localize.encoder": f"transformers:{base / 'bert'}",
        "localize.f": 3,
        "train.epochs": 2,
        "train.dim": 8,
        "train.seeds": 2,
        "train.workers": 1,
    }
    pipeline.execute(base / "run", nest(chosen), progress=Progress(quiet=True))
    return base / "run"


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


def sections(page: Page) -> set[str]:
    return {attributes["id"] for tag, attributes in page.tags if tag == "h2"}


WHOLE = {"results", "breakdown", "training", "cost", "answers", "sessions", "data", "settings"}


def safe(page: Page) -> None:
    """Nothing on the page runs, and nothing is fetched."""
    assert {tag for tag, _ in page.tags} & {
        "script",
        "img",
        "iframe",
        "object",
        "embed",
        "link",
        "form",
    } == set()
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ADDRESSES:
            address = attributes.get(name, "#")
            assert address.startswith("#") or re.fullmatch(r"runs/[\w.%/-]+", address), (tag, address)
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert set(re.findall(r"url\(([^)]*)\)", page.texts("style")[0])) == set()
    assert {a["fill"] for _, a in page.tags if "url(" in a.get("fill", "")} <= {"url(#hatched)"}


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
    marked = {line[0] for line in page.tables[0][1:] if line[0].endswith("control")}
    assert marked == {
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
    assert length[0][1] == f"HR@20{groups[0]['range']} ({groups[0]['samples']})"
    for line in length[1:]:
        row = next(row for row in metrics["rows"] if line[0].startswith(row["label"]))
        expected = [f"{100 * group['rows'][row['name']]['HR@20']:.2f}" for group in groups]
        assert line[1 : len(groups) + 1] == expected
    cost = by_caption["Mean over seeds; below, against the plain backbone"]
    plain, fused = (next(row for row in metrics["rows"] if row["name"] == n) for n in ("plain", "llm"))
    assert cost[2][1] == f"{fused['parameters']:,}{fused['parameters'] / plain['parameters'] - 1:+.1%}"
    assert cost[1][4] == size(plain["peak_memory"])
    infer = store.read_json(finished / "infer" / "infer.json")
    assert f"{infer['answered']:,} of {infer['samples']:,} samples of all splits have an answer" in page.text


def test_sources_of_live_intents_are_those_of_the_file(metrics: dict[str, Any], copy: Path) -> None:
    kept = {"HR@20": {"share": 0.8, "low": 0.7, "high": 0.95}, "MRR@20": None}
    metrics = json.loads(json.dumps(metrics))
    usual = metrics["rows"][2]["metrics"]
    metrics["sources"] = [
        {"name": name, "covered": covered, "metrics": usual, "kept": {"plain": kept}}
        for name, covered in (("cache", 1.0), ("predictor", 0.5))
    ]
    store.write_json(copy / "evaluate" / "metrics.json", metrics)
    changed = parsed(write_run(copy))
    header, first, second = next(table for table in changed.tables if table[0][0] == "intents")
    assert header == ["intents", "covered", "HR@20", "gain keptover plain", "MRR@20", "gain keptover plain"]
    assert (first[0], first[1], second[1]) == ("the LLM's own answers", "100%", "50%")
    assert (second[3], second[5]) == ("80%70% to 95%", "-")
    assert second[2].startswith(f"{100 * usual['HR@20']['mean']:.2f}")


def test_figures_and_tables_can_be_read_aloud(page: Page, metrics: dict[str, Any]) -> None:
    drawn = [attributes for tag, attributes in page.tags if tag == "svg" and "aria-hidden" not in attributes]
    assert len(drawn) > 10
    assert all(attributes["role"] == "img" for attributes in drawn)
    # the page's own title is one more
    assert len(page.texts("title")) == len(drawn) + 1
    assert len(page.texts("desc")) == len(drawn)
    assert all(text.strip() for text in page.texts("title") + page.texts("desc"))
    plain = next(row for row in metrics["rows"] if row["name"] == "plain")
    assert f"{plain['label']} {100 * plain['metrics']['HR@20']['mean']:.2f}" in page.texts("desc")[0]
    assert len(page.texts("caption")) == len(page.tables)
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    scrolled = [attributes for _, attributes in page.tags if attributes.get("class") == "scroll"]
    assert all(one["tabindex"] == "0" and one["aria-label"] for one in scrolled)
    anchors = {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"}
    assert anchors <= {attributes["id"] for _, attributes in page.tags if "id" in attributes}


def test_training_curves_have_a_line_per_seed_and_ring_the_epoch_kept(page: Page, finished: Path) -> None:
    logs = list(finished.glob("train/*/seed-*/log.jsonl"))
    rings = [attributes for _, attributes in page.tags if attributes.get("class") == "ring"]
    assert len(rings) == 2 * len(logs)  # the validation metric and the loss
    spoken = [text for text in page.texts("desc") if "by epoch" in text]
    assert len(spoken) == 2 * len({log.parent.parent for log in logs})
    first = json.loads((finished / "train/plain/seed-0/log.jsonl").read_text().splitlines()[0])
    assert f"seed-0, by epoch: 1: {100 * first['valid']['MRR@20']:.2f}" in page.text


def luminance(colour: str) -> float:
    """Relative luminance of sRGB (WCAG 2.2)."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_known() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#ffffff", "#767676") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast_is_enough_in_both_schemes(scheme: int) -> None:
    style = files("llm4sbr.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", style.split("@media")[scheme]))
    for ground in ("bg", "raised", "warn-bg", "mark"):
        assert contrast(colours["ink"], colours[ground]) >= 7
    assert contrast(colours["soft"], colours["bg"]) >= 4.5
    assert contrast(colours["soft"], colours["mark"]) >= 4.5
    assert contrast(colours["link"], colours["bg"]) >= 4.5
    for number in range(figures.STYLES):
        assert contrast(colours[f"c{number}"], colours["bg"]) >= 3


def test_series_differ_by_more_than_colour(page: Page) -> None:
    from llm4sbr.report.html import environment

    draw = environment().get_template("figures.html.j2").module
    looks = set()
    for style in range(figures.STYLES):
        marker = draw.marker(style, 0, 0)  # type: ignore[attr-defined]
        thread = draw.thread(style, [(0, 0)])  # type: ignore[attr-defined]
        looks.add((str(marker), str(thread)))
    assert len(looks) == figures.STYLES
    assert len({marker for marker, _ in looks}) == 5


def test_sessions_show_the_ranks_of_the_table(finished: Path, page: Page) -> None:
    prepared = load(finished / "prepare")
    found = sessions_page(finished, prepared, {})
    shown = [session for group in found.groups for session in group.sessions]
    assert len(shown) == 30
    for session in shown:
        assert [one.label for one in session.rankings] == ["llm", "plain"]
        for ranking in session.rankings:
            places = [place for place, item in enumerate(ranking.top, 1) if item.target]
            assert places == ([ranking.rank] if ranking.rank <= 10 else [])
            assert all(item.seen == (item.title in session.clicks) for item in ranking.top)
        assert [thought.perspective for thought in session.thoughts] == ["long", "short"]
        for thought in session.thoughts:
            assert len(thought.tied) == 3
            assert sum(weight for _, weight in thought.tied) == pytest.approx(1, abs=1e-3)
        assert session.thoughts[1].answer.startswith(session.clicks[-1])  # item-text, short view
    assert sum(group.size for group in found.groups) == len(prepared.samples["test"].key)
    assert found.rule in page.text
    marked = sum(1 for _, attributes in page.tags if attributes.get("class") == "target")
    assert marked == sum(item.target for s in shown for one in s.rankings for item in one.top)


def test_sessions_are_chosen_by_rule() -> None:
    ranks = {"llm": torch.tensor([1, 10, 11, 50, 3, 2]), "plain": torch.tensor([11, 2, 10, 60, 30, 99])}
    keys = torch.tensor([5, 1, 4, 3, 2, 0])
    eligible = torch.tensor([True, True, True, True, True, False])
    sizes, chosen = choose(ranks, keys, eligible, count=4)
    only_with, only_without, both, neither = chosen
    assert "only with the intents" in only_with
    assert [sizes[title] for title in chosen] == [2, 1, 1, 1]
    assert chosen[only_with].tolist() == [4]  # of samples 0 and 4 the one with the smaller key
    assert [chosen[title].tolist() for title in (only_without, both, neither)] == [[2], [1], [3]]
    _, more = choose(ranks, keys, eligible, count=30)
    assert more[only_with].tolist() == [4, 0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20), st.booleans()), max_size=80), st.booleans())
def test_as_many_sessions_are_shown_as_there_are(rows: list[tuple[int, int, bool]], alone: bool) -> None:
    with_, without, eligible = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    ranks = {"plain": torch.tensor(without, dtype=torch.int64)}
    ranks |= {} if alone else {"llm": torch.tensor(with_, dtype=torch.int64)}
    allowed = torch.tensor(eligible, dtype=torch.bool)
    sizes, chosen = choose(ranks, torch.arange(len(rows)), allowed)
    shown = torch.cat(list(chosen.values())).tolist()
    assert len(shown) == len(set(shown)) == min(30, sum(eligible)) == min(30, sum(sizes.values()))
    assert all(eligible[one] for one in shown)
    counts = [len(members) for members in chosen.values()]
    most = max(counts, default=0)
    assert all(c >= most - 1 or c == size for c, size in zip(counts, sizes.values(), strict=True))


def test_a_leak_is_counted(finished: Path) -> None:
    prepared = load(finished / "prepare")
    assert leak(prepared) == 0
    train, test = prepared.samples["train"], prepared.samples["test"]
    mixed = Samples(*(torch.cat([t[:2], s[:6]]) for t, s in zip(train, test, strict=True)))
    leaky: Prepared = prepared._replace(samples=prepared.samples | {"test": mixed})
    assert leak(leaky) == 2 / 8


def test_a_leaking_split_is_said(base: Path, tmp_path: Path) -> None:
    chosen = {"data.reader": "csv", "data.path": str(base / "log"), "data.min_item_count": 1}
    chosen |= {"train.epochs": 1, "train.dim": 8, "protocol": "paper", "data.prefixes": "all"}
    pipeline.execute(tmp_path / "run", nest(chosen), progress=Progress(quiet=True))
    page = parsed(tmp_path / "run" / REPORT)
    warned = [text for text in page.texts("p") if text.startswith("Mind:")]
    assert any("chosen on the test set" in text for text in warned)
    share = leak(load(tmp_path / "run" / "prepare"))
    assert share > 0.5
    assert any(f"The split (paper) leaks: {share:.0%}" in text for text in warned)
    assert "PROTOCOL PAPER" in page.text
    assert sections(page) == WHOLE - {"answers"}  # nobody was asked
    assert "Next click in the first 10 " in page.text  # sessions of the plain backbone alone


GONE: dict[str, tuple[str, set[str]]] = {
    "localize": ("localize", {"sessions"}),
    "infer": ("infer", {"answers"}),
    "ranks": ("evaluate/ranks.safetensors", {"sessions"}),
    "metrics": ("evaluate/metrics.json", {"results", "breakdown", "sessions"}),
    "data": ("prepare", {"data", "sessions"}),
    "models": ("train", {"training", "sessions"}),
    "one model": ("train/llm/seed-0/model.safetensors", {"sessions"}),
    "settings": ("resolved.toml", {"settings"}),
}


@pytest.mark.parametrize("what", GONE)
def test_what_is_gone_is_named_and_the_rest_is_shown(copy: Path, what: str) -> None:
    name, lost = GONE[what]
    gone = copy / name
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    page = parsed(write_run(copy))
    safe(page)
    assert sections(page) == WHOLE - lost
    if what != "models":  # without any log there is nothing that could not be read
        assert name.split("/")[-1] in page.text.partition("Not shown")[2]


@pytest.mark.parametrize("name", ["evaluate/metrics.json", "evaluate/ranks.safetensors", "infer/infer.json"])
def test_a_truncated_file_is_named(copy: Path, name: str) -> None:
    path = copy / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert f"{path}: not a whole" in parsed(write_run(copy)).text


def test_results_of_another_layout_are_named(copy: Path) -> None:
    store.write_json(copy / "evaluate" / "metrics.json", {"k": [20], "rows": [{"kind": "plain"}]})
    page = parsed(write_run(copy))
    assert "metrics.json: not a table of results (KeyError: 'name')" in page.text
    assert {"data", "training", "answers"} <= sections(page)


def test_half_a_surrogate_pair_does_not_stop_the_report(copy: Path) -> None:
    path = copy / "versions.json"
    path.write_text(json.dumps({"python": "\ud800"}), encoding="utf-8")
    assert "python  ?" in parsed(write_run(copy)).text


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path, capsys: Output) -> None:
    with pytest.raises(StoreError, match="not a run directory"):
        write_run(tmp_path)
    assert _guarded(["report", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_command_line_names_the_report(copy: Path, capsys: Output) -> None:
    report = copy / REPORT
    assert _guarded(["run", str(copy), "--quiet"]) == 0
    assert capsys.readouterr().out.endswith(f"\n\nReport: {report}\n")
    assert _guarded(["evaluate", str(copy), "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(report)
    report.unlink()
    assert _guarded(["report", str(copy), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(report)}
    assert report.exists()


def test_a_report_never_outlives_what_it_tells_of(copy: Path) -> None:
    (copy / REPORT).write_text("old", encoding="utf-8")
    pipeline.execute(copy, {}, progress=Progress(quiet=True))
    assert (copy / REPORT).read_text(encoding="utf-8") == "old"  # nothing was redone
    pipeline.execute(copy, {}, until="train", force=True, progress=Progress(quiet=True))
    assert not (copy / REPORT).exists()
    pipeline.execute(copy, {}, progress=Progress(quiet=True))
    assert sections(parsed(copy / REPORT)) == WHOLE


def axes(**changed: Any) -> dict[str, Any]:
    usual = {"dataset": "toy", "protocol": "default", "backbone": "sr-gnn", "perspectives": ["long", "short"]}
    return usual | {"f": 5} | changed


def cell(name: str, metrics: dict[str, Any] | None, **known: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "name": name,
        "run": f"runs/{name}",
        "axes": axes(),
        "error": None,
        "paper": None,
        "notes": [],
    }
    return usual | {"status": "done" if metrics else "pending", "metrics": metrics} | known


@pytest.fixture
def experiment(tmp_path: Path) -> Callable[..., Page]:
    def write_cells(kind: str, *cells: dict[str, Any]) -> Page:
        content = {"format": 1, "experiment": kind, "cells": cells, "hardware": {"cores": 2}, "versions": {}}
        store.write_json(tmp_path / "experiment.json", content)
        path = write(tmp_path)
        assert path == tmp_path / REPORT
        found = parsed(path)
        safe(found)
        return found

    return write_cells


def test_an_experiment_shows_cells_beside_the_papers_figures(
    experiment: Callable[..., Page], metrics: dict[str, Any], tmp_path: Path
) -> None:
    printed = {
        "plain": {"HR@20": 0.1301, "MRR@20": 0.0319},
        "llm": {"HR@20": 0.1754},
        "memory": {},
        "source": "S",
    }
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / REPORT).write_text("x")
    page = experiment(
        "table2",
        cell("a", metrics, paper=printed, notes=["Mind the gap."]),
        cell("b", metrics, axes=axes(backbone="tagnn")),
        cell("c", None, status="failed", error="<script>boom</script>"),
        cell("d", None, run="../../etc"),
    )
    header, *lines = page.tables[0]
    assert header == ["model", "HR@20P@20", "gain", "paperHR@20", "MRR@20", "gain", "paperMRR@20"]
    models = [row for row in metrics["rows"] if row["kind"] != "baseline"]
    assert len(lines) == len(metrics["rows"]) + len(models)  # baselines once
    plain = next(line for line in lines if "plain" in line[0])
    assert (plain[3], plain[6]) == ("13.01", "3.19")
    fused = lines[lines.index(plain) + 1]
    assert (fused[3], fused[6]) == ("17.54", "-")
    assert "2 of 4 cells are done" in page.texts("p")[1]
    assert "no LLM was asked in any" in page.texts("p")[1]
    assert "Mind: a: Mind the gap." in page.texts("p")
    cells = page.tables[1]
    assert [line[1] for line in cells[1:]] == ["done", "done", "failed<script>boom</script>", "pending"]
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert [link for link in links if not link.startswith("#")] == ["runs/a/report.html"]
    bars = [text for text in page.texts("desc") if "paper, plain 13.01" in text]
    assert len(bars) == 1


def test_the_finding_counts_gains_that_controls_share(
    experiment: Callable[..., Page], metrics: dict[str, Any]
) -> None:
    def told(llm: float, shuffled: float, p: float) -> dict[str, Any]:
        changed: dict[str, Any] = json.loads(json.dumps(metrics)) | {"llm": "some-llm"}
        for row in changed["rows"]:
            means = {"plain": 0.1, "llm": llm, "shuffled": shuffled}
            if row["name"] in means:
                row["metrics"]["MRR@20"]["mean"] = means[row["name"]]
                row["gain"] = {"MRR@20": means[row["name"]] / 0.1 - 1}
                row["p"] = {"MRR@20": p}
        return changed

    page = experiment(
        "table2",
        cell("own", told(0.2, 0.15, 0.01)),
        cell("shared", told(0.2, 0.2, 0.01)),
        cell("chance", told(0.2, 0.1, 0.5)),
        cell("worse", told(0.05, 0.2, 0.01)),
    )
    said = page.texts("p")[1]
    assert "significantly in 2 of 4; in 1 of these 2 a control" in said
    assert said.endswith("and there the gain is not the LLM's. They lower MRR@20 in 1.")
    page = experiment("table2", cell("own", told(0.2, 0.15, 0.01)))
    assert page.texts("p")[1] == f"1 of 1 cells are done. {metrics['verdict']}"


def test_figures_of_the_other_experiments(experiment: Callable[..., Page], metrics: dict[str, Any]) -> None:
    whole = [cell(part, metrics, axes=axes(part=part)) for part in ("whole", "without long")]
    page = experiment("ablation", *whole)
    assert "intents, without long" in page.texts("desc")[0]
    assert page.tables[0][-1][0].endswith("without long")
    printed = {"llm": {"HR@20": 0.3}, "memory": {"plain": 1224e6, "llm": 1304e6}}
    page = experiment(
        "localization", *(cell(f"f{f}", metrics, axes=axes(f=f), paper=printed) for f in (5, 0, 1))
    )
    fused = next(row for row in metrics["rows"] if row["name"] == "llm")
    share = f"{100 * fused['metrics']['HR@20']['mean']:.2f}"
    assert f"intents of item-text, by f: 0: {share}, 1: {share}, 5: {share}" in page.texts("desc")[0]
    assert "paper, with intents, by f: 0: 30.00" in page.texts("desc")[0]
    page = experiment("memory", cell("m", metrics, paper=printed))
    plain = next(row for row in metrics["rows"] if row["name"] == "plain")
    more = f"{fused['peak_memory'] / plain['peak_memory'] - 1:+.1%}"
    assert page.tables[0][1][3] == more
    assert page.tables[0][1][4:] == ["1.22 GB", "1.30 GB", "+6.5%"]
    assert f"Intents cost {more} to {more} of peak memory." in page.text


def test_an_experiment_that_has_only_begun_or_is_damaged(
    experiment: Callable[..., Page], tmp_path: Path
) -> None:
    assert "0 of 1 cells are done." in experiment("table2", cell("a", None)).text
    for content in ('{"format": 1', '{"format": 1, "experiment": "table2"}', '{"format": 2}'):
        (tmp_path / "experiment.json").write_text(content, encoding="utf-8")
        with pytest.raises(StoreError, match=r"experiment\.json"):
            write_experiment(tmp_path)


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_round_and_enclose(low: float, width: float) -> None:
    found = figures.ticks(low, low + width)
    steps = [after - before for before, after in pairwise(found)]
    assert 2 <= len(found) <= 7
    assert found[0] <= low + 1e-6 * width
    assert found[-1] >= low + width - 1e-6 * width
    assert all(step == pytest.approx(steps[0], rel=1e-4) for step in steps)


def test_charts_are_laid_out_to_scale() -> None:
    bars = figures.bar_chart("t", [figures.Value("a", 10, 0, 2.0), figures.Value("b", 6, 1)], unit="u").bars
    assert bars[1].length == pytest.approx(bars[0].length * 0.6, abs=0.1)
    low, high = bars[0].whisker or (0, 0)
    assert (low, high) == pytest.approx((bars[0].length * 0.8, bars[0].length * 1.2), abs=0.2)
    assert high <= figures.WIDTH
    series = [figures.Series("s", [(0, 0.0), (1, 5.0), (4, 10.0)], 0, best=2)]
    (line,) = figures.line_chart("t", series, unit="u", x_label="x").lines
    (x0, y0), (x1, y1), (x2, y2) = line.points
    assert (x1 - x0) * 4 == pytest.approx(x2 - x0, abs=0.5)
    assert (y0 - y1) * 2 == pytest.approx(y0 - y2, abs=0.5)
    assert line.best == (x2, y2)


def test_an_unknown_variant_never_looks_like_a_known_one() -> None:
    others = ["plain", "llm", "predictor", "second"]
    styles = [figures.style_of(name, others) for name in others]
    assert len(set(styles)) == len(others)
