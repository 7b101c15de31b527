from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import RenderableType

from llm4sbr.doctor import Diagnosis, Finding
from llm4sbr.registry import components
from llm4sbr.report.formats import count, duration, size
from llm4sbr.report.models import models_table
from llm4sbr.report.terminal.layout import WIDTH, drawn, show
from llm4sbr.report.terminal.recommendation import recommendation_tables
from llm4sbr.report.terminal.results import metrics_tables
from llm4sbr.report.terminal.stages import (
    components_table,
    diagnosis_table,
    show_stage,
    stats_tables,
    summary_table,
)
from llm4sbr.serving.recommendation import Explanation, PerspectiveIntent, Recommendation, Recommended, Tied
from llm4sbr.serving.titles import Resolved


def text(*parts: RenderableType) -> str:
    stream = io.StringIO()
    show(*parts, file=stream)
    return stream.getvalue()


def line_of(shown: str, start: str) -> str:
    return next(line for line in shown.splitlines() if line.startswith(start))


def values(means: Sequence[float], spread: float | None) -> dict[str, Any]:
    """HR, MRR, NDCG at 5, 10, 20, the same at every K."""
    found = {}
    for k in (5, 10, 20):
        for name, mean in zip(("HR", "MRR", "NDCG"), means, strict=True):
            seeds = [mean] if spread is None else [mean - spread, mean, mean + spread]
            found[f"{name}@{k}"] = {"mean": mean, "std": spread or 0.0, "values": seeds}
    return found


def row(label: str, means: Sequence[float], *, spread: float | None = 0.0021, **known: Any) -> dict[str, Any]:
    return {
        "name": label,
        "label": label,
        "kind": "control",
        "metrics": values(means, spread),
        "gain": {},
        "p": {},
        "seconds": 75.2,
        "peak_memory": 1.25e9,
        "samples_per_second": 2650.4,
        "parameters": 345_678,
    } | known


def metrics(*rows: dict[str, Any], **known: Any) -> dict[str, Any]:
    return {
        "k": [5, 10, 20],
        "samples": 4321,
        "coverage": 0.834,
        "seeds": 3,
        "selected_on": ["valid"],
        "split": "temporal",
        "rows": list(rows),
        "verdict": "The table shows nothing that can be told from chance.",
    } | known


POPULARITY = row(
    "popularity",
    (0.05, 0.01, 0.02),
    spread=None,
    parameters=None,
    samples_per_second=None,
    peak_memory=None,
    gain={"HR@20": -0.6, "MRR@20": None},
    p={"HR@20": 0.0001, "MRR@20": 1.0},
)
PLAIN = row("sr-gnn, plain", (0.125, 0.0625, 0.08))
LLM = row(
    "sr-gnn, intents of embedded",
    (0.14, 0.0625, 0.0755),
    gain={"HR@20": 0.12, "MRR@20": 0.001},
    p={"HR@20": 0.03, "MRR@20": 0.5},
)
TIMINGS = {
    "prepare": {"seconds": 1.25, "peak_memory": 120_000_000},
    "train": {"seconds": 3725.0, "peak_memory": 1_300_000_000},
}


def test_final_table_shows_percent_deviation_gain_and_significance() -> None:
    shown = text(*metrics_tables(metrics(POPULARITY, PLAIN, LLM), TIMINGS))
    header = line_of(shown, "model")
    assert header.split() == ["model", "HR@20", "(P@20)", "gain", "MRR@20", "gain", "NDCG@20"]
    assert line_of(shown, "popularity").split() == ["popularity", "5.00", "-60.0%**", "1.00", "-", "2.00"]
    plain = line_of(shown, "sr-gnn, plain").removeprefix("sr-gnn, plain").split("  ")
    assert [cell.strip() for cell in plain if cell.strip()] == [
        "12.50 ± 0.21",
        "-",
        ">6.25 ± 0.21",
        "-",
        ">8.00 ± 0.21",
    ]
    llm = line_of(shown, "sr-gnn, intents").removeprefix("sr-gnn, intents of embedded").split("  ")
    assert [cell.strip() for cell in llm if cell.strip()] == [
        ">14.00 ± 0.21",
        "+12.0%*",
        ">6.25 ± 0.21",  # equal best values are both marked
        "+0.1%",
        "7.55 ± 0.21",
    ]


