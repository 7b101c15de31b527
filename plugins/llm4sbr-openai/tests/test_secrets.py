"""A key is planted in every place where one may be given, and looked for in every file and output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bad_server import Server
from llm4sbr_openai import OpenAILLM, batch

from llm4sbr.cli import _guarded
from llm4sbr.errors import ConfigError, Llm4sbrError
from llm4sbr.secrets import mask, refuse
from llm4sbr.testing.toy import toy_log

PLANTED = "sk-planted-0123456789abcdefghij"
PLAIN = "planted9876543210"
"""Looks like nothing; it is known by where it stands, or as the value of a variable."""

Output = pytest.CaptureFixture[str]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM4SBR_CACHE", str(tmp_path / "cache"))
    toy_log(tmp_path / "log")
    return tmp_path


def found_in(place: Path, capsys: Output, *keys: str) -> list[str]:
    """Where one of the keys stands: files, and what was printed."""
    printed = capsys.readouterr()
    texts = {"output": (printed.out + printed.err).encode()}
    texts |= {str(path): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    names = [str(path) for path in place.rglob("*")]
    return [name for name, text in texts.items() if any(key.encode() in text for key in keys)] + [
        name for name in names if any(key in name for key in keys)
    ]


GIVEN = [
    "infer.options.url=http://{key}@127.0.0.1:9/v1",
    "infer.options.url=http://user:{key}@127.0.0.1:9/v1",
    "infer.options.url=http://127.0.0.1:9/v1?key={key}",
    "infer.options.url=http://127.0.0.1:9/v1#{key}",
    "infer.options.url={key}@127.0.0.1:9/v1",
    "infer.options.url=http://[{key}@",
    'infer.options.extra={{api_key="{key}"}}',
    'infer.options.extra={{extra_headers={{Authorization="Bearer {key}"}}}}',
    'infer.options.extra={{a=[{{token="{key}"}}]}}',
    'infer.options.password="{key}"',
    "infer.options.key_env={key}",
]
LOOKING = [  # known by its looks alone
    "infer.options.key_env={key}",
    "infer.options.model={key}",
    "infer.options.url=http://127.0.0.1:9/{key}/v1",
    'infer.options.extra={{metadata={{a="{key}"}}}}',
    'infer.options.extra={{"{key}"=1}}',
    "infer.options={key}",
    "data.options.item={key}",
    "{key}",
]
COMMANDS = [
    ["config", "RUN", "--set", "GIVEN"],
    ["prepare", "RUN", "--set", "GIVEN"],
    ["infer", "RUN", "--llm", "openai:m", "--set", "GIVEN", "--dry-run"],
    ["run", "RUN", "--llm", "openai:m", "--set", "GIVEN"],
    ["experiment", "localization", "lab", "--dataset", "csv=log", "--llm", "openai:m", "--set", "GIVEN"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_no_key_reaches_a_file_or_an_output(place: Path, capsys: Output, command: list[str]) -> None:
    assert _guarded(["prepare", "run", "--dataset", "csv", "--data", "log"]) == 0
    places = [(given, key) for given in GIVEN for key in (PLANTED, PLAIN)]
    for given, key in [*places, *((given, PLANTED) for given in LOOKING)]:
        words = {"RUN": "run", "GIVEN": given.format(key=key)}
        assert _guarded([words.get(word, word) for word in command]) == 2, given
        assert not found_in(place, capsys, key), given


def test_the_value_of_a_variable_is_known_wherever_it_stands(
    place: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", PLAIN)
    for given in LOOKING[1:6]:
        words = ["run", "new", "--dataset", "csv", "--data", "log", "--set", given.format(key=PLAIN)]
        assert _guarded(words) == 2
        assert not found_in(place, capsys, PLAIN), given
    monkeypatch.setenv("OUR_MODEL", "in-a-variable-of-another-name")
    with pytest.raises(ConfigError, match=r"infer.options.extra.a: holds a key"):
        OpenAILLM("m", key_env="OUR_MODEL", extra={"a": "in-a-variable-of-another-name"})


def test_a_settings_file_with_a_key_is_refused(place: Path, capsys: Output) -> None:
    (place / "mine.toml").write_text(f'[infer.options]\nurl = "http://u:{PLAIN}@h/v1"\n')
    assert _guarded(["run", "new", "--config", "mine.toml", "--dataset", "csv", "--data", "log"]) == 2
    assert found_in(place, capsys, PLAIN) == [str(place / "mine.toml")]


def test_a_run_with_a_key_in_its_variable_has_it_nowhere(
    place: Path, server: Server, capsys: Output, monkeypatch: Any
) -> None:
    monkeypatch.setenv("OUR_MODEL", PLAIN)
    options = {"url": server.url, "key_env": "OUR_MODEL", "retries": 0}
    command = ["infer", "run", "--dataset", "csv", "--data", "log", "--llm", "openai:m"]
    command += [
        word for name, value in options.items() for word in ("--set", f"infer.options.{name}={value}")
    ]

    def repeats(handler: Any, prompt: str, times: int) -> bool:
        said = {"error": {"message": f"{'x' * (times + 280)}{PLAIN} is wrong"}}
        return len(server.seen) % 3 == 0 and (handler.say(500, said) or True)

    server.behave = repeats
    assert _guarded(command) == 0
    assert server.keys == {f"Bearer {PLAIN}"}
    assert _guarded(["answers", "export", "shared.jsonl"]) == 0
    assert _guarded(["report", "run"]) == 0
    with pytest.raises(SystemExit):
        batch.cli.main(["requests", "run", "batch.jsonl"])
    assert not found_in(place, capsys, PLAIN)


@pytest.mark.parametrize("before", range(270, 305, 5))
def test_a_key_is_masked_before_a_message_is_cut(
    server: Server, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", PLAIN)
    message = {"error": {"message": f"{'x' * before}{PLAIN}  {PLANTED}"}}
    server.behave = lambda handler, prompt, times: handler.say(401, message) or True
    with pytest.raises(Llm4sbrError) as caught:
        OpenAILLM("m", url=server.url, retries=0).generate(["a"])
    assert PLAIN[:5] not in str(caught.value)
    assert PLANTED[:6] not in str(caught.value)


def test_a_variable_that_is_not_set_is_said_without_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="there is none of this name") as caught:
        OpenAILLM("m", key_env=PLAIN)
    assert PLAIN not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {
            "infer": {
                "llm": "transformers:hf-internal-testing/tiny-random-gpt2",
                "options": {"url": "http://h:1/v1"},
            }
        },
        {"infer": {"options": {"extra": {"prompt_cache_key": "shop", "max_tokens": 5, "stop": ["token"]}}}},
        {
            "data": {
                "path": "/home/me@work/sk-electronics/skateboards_of_the_year_2020",
                "options": {"item": "key"},
            }
        },
        {"infer": {"options": {"key_env": "OPENAI_API_KEY", "model": "org/model@main"}}},
    ],
)
def test_what_is_no_key_is_taken(settings: dict[str, Any]) -> None:
    refuse(settings)
    assert mask(json.dumps(settings)) == json.dumps(settings)
