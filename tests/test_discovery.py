"""Many plugins, and bad ones, as the command line meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from llm4sbr import doctor, registry
from llm4sbr.cli import cli
from llm4sbr.protocols import PLUGIN_API
from llm4sbr.system import installation
from llm4sbr.testing.toy import toy_log

Install = Callable[..., Path]

MANY = 50

WITNESS = """
import pathlib
pathlib.Path(__file__).with_suffix(".imported").touch()
class Found: pass
"""

CHATTY = """
print("hello from a plugin")
from llm4sbr.data.readers.tables import Csv as Chatty
"""


def command(*arguments: str) -> str:
    """What a new `llm4sbr` prints."""
    whole = [sys.executable, "-m", "llm4sbr", *arguments]
    return subprocess.run(whole, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture
def fifty(install: Install) -> Path:
    """As many packages, with a component of a kind each, whose modules leave a mark when imported."""
    for number in range(MANY):
        kind = registry.KINDS[number % len(registry.KINDS)]
        module = f"witness_{number}"
        site = install(
            f"sbr-{number:02}", {kind: {f"many-{number:02}": f"{module}:Found"}}, **{module: WITNESS}
        )
    return site


def test_help_and_list_with_fifty_plugins_import_none(fifty: Path, record_property) -> None:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        assert "plugins" in command("--help")
        times.append(time.perf_counter() - started)
    record_property("help_seconds", min(times))
    sys.stderr.write(f"llm4sbr --help with {MANY} plugins: {min(times):.2f} s\n")
    listed = json.loads(command("plugins", "list", "--json"))
    assert len([one for one in listed if one["package"].startswith("sbr-")]) == MANY
    assert list(fifty.glob("*.imported")) == []


def test_help_reads_no_entry_points_at_all() -> None:
    code = "import sys, llm4sbr.cli; sys.exit('importlib.metadata' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_plugins_that_raise_hang_and_print_do_not_disturb_a_command(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader each, installed beside ours; ours is used, and standard output has the result only."""
    install("sbr-raising", {"readers": {"raising": "disturb_raising:Any"}}, disturb_raising="1 / 0")
    install(
        "sbr-hanging",
        {"readers": {"hanging": "disturb_hanging:Any"}},
        disturb_hanging="import time\ntime.sleep(600)",
    )
    install("sbr-chatty", {"readers": {"chatty": "disturb_chatty:Chatty"}}, disturb_chatty=CHATTY)
    log = toy_log(tmp_path / "log")
    prepare = ["prepare", str(tmp_path / "run"), "--data", str(log), "--json", "-q", "--dataset"]
    assert json.loads(command(*prepare, "csv"))["sessions"] == 60
    prepare[1] = str(tmp_path / "chatty")
    assert json.loads(command(*prepare, "chatty"))["sessions"] == 60, "printing at import is no result"
    prepare[1] = str(tmp_path / "raising")
    refused = subprocess.run(
        [sys.executable, "-m", "llm4sbr", *prepare, "raising"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [
        "error: reader 'raising' of package sbr-raising 1.0 cannot be imported: "
        "ZeroDivisionError: division by zero"
    ]


def said(*arguments: str) -> str:
    """The one line that a refused command ends with."""
    from llm4sbr.cli import _guarded

    runner = CliRunner()
    with runner.isolation() as (_, error, *_):
        code = _guarded(list(arguments))
        text = error.getvalue().decode()
    assert code == 2, text
    assert len(text.strip().splitlines()) == 1, text
    return text


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("sr-gn", "no backbone 'sr-gn' is installed, did you mean 'sr-gnn'? Installed: "),
        ("twin", "backbone 'twin' is offered by several packages: ask for sbr-one:twin or sbr-two:twin"),
        ("old", f"was written for version {PLUGIN_API + 1} of the plugin protocols, this llm4sbr has"),
    ],
    ids=["misspelt", "conflict", "another-version"],
)
def test_what_cannot_be_used_is_one_line(backbone, message, install, tmp_path):
    later = f"class Old:\n    plugin_api = {PLUGIN_API + 1}\n"
    install("sbr-one", {"backbones": {"twin": "discovery_one:Found"}}, discovery_one=WITNESS)
    install("sbr-two", {"backbones": {"twin": "discovery_two:Found"}}, discovery_two=WITNESS)
    install("sbr-old", {"backbones": {"old": "discovery_old:Old"}}, discovery_old=later)
    run = ["run", str(tmp_path / "run"), "--dataset", "csv", "--data", str(toy_log(tmp_path / "log"))]
    assert message in said(*run, "--backbone", backbone, "-q", "--llm", "none")