def test_final_table_says_what_its_marks_and_numbers_mean() -> None:
    shown = " ".join(text(*metrics_tables(metrics(PLAIN, LLM), TIMINGS)).split())
    assert "Percent over 4,321 test samples, 3 seeds, split temporal, 83% with an LLM answer" in shown
    assert "> best of its column. ± standard deviation over seeds." in shown
    assert "gain: over the plain backbone; * p < 0.05, ** p < 0.01 (paired test)" in shown
    assert shown.startswith("The table shows nothing that can be told from chance. Percent over")


def test_nothing_is_explained_that_is_not_shown() -> None:
    single = metrics(row("sr-gnn, plain", (0.1, 0.1, 0.1), spread=None), seeds=1, coverage=None)
    shown = text(*metrics_tables(single, {}))
    assert "±" not in shown
    assert "gain:" not in shown
    assert "LLM answer" not in shown
    assert "1 seed," in shown
    assert "stage" not in shown


def test_best_epoch_chosen_on_the_test_set_cannot_be_overlooked() -> None:
    shown = text(*metrics_tables(metrics(PLAIN, selected_on=["test"]), {}))
    assert "BEST EPOCH CHOSEN ON THE TEST SET" in " ".join(shown.split())


def test_protocol_and_what_departs_from_it_stand_first() -> None:
    named = metrics(PLAIN, protocol="paper", protocol_changes=["train.dim=8", "localize.f=3"])
    shown = text(*metrics_tables(named, {}))
    assert "\nPROTOCOL PAPER, but train.dim=8, localize.f=3. Percent over 4,321" in shown
    shown = text(*metrics_tables(metrics(PLAIN, protocol="default", protocol_changes=[]), {}))
    assert "\nPercent over 4,321" in shown


def test_shorter_lists_cost_and_stages_stand_below() -> None:
    shown = text(*metrics_tables(metrics(POPULARITY, PLAIN), TIMINGS))
    headers = [" ".join(line.split()) for line in shown.splitlines() if line.startswith("model")]
    assert headers[1] == "model P@5 MRR@5 NDCG@5 P@10 MRR@10 NDCG@10"
    costs = shown[shown.index("parameters") :].splitlines()
    assert costs[2].split() == ["popularity", "-", "1", "min", "15", "s", "-", "-"]
    assert costs[3].split("plain")[1].split() == ["345,678", "1", "min", "15", "s", "2,650", "1.25", "GB"]
    assert line_of(shown, "prepare").split() == ["prepare", "1.2", "s", "120", "MB"]
    assert line_of(shown, "train").split() == ["train", "1", "h", "02", "min", "1.30", "GB"]
    assert line_of(shown, "all").split() == ["all", "1", "h", "02", "min", "1.30", "GB"]


@pytest.mark.parametrize("ks", [[20], [1, 20], [1, 3, 5, 10, 20, 50]])
def test_any_list_lengths_are_shown_once_each(ks: list[int]) -> None:
    one = row("sr-gnn, plain", (0, 0, 0))
    one["metrics"] = {
        f"{m}@{k}": {"mean": 0.1, "std": 0.0, "values": [0.1]} for k in ks for m in ("HR", "MRR", "NDCG")
    }
    shown = text(*metrics_tables(metrics(one, k=ks), {})).split()
    assert [shown.count(f"NDCG@{k}") for k in ks] == [1] * len(ks)


def test_all_zero_columns_have_no_best_value() -> None:
    shown = text(*metrics_tables(metrics(row("sr-gnn, plain", (0, 0, 0))), {}))
    assert ">" not in shown.replace("> best of its column.", "")


def test_every_table_fits_the_width_and_keeps_its_words() -> None:
    label = "a-backbone-with-a-name, intents of transformers:some-organisation/some-model-7b-instruct"
    long = row(label, (0.99, 0.99, 0.99), gain={"HR@20": 12.345}, p={"HR@20": 0.0})
    shown = text(*metrics_tables(metrics(long, long), TIMINGS), components_table(components()))
    assert max(map(len, shown.splitlines())) <= WIDTH
    assert "+1234.5%**" in shown
    assert "…" not in shown


def test_plain_text_has_no_control_codes_and_no_trailing_blanks() -> None:
    shown = text(*metrics_tables(metrics(POPULARITY, PLAIN, LLM), TIMINGS))
    assert "\x1b" not in shown
    assert all(line == line.rstrip() for line in shown.splitlines())


