from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from llm4sbr_openai import batch

from llm4sbr.asking.cache import AnswerCache
from llm4sbr.config import to_toml
from llm4sbr.errors import DataError
from llm4sbr.testing.toy_run import toy_run


@pytest.fixture
def run(tmp_path):
    run = toy_run(tmp_path / "run", sources=())
    settings = {"infer": {"llm": "openai:m", "cache": str(tmp_path / "answers.sqlite"), "max_items": 2}}
    (run / "config.toml").write_text(to_toml(settings))
    return run


def _call(*arguments):
    found = CliRunner().invoke(batch.cli, [str(a) for a in arguments])
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.output


def _result(request, text="Red Lamp", status=200):
    body = {"choices": [{"message": {"content": text}}], "usage": {"total_tokens": 9}}
    return {
        "custom_id": request["custom_id"],
        "response": {"status_code": status, "body": body},
        "error": None,
    }


def test_there_and_back(run, tmp_path):
    file, results = tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
    _call("requests", run, file)
    requests = [json.loads(line) for line in file.read_text().splitlines()]
    assert len({r["custom_id"] for r in requests}) == len(requests) > 20
    assert {r["url"] for r in requests} == {"/v1/chat/completions"}
    assert {r["body"]["model"] for r in requests} == {"m"}
    lines = [_result(requests[0], status=500), *(_result(r) for r in requests[1:])]
    lines.append(_result({"custom_id": "00" * 32}))
    results.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = _call("answers", run, results)
    assert f"{len(requests) - 1} new answers, 1 failed (status 500), 1 not of this run; 1 missing" in said
    with AnswerCache.open(tmp_path / "answers.sqlite") as cache:
        assert len(cache) == len(requests) - 1
        assert {row[1].text for row in cache.rows()} == {"Red Lamp"}
    _call("requests", run, file)
    assert [json.loads(x)["custom_id"] for x in file.read_text().splitlines()] == [requests[0]["custom_id"]]


def test_shuffled_doubled_and_odd_results(run, tmp_path):
    _call("requests", run, tmp_path / "requests.jsonl")
    requests = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()][::-1]
    lines = [_result(r) for r in requests[4:]] + [_result(requests[-1], text="Blue Chair")]
    lines += [
        _result(requests[0], text={"a": 1}),
        _result(requests[1], text=[{"type": "text", "text": "Oak"}]),
    ]
    thought = _result(requests[2], text="<think>Well")
    thought["response"]["body"]["choices"][0]["finish_reason"] = "length"
    lines += [thought, _result(requests[3], text="half \ud800") | {"more": 1}]
    text = "\ufeff" + "\r\n".join(map(json.dumps, lines)) + "\n\n"
    (tmp_path / "results.jsonl").write_bytes(text.encode())
    said = _call("answers", run, tmp_path / "results.jsonl")
    assert f"{len(requests) - 2} new answers, 2 failed (its tokens were used up" in said
    assert "0 not of this run; 2 missing" in said
    with AnswerCache.open(tmp_path / "answers.sqlite") as cache:
        assert {row[1].text for row in cache.rows()} >= {"Oak", "half ?"}


@pytest.mark.parametrize("line", ["\udcff", "{", "[]", "{}", '{"custom_id": "xyz"}', '{"custom_id": 3}'])
def test_a_bad_line_adds_nothing(run, tmp_path, line):
    _call("requests", run, tmp_path / "requests.jsonl")
    first = json.loads((tmp_path / "requests.jsonl").read_text().splitlines()[0])
    (tmp_path / "results.jsonl").write_text(
        json.dumps(_result(first)) + "\n" + line + "\n", errors="surrogateescape"
    )
    with pytest.raises(DataError, match=r"results.jsonl:2"):
        _call("answers", run, tmp_path / "results.jsonl")
    assert not (tmp_path / "answers.sqlite").exists() or not len(
        AnswerCache.open(tmp_path / "answers.sqlite")
    )