def test_the_allow_list_holds_for_commands(install, monkeypatch):
    install("sbr-one", {"backbones": {"one": "discovery_three:Found"}}, discovery_three=WITNESS)
    install("sbr-two", {"backbones": {"two": "discovery_four:Found"}}, discovery_four=WITNESS)
    monkeypatch.setenv("LLM4SBR_PLUGINS", "sbr-two")
    listed = json.loads(CliRunner().invoke(cli, ["plugins", "list", "backbones", "--json"]).stdout)
    assert {one["package"] for one in listed} == {"llm4sbr", "sbr-two"}


NEEDS = """Metadata-Version: 2.1
Name: sbr-needy
Version: 1.0
Provides-Extra: fast
Provides-Extra: plain
Requires-Dist: click>=999
Requires-Dist: absent-thing>=2
Requires-Dist: absent-wheel>=3; extra == 'fast'
Requires-Dist: click>=1; extra == 'plain'
"""


def test_the_doctor_of_plugins_says_what_is_missing_and_what_the_machine_has(install, monkeypatch):
    module = f"class Good:\n    plugin_api = {PLUGIN_API}\n    lacks = {{'repeatable': 'it samples'}}\n"
    module += f"class Late:\n    plugin_api = {PLUGIN_API + 1}\n"
    entries = {"llms": {"good": "discovery_needy:Good", "late": "discovery_needy:Late"}}
    site = install("sbr-needy", entries, discovery_needy=module)
    (site / "sbr_needy-1.0.dist-info" / "METADATA").write_text(NEEDS)
    own = [c for c in registry.components("llms") if c.package == "sbr-needy"]
    monkeypatch.setattr(registry, "components", lambda kind=None: own)
    answer = CliRunner().invoke(cli, ["plugins", "doctor", "--json"])
    assert answer.exit_code == 2, "one does not load"
    found = {}
    for finding in json.loads(answer.stdout)["findings"]:
        found.setdefault(finding["subject"], []).append(finding)
    assert {"torch", "onnxruntime", "tensorrt"} <= found.keys()
    lacking = {finding["what"]: finding["mend"] for finding in found["sbr-needy"]}
    assert lacking["absent-thing is not installed, which it needs"] == 'pip install "absent-thing>=2"'
    assert any(what.startswith("click ") and "does not suit" in what for what in lacking)
    (extras,) = found["sbr-needy extras"]
    assert extras["what"] == "plain complete; incomplete: fast (absent-wheel is not installed)"
    assert extras["mend"].startswith("pip install 'sbr-needy[EXTRA]'")
    (good,), (late,) = found["llms/good"], found["llms/late"]
    assert good["what"].startswith(
        f"sbr-needy 1.0, discovery_needy:Good, API {PLUGIN_API}, lacks repeatable, "
    )
    assert good["facts"]["plugin_api"] == PLUGIN_API
    assert good["facts"]["seconds"] >= 0
    assert late["level"] == "error"
    assert f"written for version {PLUGIN_API + 1} of the plugin protocols" in late["what"]


def test_extras_of_ours_are_those_of_the_metadata():
    (found,) = doctor._extras(["llm4sbr"])
    assert {"onnx", "serve", "gguf"} <= found.facts.keys()
    assert installation.needed("llm4sbr", "onnx")
    assert not os.environ.get("LLM4SBR_PLUGINS")