STATS: dict[str, Any] = {
    "sessions": 53_671,
    "clicks": 986_910,
    "items": 3_416,
    "average_length": 17.39,
    "average_length_with_target": 18.39,
    "splits": {
        "train": {"sessions": 40_000, "clicks": 700_000, "samples": 660_000},
        "valid": {"sessions": 0, "clicks": 0, "samples": 0},
        "test": {"sessions": 5_000, "clicks": 90_000, "samples": 85_000},
    },
    "rules": {"sessions": "bins", "gap_seconds": 600.0, "split": "temporal", "unset": None},
    "clock": True,
    "first_click": 86_400.0 * 365,  # 1971-01-01
    "last_click": 86_400.0 * 366,
    "dropped": {"repeated clicks": 0, "rare items": 1_234},
    "mended": {"items without a title": 7},
    "items_table": {"items that nobody clicked": 31, "items without category": 0},
    "rows": 1_000_000,
    "rejected": 2,
    "rejected_first": ["log.csv:7: time: 'x' is no number", "log.csv:9: item: empty"],
}


def test_statistics_are_told_with_what_was_dropped() -> None:
    shown = text(*stats_tables(STATS))
    assert line_of(shown, "sessions").split() == ["sessions", "53,671"]
    assert line_of(shown, "average length").endswith("17.39 (18.39 with the target)")
    assert line_of(shown, "rules").endswith("sessions bins, gap_seconds 600.0, split temporal")
    assert line_of(shown, "time").endswith("1971-01-01 to 1971-01-02")
    assert line_of(shown, "rare items").endswith("1,234")
    assert "repeated clicks" not in shown
    assert line_of(shown, "items without a title").endswith("7")
    assert line_of(shown, "items that nobody clicked").endswith("31")
    assert "without category" not in shown
    assert line_of(shown, "rows not read").endswith("2 of 1,000,000")
    assert "log.csv:9: item: empty" in shown
    assert line_of(shown, "test").split() == ["test", "5,000", "90,000", "85,000"]


def test_statistics_without_a_clock_have_no_dates() -> None:
    assert "time" not in text(*stats_tables(STATS | {"clock": False, "rejected_first": [], "rejected": 0}))


def recommendation(intents: Explanation | None, variant: str = "llm") -> str:
    items = [Recommended(7, "a", "Toy [red] Story", 2.5), Recommended(3, "b", "Babe", -1.0)]
    session = [Resolved("heat", 5, "c", "Heat (1995)", "title"), Resolved("6", 6, "d", "Casino", "key")]
    return text(*recommendation_tables(Recommendation(items, session, variant, 4, intents).as_dict()))


def test_recommendation_shows_the_list_and_what_the_llm_said() -> None:
    perspectives = [
        PerspectiveIntent("long", "Heat", [Tied(5, "c", "Heat (1995)", 0.75), Tied(6, "d", "Casino", 0.25)]),
        PerspectiveIntent("short", "", []),
    ]
    shown = recommendation(Explanation("cache", ["Heat (1995)", "Casino"], perspectives))
    assert shown.splitlines()[0] == "After Heat (1995) | Casino (model llm, seed 4):"
    assert line_of(shown, "1").split() == ["1", "Toy", "[red]", "Story", "2.500"]
    assert line_of(shown, "2").split() == ["2", "Babe", "-1.000"]
    assert "\nWhat the LLM said about this session:\n\nlong: Heat\n" in shown
    assert line_of(shown, "Heat (1995)").split() == ["Heat", "(1995)", "0.75"]
    assert shown.splitlines()[-1] == "short: no usable answer"


def test_recommendation_says_whose_words_of_which_session_were_used() -> None:
    shown = recommendation(Explanation("nearest", ["Ran", "Dreams"]), "item-text")
    assert shown.splitlines()[-1] == "What item-text said about the nearest known session, Ran | Dreams:"
    shown = recommendation(Explanation("none"))
    assert shown.splitlines()[-1] == "No intents were used."
    assert "intents" not in recommendation(None, "plain")


