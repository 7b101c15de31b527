"""Replies that say nothing, servers on which nothing works, and answers that are kept when they come."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from bad_server import Handler, Server, answer
from llm4sbr_openai import OpenAILLM, batch
from llm4sbr_openai.reply import NoAnswerError, said

from llm4sbr.asking.asker import Asker, Budget
from llm4sbr.asking.cache import AnswerCache
from llm4sbr.cli import _guarded
from llm4sbr.errors import ConfigError, ModelUnavailableError, UnansweredError
from llm4sbr.testing.toy import toy_log

Output = pytest.CaptureFixture[str]
MANY = [str(number) for number in range(26)]


def reply(ending: str = "stop", **message: object) -> dict[str, Any]:
    found = answer(None)
    found["choices"] = [{"index": 0, "message": message, "finish_reason": ending}]
    return found


NOTHING = {
    "null": (reply(content=None), "said nothing.*chat template"),
    "empty": (reply(content=" \n"), "said nothing"),
    "missing": (reply(), "said nothing"),
    "reasoning": (reply(content=None, reasoning_content="Blue Lamp"), "as reasoning"),
    "thought": (reply(content="<think>Hm.</think>\n"), "a thought and no answer.*enable_thinking"),
    "open thought": (reply(content="<think>Hm."), "a thought and no answer"),
    "cut": (reply("length", content=""), "used up"),
    "refusal": (reply(content=None, refusal="I cannot"), "the model refused: I cannot.*wording"),
    "part": (reply(content=[{"type": "refusal", "refusal": "No"}]), "the model refused: No"),
    "filter": (reply("content_filter", content="The"), "a content filter"),
    "error": ({"error": {"message": "no room"}}, "error sent as a success: no room"),
    "error text": ({"error": "no room", "choices": []}, "no room"),
    "choice": ({"choices": [{"error": {"code": 502}}]}, "error sent as a success.*502"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_reply_that_says_nothing_is_no_answer(server: Server, tmp_path: Path, name: str) -> None:
    body, match = NOTHING[name]
    server.behave = lambda h, prompt, times: prompt == "3" and (h.say(200, body) or True)
    llm = OpenAILLM("m", url=server.url, retries=0)
    with AnswerCache.open(tmp_path / "answers.sqlite") as cache:
        asker = Asker(llm, cache, budget=Budget())
        asker.ask(range(26), lambda sample: [MANY[sample]])
        assert (asker.asked, list(asker.failed.values())) == (25, ["3"])
        assert sorted(row[1].text for row in cache.rows()) == sorted(
            f"You said {one}" for one in MANY if one != "3"
        )
    server.behave = lambda h, prompt, times: h.say(200, body) or True
    with pytest.raises(ModelUnavailableError, match=match):
        OpenAILLM("m", url=server.url).generate(MANY)


def test_answers_are_cut_at_the_stop_text() -> None:
    body = reply(content="Red Lamp\n\nUser: and now")
    assert said(body, ["\nUser", "###"])[0] == "Red Lamp\n"
    assert said(body)[0] == "Red Lamp\n\nUser: and now"
    with pytest.raises(NoAnswerError):
        said(reply(content="###"), ["###"])
    assert OpenAILLM("m", extra={"stop": "x"}).stops == ["x"]
    assert OpenAILLM("m", extra={"stop": ["x", "y"]}).stops == ["x", "y"]


def test_a_server_leaves_the_stop_text_in(server: Server) -> None:
    server.behave = lambda h, prompt, times: h.say(200, answer("Red Lamp###")) or True
    assert OpenAILLM("m", url=server.url, extra={"stop": ["###"]}).generate(["a"]) == ["Red Lamp"]


@pytest.mark.parametrize("extra", [{"n": 2}, {"stream": True}, {"model": "x"}, {"messages": []}, {"stop": 3}])
def test_fields_that_cannot_be_set_are_refused(extra: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"infer.options.extra.{next(iter(extra))}"):
        OpenAILLM("m", extra=extra)


def test_of_two_lengths_one_is_sent() -> None:
    assert "max_tokens" not in OpenAILLM("m", extra={"max_completion_tokens": 9}).request("a")
    both = OpenAILLM("m", extra={"max_completion_tokens": 9, "max_tokens": 5}).request("a")
    assert (both["max_tokens"], both["max_completion_tokens"]) == (5, 9)


BROKEN = {
    "plain text": (500, b"Internal Server Error: no model 'm'", "status 500.*no model 'm'"),
    "page": (502, b"<html><style>b{}</style><h1>Bad gateway</h1></html>", r"status 502 \(Bad gateway\)"),
    "json": (500, {"detail": "no such model"}, "status 500.*no such model"),
    "other": (418, {"error": {"message": "teapot"}}, "teapot"),
    "no json": (200, b"<html>a proxy's page</html>", "a proxy's page"),
    "nothing": (200, b"", "no JSON, but: nothing"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_server_on_which_nothing_works_ends_soon(server: Server, name: str) -> None:
    status, body, match = BROKEN[name]
    server.behave = lambda h, prompt, times: h.say(status, body) or True
    began = time.monotonic()
    with pytest.raises(ModelUnavailableError, match=match) as caught:
        OpenAILLM("m", url=server.url).generate(MANY)
    assert "\n" not in str(caught.value)
    assert len(server.seen) <= 16
    assert time.monotonic() - began < 10


def test_a_server_that_lists_other_models_is_asked_once(server: Server) -> None:
    server.models = ["qwen", "llama"]
    server.behave = lambda h, prompt, times: h.say(500, b"no") or True
    with pytest.raises(ModelUnavailableError, match="the server lists qwen, llama: choose one"):
        OpenAILLM("m", url=server.url).generate(MANY)
    assert len(server.seen) <= 2
    server.behave = lambda h, prompt, times: False  # it knows the model by another name
    assert OpenAILLM("m", url=server.url).generate(MANY) == [f"You said {one}" for one in MANY]


@pytest.mark.slow
def test_a_server_that_is_busy_at_first_is_waited_for(server: Server) -> None:
    def busy(handler: Handler, prompt: str, times: int) -> bool:
        if times > 3:
            return False
        handler.say(503, {"error": {"message": "loading"}}, Retry_After="0")
        return True

    server.behave = busy
    assert OpenAILLM("m", url=server.url).generate(MANY) == [f"You said {one}" for one in MANY]


def infer(place: Path, url: str, *more: str) -> list[str]:
    words = [
        "infer",
        str(place / "run"),
        "--dataset",
        "csv",
        "--data",
        str(place / "log"),
        "--llm",
        "openai:m",
    ]
    words += ["--set", f"infer.options.url={url}", "--set", f"infer.cache={place / 'answers.sqlite'}"]
    return [*words, "--set", "infer.options.retries=0", *more]


def test_nothing_answered_ends_the_stage_and_force_asks_again(
    server: Server, tmp_path: Path, capsys: Output
) -> None:
    toy_log(tmp_path / "log", sessions=30)
    first = "--llm-budget=2"  # too few prompts to tell from the first ones
    server.behave = lambda h, prompt, times: h.say(200, reply(content=None)) or True
    assert _guarded(infer(tmp_path, server.url, first)) == 2
    assert "none of 2 prompts got an answer: it said nothing" in capsys.readouterr().err
    some = {"failing": True}
    server.behave = lambda h, prompt, times: (
        some["failing"] and len(prompt) % 2 == 0 and (h.say(200, reply(content=None)) or True)
    )
    assert _guarded(infer(tmp_path, server.url)) == 0
    told = capsys.readouterr().err
    assert "prompts got no answer (it said nothing); run infer again with --force" in told
    with AnswerCache.open(tmp_path / "answers.sqlite") as cache:
        before = len(cache)
        assert all(row[1].text for row in cache.rows())
    asked, some["failing"] = len(server.seen), False
    assert _guarded(infer(tmp_path, server.url, "--force")) == 0
    with AnswerCache.open(tmp_path / "answers.sqlite") as cache:
        assert len(cache) - before == len(server.seen) - asked > 0


def test_a_killed_run_has_every_answer_that_came(server: Server, tmp_path: Path) -> None:
    def hang(handler: Handler, prompt: str, times: int) -> bool:
        if len(server.seen) > 21:
            time.sleep(60)
        return False

    server.behave = hang
    toy_log(tmp_path / "log")
    command = infer(tmp_path, server.url, "--set", "infer.options.concurrency=4")
    child = subprocess.Popen([sys.executable, "-m", "llm4sbr", *command], env=os.environ)
    try:
        deadline = time.monotonic() + 90
        while len(server.seen) < 25 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    with AnswerCache.open(tmp_path / "answers.sqlite") as cache:
        assert len(cache) == 21


def test_batches_likewise(tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_log(tmp_path / "log", sessions=30)
    assert (
        _guarded(["prepare", str(tmp_path / "run"), "--dataset", "csv", "--data", str(tmp_path / "log")]) == 0
    )
    cache = tmp_path / "answers.sqlite"
    chosen = ["infer.llm=openai:m", f"infer.cache={cache}"]
    assert _guarded(["config", str(tmp_path / "run"), *(w for one in chosen for w in ("--set", one))]) == 0
    requests, results = tmp_path / "requests.jsonl", tmp_path / "results.jsonl"

    def call(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["llm4sbr-openai", *map(str, words)])
        try:
            batch.main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    assert call("requests", tmp_path / "run", requests) == 0
    ids = [json.loads(line)["custom_id"] for line in requests.read_text().splitlines()]

    def write(bodies: list[object]) -> None:
        lines = [
            {"custom_id": id, "response": {"status_code": 200, "body": body}}
            for id, body in zip(ids, bodies, strict=False)
        ]
        results.write_text("".join(json.dumps(line) + "\n" for line in lines))

    write([body for body, _ in NOTHING.values()])
    capsys.readouterr()
    assert call("answers", tmp_path / "run", results) == 2
    assert f"{len(NOTHING)} results and no answer" in capsys.readouterr().err
    write([answer("Red Lamp"), reply(content=None, refusal="I cannot")])
    assert call("answers", tmp_path / "run", results) == 0
    assert "1 new answers, 1 failed (the model refused: I cannot)" in capsys.readouterr().out
    with AnswerCache.open(cache) as kept:
        assert [row[1].text for row in kept.rows()] == ["Red Lamp"]


def test_unanswered_keeps_its_reason_short(server: Server) -> None:
    server.behave = lambda h, prompt, times: h.say(500, b"x" * 100_000) or True
    with pytest.raises(UnansweredError) as caught:
        OpenAILLM("m", url=server.url, retries=0).generate(["a"])
    assert len(str(caught.value)) < 400
