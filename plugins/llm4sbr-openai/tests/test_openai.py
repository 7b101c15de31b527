"""Against a real local HTTP server that misbehaves on purpose."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from bad_server import SECRET, Handler, Server, answer
from llm4sbr_openai import OpenAILLM

from llm4sbr.asking.asker import Asker, Budget
from llm4sbr.asking.cache import AnswerCache
from llm4sbr.errors import ConfigError, ModelUnavailableError, UnansweredError
from llm4sbr.testing.llms import LLMContract


class Moved(OpenAILLM):
    """A server that is reached again, at another port: to the cache it is the one from before."""

    def __init__(self, fingerprint: str, url: str) -> None:
        super().__init__("m", url=url, retries=0)
        self._before = fingerprint

    @property
    def fingerprint(self) -> str:
        return self._before


class TestOpenAI(LLMContract):
    @pytest.fixture(autouse=True)
    def _create(self, server: Server) -> None:
        self.create = lambda: OpenAILLM("m", url=server.url)


def test_answers_keep_their_order_and_requests_are_bounded(server, llm):
    def slow(handler: Handler, prompt: str, times: int) -> bool:
        time.sleep(0.02 * (int(prompt) % 3))
        return False

    server.behave = slow
    prompts = [str(i) for i in range(40)]
    assert llm.generate(prompts) == [f"You said {p}" for p in prompts]
    assert 2 <= server.most <= 4
    assert llm.count_tokens(["3", "You said 3", "other"]) == [5, 3, 0]


def test_the_key_is_sent_and_stands_nowhere_else(server, llm):
    llm.generate(["a"])
    assert server.keys == {f"Bearer {SECRET}"}
    assert SECRET not in llm.fingerprint
    server.behave = lambda handler, prompt, times: handler.say(401, {"error": {"message": "bad key"}}) or True
    with pytest.raises(ModelUnavailableError, match=r"status 401.*OPENAI_API_KEY") as caught:
        llm.generate(["a"])
    assert SECRET not in str(caught.value)


def test_retry_after_is_obeyed(server, llm):
    began = time.monotonic()

    def limited(handler: Handler, prompt: str, times: int) -> bool:
        if times > 1:
            return False
        handler.say(429, {"error": {"message": "slow down"}}, Retry_After="1")
        return True

    server.behave = limited
    assert llm.generate(["a"]) == ["You said a"]
    assert time.monotonic() - began >= 1.0
    assert server.seen == ["a", "a"]


def broken(kind: str) -> Callable[[Handler, str, int], bool]:
    def behave(handler: Handler, prompt: str, times: int) -> bool:
        if prompt != "bad":
            return False
        if kind == "error":
            handler.say(503, {"error": {"message": "overloaded"}})
        elif kind == "half":
            handler.send_response(200)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", "500")
            handler.end_headers()
            handler.wfile.write(b'{"id": "1", "choi')
            handler.close_connection = True
        elif kind == "not json":
            handler.say(200, b"{wrong")
        elif kind == "other json":
            handler.say(200, {"choices": []})
        elif kind == "no text":
            handler.say(200, answer({"a": "table"}))
        elif kind == "html":
            handler.say(200, b"<html>a proxy's page</html>")
        elif kind == "hang":
            time.sleep(1.0)
            handler.close_connection = True
        elif kind == "reset":
            handler.connection.close()
        return True

    return behave


@pytest.mark.parametrize(
    "kind", ["error", "half", "not json", "other json", "no text", "html", "hang", "reset"]
)
def test_one_bad_prompt_loses_none_of_the_others(server, tmp_path, kind):
    llm = OpenAILLM("m", url=server.url, concurrency=4, retries=0, timeout=0.5)
    server.behave = broken(kind)
    with pytest.raises(UnansweredError) as caught:
        llm.generate(["a", "bad", "b"])
    assert caught.value.answers == ["You said a", None, "You said b"]
    assert "\n" not in str(caught.value)
    with AnswerCache.open(tmp_path / "answers.sqlite") as cache:
        asker = Asker(llm, cache, budget=Budget())
        asker.ask([0, 1, 2], lambda sample: [["x", "bad", "y"][sample]])
        assert len(cache) == asker.asked == 2
        assert list(asker.failed.values()) == ["bad"]
        assert asker.reason
        server.behave = lambda handler, prompt, times: False
        again = Asker(llm, cache, budget=Budget())
        again.ask([0, 1, 2], lambda sample: [["x", "bad", "y"][sample]])
        assert again.asked == 1
        assert len(cache) == 3


def test_what_fails_is_asked_again_at_the_end(server, tmp_path):
    llm = OpenAILLM("m", url=server.url, retries=0)

    def moody(handler: Handler, prompt: str, times: int) -> bool:
        if prompt == "7" and times == 1:
            handler.say(500, {})
            return True
        return False

    server.behave = moody
    with AnswerCache.open(tmp_path / "answers.sqlite") as cache:
        asker = Asker(llm, cache, budget=Budget())
        asker.ask(range(20), lambda sample: [str(sample)])
        assert len(cache) == asker.asked == 20
        assert not asker.failed
        assert server.seen.count("7") == 2


def test_a_lost_network_costs_no_answer_that_came(server, tmp_path):
    llm = OpenAILLM("m", url=server.url, concurrency=1, retries=0, timeout=1.0)  # batches of eight

    def cut(handler: Handler, prompt: str, times: int) -> bool:
        if len(server.seen) > 20:
            server.socket.close()  # from here on nobody listens
            handler.connection.close()
            return True
        return False

    server.behave = cut
    with AnswerCache.open(tmp_path / "answers.sqlite") as cache:
        with pytest.raises(ModelUnavailableError, match=r"answers so far are kept"):
            Asker(llm, cache, budget=Budget()).ask(range(60), lambda sample: [str(sample)])
        kept = len(cache)
        assert kept == 20
    back = Server()
    thread = threading.Thread(target=back.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    with AnswerCache.open(tmp_path / "answers.sqlite") as cache:
        asker = Asker(Moved(llm.fingerprint, back.url), cache, budget=Budget())
        asker.ask(range(60), lambda sample: [str(sample)])
        assert len(cache) == 60
    back.shutdown()
    back.server_close()
    thread.join()
    assert sorted(map(int, back.seen)) == sorted(set(range(60)) - {int(one) for one in server.seen[:20]})


def test_answers_beside_a_refusal_are_kept(server, llm):
    def refuse(handler: Handler, prompt: str, times: int) -> bool:
        if prompt != "b":
            return False
        handler.say(401, {"error": {"message": "revoked"}})
        return True

    server.behave = refuse
    with pytest.raises(UnansweredError, match="401") as caught:
        llm.generate(["a", "b", "c"])
    assert caught.value.answers == ["You said a", None, "You said c"]


def test_a_server_that_is_not_there_is_one_line(monkeypatch):
    llm = OpenAILLM("m", url="http://127.0.0.1:9/v1", retries=0)
    with pytest.raises(ModelUnavailableError, match=r"connection failed.*server is running") as caught:
        llm.generate(["a", "b"])
    assert "\n" not in str(caught.value)


def test_an_unknown_model_is_one_line(server, llm):
    server.behave = lambda h, prompt, times: h.say(404, {"error": {"message": "no model m"}}) or True
    with pytest.raises(ModelUnavailableError, match=r"status 404 \(no model m\); check infer.options.model"):
        llm.generate(["a"])


@pytest.mark.parametrize(
    "options",
    [
        {"url": "http://u:pw@host/v1"},
        {"url": "ftp://host"},
        {"url": "https://h/v1?key=x"},
        {"concurrency": 0},
        {"price": [0.15]},
        {"price": "cheap"},
        {"price": [0.15, float("nan")]},
        {"extra": "none"},
    ],
)
def test_wrong_options(options):
    with pytest.raises(ConfigError) as caught:
        OpenAILLM("m", **options)
    assert "pw" not in str(caught.value)


def test_extra_fields_replace_and_remove():
    llm = OpenAILLM("m", extra={"max_tokens": None, "temperature": "", "max_completion_tokens": 9, "seed": 3})
    body = llm.request("hi")
    assert not {"max_tokens", "temperature"} & body.keys()
    assert (body["max_completion_tokens"], body["seed"]) == (9, 3)
    assert llm.fingerprint != OpenAILLM("m").fingerprint