def test_recommendation_shows_what_a_prediction_is_like_and_what_was_misspelt() -> None:
    perspectives = [PerspectiveIntent("long", "", [Tied(5, "c", "Heat (1995)", 0.9)])]
    shown = recommendation(Explanation("predictor", [], perspectives))
    assert "Predicted intents of the LLM" in shown
    assert "no usable answer" not in shown
    assert line_of(shown, "similar to").split() == ["similar", "to", "cosine"]
    session = [Resolved("heet", 5, "c", "Heat (1995)", "spelling"), Resolved("6", 6, "d", "Casino", "key")]
    found = Recommendation([], session, "llm", None, None, "onnx, cpu").as_dict()
    shown = text(*recommendation_tables(found))
    assert shown.splitlines()[0] == "'heet' taken for Heat (1995) (spelling)"
    assert "'6'" not in shown
    assert "(model llm, by onnx, cpu)" in shown


def test_findings_carry_their_level_in_words_and_the_remedy() -> None:
    found = [Finding("ok", "torch", "2.0"), Finding("error", "packages", "x [y] is missing", "pip install x")]
    shown = text(diagnosis_table(Diagnosis(found))).splitlines()
    assert shown[2].split() == ["ok", "torch", "2.0"]
    assert shown[3].split() == ["ERROR", "packages", "x", "[y]", "is", "missing"]
    assert shown[4].strip() == "-> pip install x"


def test_models_are_listed_with_their_validation_metric() -> None:
    facts = {"variant": "llm", "seed": 1, "epochs": 9, "best_epoch": 6, "seconds": 12.0}
    records = [
        {"parameters": 1000, "facts": facts | {"valid": {"MRR@20": 0.0512}}},
        {"parameters": 1000, "facts": facts | {"valid": {}}},
    ]
    shown = text(*drawn(models_table(records))).splitlines()
    assert shown[2].split() == ["llm", "1", "9", "6", "5.12", "1,000", "12.0", "s"]
    assert shown[3].split()[4] == "-"
    assert "valid MRR@20" in shown[0]
    facts |= {"selected_on": "test"}
    assert "TEST MRR@20" in text(*drawn(models_table([{"parameters": 1, "facts": facts}])))
    facts |= {"loss": "uniform, 9 negatives"}
    assert "items: uniform, 9 negatives" in text(*drawn(models_table([{"parameters": 1, "facts": facts}])))
    shown = text(*metrics_tables(metrics(PLAIN, sampled=["in-batch"]), {}))
    assert "trained on sampled items (in-batch)" in " ".join(shown.split())


def test_summary_is_flat_and_cuts_what_is_long() -> None:
    shown = text(summary_table({"llm": {"long": {"asked": 1234}}, "answer": "x" * 1000, "list": [1, "a"]}))
    assert line_of(shown, "llm long asked").endswith("1,234")
    assert shown.count("x") == 300
    assert line_of(shown, "list").endswith("1, a")
    assert text(summary_table({"sources": {}})) == "nothing to report\n"


def test_in_brief_the_verdict_and_its_table_are_in_sight_together() -> None:
    found = metrics(POPULARITY, PLAIN, LLM)
    whole, brief = text(*metrics_tables(found, TIMINGS)), text(*metrics_tables(found, TIMINGS, brief=True))
    assert whole.startswith(brief.partition("\nstage ")[0])
    assert brief.startswith(found["verdict"][:40])
    assert "HR@5" in whole
    assert "HR@5" not in brief
    assert whole[whole.index("\nstage ") :] == brief[brief.index("\nstage ") :]


def test_stages_are_shown_each_in_its_way(capsys: pytest.CaptureFixture[str]) -> None:
    timings = {
        "prepare": {"seconds": 1.0, "peak_memory": 10**8},
        "evaluate": {"seconds": 2.0, "peak_memory": 10**9},
    }
    show_stage("prepare", STATS, timings)
    assert "53,671" in capsys.readouterr().out
    show_stage("infer", {"asked": 3}, timings)
    assert capsys.readouterr().out == "asked  3\n"
    show_stage("evaluate", metrics(PLAIN), timings)
    shown = capsys.readouterr().out
    assert shown.index("prepare  ") < shown.index("evaluate ")
    assert line_of(shown, "all").split() == ["all", "3.0", "s", "1.00", "GB"]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.04, "0.0 s"), (59.96, "1 min 00 s"), (3599.6, "1 h 00 min"), (None, "-")]
)
def test_durations(value: float | None, shown: str) -> None:
    assert duration(value) == shown


def test_sizes_and_counts() -> None:
    assert [size(value) for value in (None, 0, 1_500_000, 2_340_000_000)] == ["-", "0 MB", "2 MB", "2.34 GB"]
    assert [count(value) for value in (None, 0, 1234.6)] == ["-", "0", "1,235"]
