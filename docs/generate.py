"""What pages take from the code, so that it cannot drift.

    python docs/generate.py

writes into every page, behind a line such as `<!-- generated: settings -->`, what is generated for it, so
that pages can be read in the repository, too; a test compares both. Components are read from entry points and
sources without importing them.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import click

from llm4sbr.registry import KINDS

ROOT = Path(__file__).resolve().parent.parent
LANGUAGES = {".py": "python", ".toml": "toml", ".yml": "yaml", ".md": "markdown"}
END = "<!-- end of what is generated -->"
MARK = re.compile(
    rf"^<!-- generated: ([a-z]+)(?: ([^\n]+))? -->$(?:\n\n(?:(?!<!-- generated: ).)*?^{END}$)?",
    re.MULTILINE | re.DOTALL,
)


def fill(page: str) -> str:
    """The page with what is generated now; a `KeyError` or `OSError` for a mark that means nothing."""
    return MARK.sub(_filled, page)


def pages() -> list[Path]:
    """The pages of this folder."""
    return sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)


def _filled(mark: re.Match[str]) -> str:
    begin = mark[0].partition("\n")[0]
    return f"{begin}\n\n{PARTS[mark[1]](*(mark[2] or '').split())}\n\n{END}"


def commands() -> str:
    """Every command with its arguments and options, as `--help` has them."""
    from llm4sbr.cli import cli

    return "\n\n".join(_command(*found) for found in walk(cli, "llm4sbr"))


def walk(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """A command and those below it, with their whole names."""
    yield name, command
    if isinstance(command, click.Group):
        for part, below in command.commands.items():
            yield from walk(below, f"{name} {part}")


def _command(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name, terminal_width=100)
    usage = command.get_usage(context).removeprefix("Usage: ")
    texts = [re.sub(r"\s+", " ", part) for part in (command.help or "").split("\n\n")]
    records = [param.get_help_record(context) for param in command.get_params(context)]
    shown = [record for record in records if record and record[1] and "--help" not in record[0]]
    rows = [f"| {_code(flag)} | {_cell(text)} |" for flag, text in shown]
    table = ["| Option | |", "|---|---|", *rows] if rows else []
    return "\n\n".join([f"## {name}", *texts, f"```text\n{usage}\n```", "\n".join(table)]).rstrip()


def settings() -> str:
    """Every setting: name, type, default, and the docstring below the field."""
    from llm4sbr.config import Config

    texts = field_texts(ROOT / "llm4sbr" / "config" / "tree.py")
    parts = []
    for name, field in Config.model_fields.items():
        if name == "protocol":
            parts.append("\n".join([*HEAD, _setting("protocol", field, texts["Config", name])]))
            continue
        section = field.annotation
        assert section is not None
        rows = [
            _setting(f"{name}.{key}", one, texts[section.__name__, key])
            for key, one in section.model_fields.items()
        ]
        parts.append("\n".join([f"## {name}", "", _line(section.__doc__), "", *HEAD, *rows]))
    return "\n\n".join(parts)


LIMITS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
HEAD = ["| Setting | Type | Default | |", "|---|---|---|---|"]


def _setting(key: str, field: Any, text: str) -> str:
    kind = re.sub(r"\b(typing|pathlib)\.", "", str(field.annotation))
    kind = re.sub(r"<class '([\w.]+)'>", r"\1", kind).replace("NoneType", "None")
    kind = re.sub(r"^Optional\[(.*)\]$", r"\1 | None", kind)
    limits = [
        f"{sign} {getattr(one, name)}"
        for one in field.metadata
        for name, sign in LIMITS.items()
        if hasattr(one, name) and getattr(one, name) < 2**31  # larger ones are the machine's, not ours
    ]
    kind = ", ".join([kind, *limits])
    return f"| {_code(key)} | {_code(kind)} | {_code(repr(field.default))} | {_cell(text)} |"


def field_texts(source: Path) -> dict[tuple[str, str], str]:
    """Class and field -> the docstring below the field."""
    found = {}
    for part in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(part, ast.ClassDef):
            for one, after in zip(part.body, [*part.body[1:], None], strict=True):
                if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
                    found[part.name, one.target.id] = _string(after)
    return found


def protocol(name: str) -> str:
    """What a protocol of `config.PROTOCOLS` sets."""
    from llm4sbr.config import PROTOCOLS

    rows = [f"| `{key}` | `{value}` |" for key, value in PROTOCOLS[name].items()]
    return "\n".join(["| Setting | Value |", "|---|---|", *rows])


class Offered(NamedTuple):
    """A component of this repository."""

    kind: str
    name: str
    package: str
    text: str
    """First line of its docstring."""


@cache
def offered() -> list[Offered]:
    """Every component that a package of this repository offers, of the core first."""
    projects = [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]
    return [one for path in projects for one in _of(path)]


def _of(path: Path) -> Iterator[Offered]:
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    for group, entries in project.get("entry-points", {}).items():
        for name, target in entries.items():
            module, _, attribute = target.partition(":")
            yield Offered(
                group.removeprefix("llm4sbr."), name, project["name"], _about(path.parent, module, attribute)
            )


def _about(folder: Path, module: str, attribute: str) -> str:
    inner = Path(*module.split("."))
    bases = (folder, folder / "export")
    places = [base / end for base in bases for end in (f"{inner}.py", inner / "__init__.py")]
    tree = ast.parse(next(p for p in places if p.exists()).read_text(encoding="utf-8"))
    if ".backbones." in module:
        return _line(ast.get_docstring(tree))
    for one, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(one, ast.ClassDef | ast.FunctionDef) and one.name == attribute:
            return _line(ast.get_docstring(one))
        if isinstance(one, ast.ImportFrom) and attribute in {name.name for name in one.names} and one.module:
            return _about(folder, one.module, attribute)
        if isinstance(one, ast.Assign) and any(getattr(t, "id", "") == attribute for t in one.targets):
            return _line(_string(after)) or _model(one)
    return ""


def _model(assignment: ast.Assign) -> str:
    """Of `partial(..., model="name")` without a docstring: the name."""
    for keyword in getattr(assignment.value, "keywords", []):
        if keyword.arg == "model" and isinstance(keyword.value, ast.Constant):
            return f"`{keyword.value.value}` from the hub."
    return ""


def components(kind: str) -> str:
    """The components of a kind in this repository."""
    rows = [f"| `{one.name}` | {one.package} | {_cell(one.text)} |" for one in offered() if one.kind == kind]
    return "\n".join(["| Name | Package | |", "|---|---|---|", *rows])


def columns() -> str:
    """Column names that the readers of tables recognise."""
    from llm4sbr.data.readers.columns import ALIASES

    rows = [f"| {role} | {', '.join(f'`{name}`' for name in names)} |" for role, names in ALIASES.items()]
    return "\n".join(["| Role | Recognised |", "|---|---|", *rows])


def contract(kind: str) -> str:
    """What the contract tests of a kind check, read from their source, and how much of it may be missing."""
    tree = ast.parse((ROOT / "llm4sbr" / "testing" / f"{kind}.py").read_text(encoding="utf-8"))
    parts = []
    for one in tree.body:
        if isinstance(one, ast.ClassDef) and one.name.endswith("Contract"):
            checks = [f for f in one.body if isinstance(f, ast.FunctionDef) and f.name.startswith("test_")]
            rows = [f"| {_title(f.name)} | {_level(f)} | {_cell(_whole(f))} |" for f in checks]
            parts.append("\n".join([f"`{one.name}`", "", "| Check | Level | |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


def _title(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ")


def _whole(node: ast.FunctionDef) -> str:
    return ast.get_docstring(node) or ""


def _level(check: ast.FunctionDef) -> str:
    """`required`, or what the decorators of `testing.contract` say."""
    for one in check.decorator_list:
        if (
            isinstance(one, ast.Call)
            and isinstance(one.func, ast.Name)
            and isinstance(one.args[0], ast.Constant)
        ):
            return f"{one.func.id.replace('_', ' ')}: `{one.args[0].value}`"
    return "required"


def template(name: str) -> str:
    """A file of `llm4sbr plugins new my-<kind> --kind <kind>`; `name` is the template's."""
    kind = name.partition(".")[0].removesuffix("_test")
    kind = kind if kind in KINDS else "backbones"
    module = f"my_{kind[:-1]}"
    own = {f"{kind}.py.txt": f"{module}/__init__.py", f"{kind}_test.py.txt": f"tests/test_{module}.py"}
    file = own.get(name, name.removesuffix(".txt"))
    return f"```{LANGUAGES[Path(file).suffix]}\n{distribution(kind)[file].rstrip()}\n```"


@cache
def distribution(kind: str) -> dict[str, str]:
    """The files of `llm4sbr plugins new my-<kind> --kind <kind>`."""
    from llm4sbr.scaffold import new_plugin

    with TemporaryDirectory() as folder:
        home = Path(folder) / "new"
        written = new_plugin(f"my-{kind[:-1]}", kind, home)
        return {str(path.relative_to(home)): path.read_text(encoding="utf-8") for path in written}


def _string(node: ast.AST | None) -> str:
    value = node.value if isinstance(node, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


def _line(text: str | None) -> str:
    return re.sub(r"\s+", " ", (text or "").strip().split("\n\n")[0])


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"


PARTS = {
    "commands": commands,
    "settings": settings,
    "protocol": protocol,
    "components": components,
    "contract": contract,
    "columns": columns,
    "template": template,
}


def main() -> None:
    """Bring all pages up to date."""
    for path in pages():
        path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
