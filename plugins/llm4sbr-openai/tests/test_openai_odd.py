"""What real servers do beside the format: thoughts, parts, odd counts, errors that no retry mends."""

from __future__ import annotations

import time

import pytest
from bad_server import SECRET, Handler, answer
from llm4sbr_openai import OpenAILLM

from llm4sbr.asking.asker import Asker, Budget
from llm4sbr.asking.cache import AnswerCache
from llm4sbr.errors import ModelUnavailableError, UnansweredError

PARTS = [
    {"type": "thinking", "thinking": "Hm."},
    {"type": "text", "text": "The "},
    {"type": "text", "text": "Ring"},
]


def test_an_answer_in_parts_is_one_text(server, llm):
    server.behave = lambda handler, prompt, times: handler.say(200, answer(PARTS)) or True
    assert llm.generate(["a"]) == ["The Ring"]


@pytest.mark.parametrize(
    "body",
    [
        answer("b") | {"usage": ["many"]},
        answer("b") | {"usage": {"prompt_tokens": "5", "completion_tokens": 10**30}},
        answer("b") | {"usage": {"prompt_tokens": float("nan"), "completion_tokens": 2.5}},
        b"[" * 100_000,
        {"choices": {"0": 1}},
    ],
)
def test_whatever_a_server_sends_loses_no_other_answer(server, tmp_path, body):
    llm = OpenAILLM("m", url=server.url, retries=0)
    server.behave = lambda h, prompt, times: h.say(200, answer("a") if prompt == "0" else body) or True
    with AnswerCache.open(tmp_path / "answers.sqlite") as cache:
        Asker(llm, cache, budget=Budget()).ask(range(2), lambda sample: [str(sample)])
        texts = {row[1].text for row in cache.rows()}
        assert "a" in texts
        assert texts <= {"a", "b"}


def cut_off(**message: object) -> dict[str, object]:
    found = answer(None)
    found["choices"] = [{"index": 0, "message": message, "finish_reason": "length"}]
    return found


THINKING = [
    {"content": None, "reasoning_content": "The user likes"},
    {"content": ""},
    {"content": "<think>\nThe user likes"},
]


@pytest.mark.parametrize("message", THINKING)
def test_a_thought_is_no_answer(server, llm, message):
    server.behave = lambda h, prompt, times: prompt == "0" and (h.say(200, cut_off(**message)) or True)
    prompts = [str(number) for number in range(10)]
    with pytest.raises(UnansweredError, match="used up before it said anything") as caught:
        llm.generate(prompts)
    assert caught.value.answers == [None, *(f"You said {prompt}" for prompt in prompts[1:])]
    with pytest.raises(UnansweredError):  # as it is asked again, alone: no reason to stop
        llm.generate(["0"])


@pytest.mark.parametrize("message", THINKING)
def test_a_model_that_only_thinks_is_one_line_before_the_money_is_spent(server, llm, message):
    server.behave = lambda h, prompt, times: h.say(200, cut_off(**message)) or True
    with pytest.raises(ModelUnavailableError, match=r"raise infer.options.max_new_tokens"):
        llm.generate([str(number) for number in range(10)])
    server.behave = lambda h, prompt, times: h.say(200, answer("<think>x</think>The Ring")) or True
    assert llm.generate(["a"]) == ["<think>x</think>The Ring"]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_an_answer_that_the_server_takes_for_reasoning_is_none(server, llm, field):
    found = answer(None)
    found["choices"] = [
        {"index": 0, "message": {"content": None, field: "Blue Lamp"}, "finish_reason": "stop"}
    ]
    server.behave = lambda h, prompt, times: h.say(200, found) or True
    with pytest.raises(ModelUnavailableError, match=r"came as reasoning.* without its reasoning parser"):
        llm.generate([str(number) for number in range(10)])
    with pytest.raises(UnansweredError):
        llm.generate(["0"])
    server.behave = lambda h, prompt, times: h.say(200, answer("The Ring")) or True
    assert llm.generate(["0"]) == ["The Ring"]


REFUSALS = [
    (
        400,
        {"message": "Unsupported parameter: 'max_tokens' is not supported with this model."},
        r"max_tokens",
    ),
    (402, {"message": "Insufficient Balance"}, "402"),
    (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}, "quota"),
]


@pytest.mark.parametrize(("status", "error", "match"), REFUSALS)
def test_what_every_prompt_would_meet_stops_at_once(server, status, error, match):
    llm = OpenAILLM("m", url=server.url, retries=0)
    server.behave = lambda h, prompt, times: h.say(status, {"error": error}) or True
    with pytest.raises(ModelUnavailableError, match=match):
        llm.generate([str(number) for number in range(10)])


def test_a_context_too_short_for_all_of_a_batch_stops_nothing(server, llm):
    text = "This model's maximum context length is 9 tokens: reduce max_tokens or your messages"
    server.behave = lambda h, prompt, times: h.say(400, {"error": {"message": text}}) or True
    with pytest.raises(UnansweredError, match="status 400"):
        llm.generate([str(number) for number in range(10)])


def test_a_key_that_the_server_repeats_is_not_shown(server, llm):
    said = {"error": {"message": f"key {SECRET} is not known here"}}
    for status, kind in [(401, ModelUnavailableError), (500, UnansweredError)]:
        server.behave = lambda h, prompt, times, status=status: h.say(status, said) or True
        with pytest.raises(kind, match="is not known here") as caught:
            llm.generate(["a"])
        assert SECRET not in str(caught.value)


def test_an_answer_that_never_ends_is_given_up(server, monkeypatch):
    monkeypatch.setattr("llm4sbr_openai.LONGEST_PAUSE", 0.0)
    llm = OpenAILLM("m", url=server.url, retries=0, timeout=0.5)

    def drip(handler: Handler, prompt: str, times: int) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(40):
            handler.wfile.write(b" ")
            time.sleep(0.1)
        handler.close_connection = True
        return True

    server.behave = drip
    began = time.monotonic()
    with pytest.raises(UnansweredError, match="no answer in time"):
        llm.generate(["a"])
    assert time.monotonic() - began < 3
