from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llm4sbr import doctor, registry
from llm4sbr.doctor import Diagnosis, Finding, check_plugins, diagnose

Install = Callable[..., Path]

GOOD = "class Good: pass\n"


def about(diagnosis: Diagnosis, subject: str) -> list[Finding]:
    return [finding for finding in diagnosis.findings if finding.subject == subject]


def chosen(*names: str) -> list[registry.Component]:
    return [registry.find("llms", name) for name in names]


@pytest.mark.slow
def test_plugins_that_raise_print_crash_or_hang_break_nothing_else(install: Install, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    hang = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # holds the pipes open
open({str(pid)!r}, "w").write(str(child.pid))
time.sleep(600)
"""
    sources = {
        "good": GOOD,
        "chatty": "print('[1.0, \"not the result\"]', flush=True)\n" + GOOD,
        "raising": "raise ValueError('on purpose')",
        "poor": "import absent_module",
        "crashing": "import os; os.abort()",
        "exiting": "import os; os._exit(0)",
        "threaded": "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\n"
        + GOOD,
        "hanging": hang,
    }
    for name, source in sources.items():
        module = f"doctor_{name}"
        install(f"sbr-{name}", {"llms": {name: f"{module}:Good"}}, version="3.2", **{module: source})
    started = time.monotonic()
    found = check_plugins(chosen(*sources), timeout=5)
    assert time.monotonic() - started < 30

    assert [finding.subject for finding in found.findings] == [f"llms/{name}" for name in sources]
    told = dict(zip(sources, found.findings, strict=True))
    assert {name for name, finding in told.items() if finding.level == "ok"} == {"good", "chatty", "threaded"}
    assert told["good"].what.startswith("sbr-good 3.2, doctor_good:Good, ")
    assert told["good"].facts["package"] == "sbr-good"
    assert 0 <= told["good"].facts["seconds"] < 5
    assert told["raising"].what.endswith("cannot be imported: ValueError: on purpose")
    assert "pip uninstall sbr-raising" in told["raising"].mend
    assert "or install the package that has absent_module" in told["poor"].what
    assert told["crashing"].what.endswith("cannot be imported: its process ended with code -6")
    assert told["exiting"].what.endswith("cannot be imported: its process ended with code 0")
    assert told["hanging"].what.endswith("cannot be imported: not done after 5 s")
    assert not found.healthy
    assert json.loads(json.dumps(found.as_dict()))["findings"][0]["facts"]["origin"] == "doctor_good:Good"
    with pytest.raises(ProcessLookupError):  # what the hanging plugin started was ended with it
        _wait_until_gone(int(pid.read_text()))


def _wait_until_gone(pid: int) -> None:
    for _ in range(100):
        os.kill(pid, 0)
        if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
            raise ProcessLookupError
        time.sleep(0.05)


def test_components_of_one_module_are_told_apart(install: Install) -> None:
    install("sbr-two", {"llms": {"has": "doctor_two:Good", "lacks": "doctor_two:Bad"}}, doctor_two=GOOD)
    good, bad = check_plugins(chosen("has", "lacks")).findings
    assert good.level == "ok"
    assert bad.level == "error"
    assert "AttributeError" in bad.what


def test_diagnosis_covers_the_machine_the_packages_and_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LLM4SBR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LLM4SBR_PLUGINS", "")
    (tmp_path / "cache" / "sub").mkdir(parents=True)
    (tmp_path / "cache" / "sub" / "file").write_bytes(bytes(25_000_000))
    found = diagnose()
    assert found.healthy
    assert [finding.subject for finding in found.findings][:2] == ["machine", "torch"]
    assert "polars" in about(found, "packages")[0].what
    assert about(found, "cache")[0].what.startswith(f"{tmp_path / 'cache'}, 0.03 GB used, ")
    assert "backbones 1" in about(found, "components")[0].what


def test_diagnosis_loads_plugins_of_other_packages_and_names_clashes(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM4SBR_PLUGINS", "sbr-one,sbr-bad")
    install("sbr-one", {"llms": {"twin": "doctor_three:Good"}}, doctor_three=GOOD)
    install("sbr-bad", {"llms": {"twin": "doctor_four:Good"}}, doctor_four="1 / 0")
    clash, *loaded = about(diagnose(), "llms/twin")
    assert (clash.level, clash.mend) == ("warn", "ask for sbr-bad:twin or sbr-one:twin")
    assert sorted(finding.level for finding in loaded) == ["error", "ok"]


def test_both_onnxruntimes_are_an_error(install: Install) -> None:
    there = doctor._installed("onnxruntime")
    if not there:
        assert [finding.what for finding in doctor._onnxruntime()] == ["not installed"]
        install("onnxruntime", {}, version="1.30")
        there = ["onnxruntime 1.30"]
    assert [finding.what for finding in doctor._onnxruntime()] == there
    install("onnxruntime-gpu", {}, version="1.32")
    (found,) = doctor._onnxruntime()
    assert found.level == "error"
    assert f"{there[0]} and onnxruntime-gpu 1.32 overwrite each other" in found.what
    assert found.mend.startswith("pip uninstall onnxruntime onnxruntime-gpu")


def test_tensorrt_is_named_if_it_is_there(install: Install) -> None:
    install("tensorrt-rtx-cu12", {}, version="1.7")
    assert "tensorrt-rtx-cu12 1.7" in next(doctor._tensorrt()).what


def test_a_package_that_is_too_old_is_an_error_with_the_command(install: Install) -> None:
    install("polars", {}, version="0.1")
    found = [finding for finding in doctor._dependencies() if finding.level == "error"]
    assert [finding.what for finding in found] == ["polars 0.1 does not suit"]
    assert found[0].mend.startswith('pip install "polars>=')


def test_a_cache_that_cannot_be_a_folder_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLM4SBR_CACHE", str(tmp_path / "file"))
    (found,) = doctor._cache()
    assert (found.level, found.mend) == ("error", "set LLM4SBR_CACHE to a folder elsewhere")


def test_little_disk_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLM4SBR_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor, "LITTLE_DISK", 2**62)
    (found,) = doctor._cache()
    assert (found.level, found.mend.partition(",")[0]) == ("warn", "free some space")
