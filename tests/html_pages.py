"""Pages of the HTML report, taken apart as a browser would, and runs that try to break out of them."""

from __future__ import annotations

import csv
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

from llm4sbr import pipeline, store
from llm4sbr.config import nest
from llm4sbr.progress import Progress
from llm4sbr.testing.encoders import tiny_bert
from llm4sbr.testing.toy import toy_log

sys.path.insert(0, str(Path(__file__).parent))
from toy_runs import sign

VOID = {"meta", "br", "img", "link", "input", "hr"}
ADDRESSES = ("src", "href", "data", "action", "poster", "srcset", "xlink:href", "formaction", "background")


class Page(HTMLParser):
    """A parsed page; a tag that is not closed where it should be fails the test."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[tuple[str, list[str]]] = [("", [])]
        self.closed: list[tuple[str, str]] = []
        """Tag and the text inside, by the order in which they end."""
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        self.close()
        assert len(self.open) == 1, f"never closed: {self.open[1:]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag not in VOID:
            self.open.append((tag, []))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        name, texts = self.open.pop()
        assert name == tag, f"</{tag}> closes <{name}>"
        text = "".join(texts)
        self.closed.append((tag, text))
        self.open[-1][1].append(text)
        if tag in ("td", "th"):
            self.tables[-1][-1].append(text.strip())

    def handle_data(self, data: str) -> None:
        self.open[-1][1].append(data)

    @property
    def text(self) -> str:
        return "".join(self.open[0][1])

    def texts(self, tag: str) -> list[str]:
        return [text for name, text in self.closed if name == tag]


def parsed(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def sections(page: Page) -> set[str]:
    return {attributes["id"] for tag, attributes in page.tags if tag == "h2"}


def safe(page: Page) -> None:
    """Nothing on the page runs, and nothing is fetched."""
    assert {tag for tag, _ in page.tags} & {
        "script",
        "img",
        "iframe",
        "object",
        "embed",
        "link",
        "form",
    } == set()
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ADDRESSES:
            address = attributes.get(name, "#")
            assert address.startswith("#") or re.fullmatch(r"runs/[\w.%/-]+", address), (tag, address)
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert set(re.findall(r"url\(([^)]*)\)", page.texts("style")[0])) == set()
    assert {a["fill"] for _, a in page.tags if "url(" in a.get("fill", "")} <= {"url(#hatched)"}


HOSTILE = (
    "<script>alert({})</script>",
    '"><img src=https://evil.example/{}.png onerror=alert(1)>',
    "{{{{ 7 * {} }}}} & </td></table>",
    "\u202egpj.{} <!--",
)

WHOLE = {"results", "breakdown", "changes", "training", "cost", "answers", "sessions", "data", "settings"}
"""Sections of the page on a whole run."""


def hostile_data(folder: Path) -> Path:
    """Toy data whose titles try to break out of the page, and an encoder."""
    log = toy_log(folder / "log")
    with (log / "items.csv").open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    for number, row in enumerate(rows):
        row[1] = f"{row[1]} {HOSTILE[number % len(HOSTILE)].format(number)}"
    with (log / "items.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    tiny_bert(folder / "bert")
    return folder


def hostile_run(base: Path, *, seeds: int) -> Path:
    """A whole run on the data in `base`; its report was written at its end."""
    chosen = {
        "data.reader": "csv",
        "data.path": str(base / "log"),
        "data.min_item_count": 1,
        "infer.llm": "item-text",
        "localize.encoder": f"transformers:{base / 'bert'}",
        "localize.f": 3,
        "train.epochs": 2,
        "train.dim": 8,
        "train.seeds": seeds,
        "train.workers": 1,
    }
    pipeline.execute(base / "run", nest(chosen), progress=Progress(quiet=True))
    return base / "run"


def rewrite(run: Path, metrics: object) -> None:
    """Other results of a run, recorded as what `evaluate` wrote."""
    store.write_json(run / "evaluate" / "metrics.json", metrics)
    sign(run / "evaluate")
