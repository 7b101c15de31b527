from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llm4sbr import registry
from llm4sbr.doctor import diagnose_plugins
from llm4sbr.errors import RegistryError

Install = Callable[..., Path]

ECHO = """
class Echo:
    suggests = {"infer.wording": "natural"}
    def __init__(self, model="none", *, loud=False):
        self.model, self.loud = model, loud
"""

STRICT = ECHO + "\ndef strict(model, **rest): return model\n"


def test_a_plugin_is_found_with_its_package_and_version(install: Install) -> None:
    install("sbr-echo", {"llms": {"echo": "echo_a:Echo"}}, version="2.5", echo_a=ECHO)
    found = registry.find("llms", "echo")
    assert (found.package, found.version, found.target) == ("sbr-echo", "2.5", "echo_a:Echo")
    assert found in registry.components("llms")
    assert registry.create("llms", "echo", loud=True).loud is True


def test_components_come_by_kind_and_name() -> None:
    found = registry.components()
    assert [(registry.KINDS.index(c.kind), c.name) for c in found] == sorted(
        (registry.KINDS.index(c.kind), c.name) for c in found
    )
    assert {c.kind for c in registry.components("fusers")} == {"fusers"}


def test_listing_imports_nothing(install: Install) -> None:
    install("sbr-bomb", {"llms": {"bomb": "bomb_a:Bomb"}}, bomb_a="raise SystemExit('imported')")
    code = """
import sys
from llm4sbr.registry import components, find
assert any(c.name == "bomb" for c in components())
find("backbones", "sr-gnn")
heavy = {"bomb_a", "torch", "transformers", "polars", "llm4sbr.backbones.sr_gnn"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name_lists_what_is_installed_and_the_nearest_spelling() -> None:
    with pytest.raises(RegistryError) as error:
        registry.find("backbones", "sr-gn")
    assert "no backbone 'sr-gn' is installed, did you mean 'sr-gnn'? Installed: " in str(error.value)


def test_nearest_spelling_looks_at_the_part_before_the_colon() -> None:
    with pytest.raises(RegistryError, match="did you mean 'transformers'"):
        registry.create("llms", "transfromers:some/very/long/folder/of/a/model")


def test_name_like_nothing_lists_what_is_installed() -> None:
    with pytest.raises(RegistryError, match=r"no fuser 'qqq' is installed\. Installed: .*gated"):
        registry.find("fusers", "qqq")


def test_kind_without_components_says_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_entries", lambda group: ())
    with pytest.raises(RegistryError, match=r"no engine 'rai' is installed\. Installed: none\."):
        registry.find("engines", "rai")


def test_known_package_that_offers_a_name_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.OFFERED, ("fusers", "elsewhere"), "llm4sbr-elsewhere")
    with pytest.raises(
        RegistryError, match=r"no fuser 'elsewhere' is installed: pip install .*llm4sbr-elsewhere"
    ):
        registry.find("fusers", "elsewhere")


def test_unknown_kind_lists_the_kinds() -> None:
    with pytest.raises(RegistryError, match="no kind 'llm'; kinds: readers, llms"):
        registry.components("llm")


def test_two_packages_with_one_name_are_refused_until_one_is_picked(install: Install) -> None:
    install("first-one", {"llms": {"twin": "twin_a:Echo"}}, twin_a=ECHO)
    install("second.one", {"llms": {"twin": "twin_b:Echo"}}, twin_b=ECHO)
    with pytest.raises(RegistryError, match=r"several packages: ask for first-one:twin or second\.one:twin"):
        registry.create("llms", "twin")
    assert type(registry.create("llms", "first-one:twin")).__module__ == "twin_a"
    assert type(registry.create("llms", "second_one:twin")).__module__ == "twin_b", "names are normalised"
    assert registry.create("llms", "first-one:twin").model == "none", "no argument was passed"


def test_name_with_an_argument_passes_the_model(install: Install) -> None:
    install("sbr-echo", {"llms": {"echo": "echo_b:Echo"}}, echo_b=ECHO)
    assert registry.create("llms", "echo:/a/folder:with colon").model == "/a/folder:with colon"
    assert registry.split_argument("llms", "echo:some/hub-id", {"loud": True}) == (
        "echo",
        {"loud": True, "model": "some/hub-id"},
    )
    assert registry.suggestions("llms", "echo:x") == {"infer.wording": "natural"}
    assert registry.versions([("llms", "echo:x")]) == {"llms/echo": "sbr-echo==1.0"}


def test_module_that_is_missing_is_named_with_the_pip_command(install: Install) -> None:
    install("sbr-poor", {"llms": {"poor": "poor_a:Poor"}}, poor_a="import absent_module.part")
    with pytest.raises(RegistryError) as error:
        registry.load("llms", "poor")
    message = str(error.value)
    assert "llm 'poor' of package sbr-poor 1.0 needs the module 'absent_module'" in message
    assert message.endswith(
        "pip install --force-reinstall sbr-poor, or install the package that has absent_module"
    )


def test_module_of_its_own_that_is_missing_asks_to_install_the_plugin_again(install: Install) -> None:
    install("sbr-gone", {"llms": {"gone": "gone_a:Gone"}})
    with pytest.raises(
        RegistryError, match=r"needs the module 'gone_a'.*pip install --force-reinstall sbr-gone$"
    ):
        registry.load("llms", "gone")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ValueError('first line\\nsecond line')", "ValueError: first line second line"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("1 +", "SyntaxError"),
        ("value = 1", "AttributeError"),
    ],
)
def test_broken_plugin_is_an_error_of_its_own_component_only(
    install: Install, source: str, reason: str, request: pytest.FixtureRequest
) -> None:
    module = f"broken_{request.node.callspec.indices['source']}"
    install("sbr-broken", {"llms": {"broken": f"{module}:Broken"}}, **{module: source})
    with pytest.raises(RegistryError) as error:
        registry.load("llms", "broken")
    assert f"llm 'broken' of package sbr-broken 1.0 cannot be imported: {reason}" in str(error.value)
    assert "\n" not in str(error.value)
    assert registry.find("llms", "transformers").package == "llm4sbr"


def test_allow_list_hides_other_packages_but_not_ours(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("Sbr_Echo", {"llms": {"echo": "echo_c:Echo"}}, echo_c=ECHO)
    install("sbr-other", {"llms": {"other": "other_c:Echo"}}, other_c=ECHO)
    monkeypatch.setenv("LLM4SBR_PLUGINS", " sbr-echo , ")
    assert registry.load("llms", "echo")
    assert registry.find("llms", "transformers")
    with pytest.raises(RegistryError, match="'other' is installed, but LLM4SBR_PLUGINS does not list"):
        registry.find("llms", "other")
    monkeypatch.setenv("LLM4SBR_PLUGINS", "")
    assert {c.package for c in registry.components()} == {"llm4sbr"}


def test_option_that_a_component_does_not_take_is_named(install: Install) -> None:
    install("sbr-echo", {"llms": {"echo": "echo_d:Echo", "strict": "echo_d:strict"}}, echo_d=STRICT)
    with pytest.raises(RegistryError, match="llm 'echo' has no option 'lod'; it takes: model, loud"):
        registry.create("llms", "echo", lod=True)
    with pytest.raises(RegistryError, match="llm 'strict' needs the option 'model'"):
        registry.create("llms", "strict")


@pytest.mark.parametrize(
    ("value", "fits"), [(3, True), (2.5, False), (True, False), ("3", False), (None, True)]
)
def test_options_of_a_wrong_type_are_named(install: Install, value: object, fits: bool) -> None:
    source = "from __future__ import annotations\nclass Deep:\n    def __init__(self, depth: int = 1): pass\n"
    install("sbr-deep", {"backbones": {"deep": "deep_a:Deep"}}, deep_a=source)
    if fits:
        registry.create("backbones", "deep", depth=value)
        return
    with pytest.raises(RegistryError, match=f"backbone 'deep': option depth = {value!r}: .*int"):
        registry.check("backbones", "deep", {"depth": value})


MUTE = "class Mute(Exception):\n    def __str__(self): raise ValueError\nraise Mute"
ODD = [
    ("odd_b:Echo:Echo", "", "must be MODULE:CLASS"),
    ("odd_c", "x = 1", "is a module, not a class: .* it is odd_c$"),
    ("odd_d:X", "X = 3", "is of type int, not a class"),
    ("odd_e:X", "class E(BaseException): pass\nraise E('stop')", "cannot be imported: E: stop"),
    ("odd_f:X", MUTE, "cannot be imported: Mute"),
    (
        "odd_g:X",
        "class X:\n    def __init__(self): raise ValueError('no\\nGPU')",
        "cannot be made: ValueError: no GPU",
    ),
]


@pytest.mark.parametrize(("target", "source", "message"), ODD)
def test_whatever_an_entry_point_brings_is_one_line_with_its_package(install, target, source, message):
    module = target.partition(":")[0]
    install("sbr-odd", {"llms": {"odd": target}}, **{module: source})
    with pytest.raises(RegistryError, match=rf"llm 'odd' of package sbr-odd 1.0 .*{message}") as caught:
        registry.create("llms", "odd")
    assert "\n" not in str(caught.value)


@pytest.mark.slow  # every plugin is diagnosed
def test_a_list_of_entry_points_that_cannot_be_read_hides_no_other(install: Install) -> None:
    site = install("sbr-fine", {"llms": {"fine": "fine_a:Echo"}}, fine_a=ECHO)
    install("sbr-torn", {"llms": {"torn": "fine_a:Echo"}})
    (site / "sbr_torn-1.0.dist-info" / "entry_points.txt").write_text("[llm4sbr.llms]\nno equals sign\n")
    install("sbr-typo", {"llm": {"typo": "fine_a:Echo"}})
    assert isinstance(registry.create("llms", "fine"), registry.load("llms", "fine"))
    assert registry.find("backbones", "sr-gnn")
    assert registry.misdeclared() == {
        "sbr-torn": "its entry_points.txt cannot be read",
        "sbr-typo": "the entry-point group 'llm4sbr.llm' is none; there are "
        + ", ".join(f"llm4sbr.{kind}" for kind in registry.KINDS),
    }
    found = {f.subject: f for f in diagnose_plugins().findings if f.subject in ("sbr-torn", "sbr-typo")}
    assert {name: finding.level for name, finding in found.items()} == {
        "sbr-torn": "error",
        "sbr-typo": "warn",
    }
