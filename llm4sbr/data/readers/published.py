"""Public logs that the reader `csv` recognises by the names of their files, and which reader has the others.

Only what the general rules of `columns` do not find is listed here. What the user names counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from llm4sbr.data.readers.columns import Names


class Layout(NamedTuple):
    """The files of a public log and what its columns mean."""

    name: str
    clicks: str
    """The file with the clicks; a `*` stands for the log's parts or sizes."""
    items: str
    """The file with titles beside it; empty if none is published."""
    names: Names
    left_out: str = ""
    """Files beside them that are not read, and why."""


_GARMENT = ("product_type_name", "colour_group_name", "department_name", "detail_desc")
_TOPICS = ("topic_tag", *(f"{level}_level_category_name" for level in ("first", "second", "third")))

LAYOUTS = (
    Layout(
        "Diginetica",
        "train-item-views.csv",
        "products.csv",
        Names(order="timeframe", title="product.name.tokens"),
    ),
    Layout("H&M", "transactions_train.csv", "articles.csv", Names(attributes=_GARMENT)),
    Layout(
        "KuaiRand",
        "log_standard_*.csv",
        "",
        Names(only="is_click=1"),
        "log_random_*.csv, whose videos were drawn by chance",
    ),
    Layout("KuaiRec", "big_matrix.csv", "kuairec_caption_category.csv", Names(attributes=_TOPICS)),
    Layout("KuaiRec", "small_matrix.csv", "kuairec_caption_category.csv", Names(attributes=_TOPICS)),
)

_OTHERS = {
    "ratings.csv": "movielens",
    "ratings.dat": "movielens",
    "behaviors.tsv": "mind",
    "sessions_train.csv": "amazon-m2",
    "*.inter": "recbole",
    "meta_*": "amazon",
    "sessions.jsonl*": "jsonl",
    "interactions.parquet": "parquet",
    "interactions.csv*": "csv",
}
"""File in a folder -> the reader that has it."""


def layout(clicks: Path) -> Layout | None:
    """The public log that a file of clicks belongs to, by its name, also gzipped."""
    name = clicks.name.removesuffix(".gz")
    return next((one for one in LAYOUTS if name == one.clicks or Path(name).match(one.clicks)), None)


def find(folder: Path) -> Path | None:
    """The clicks of a public log in a folder or its folder `data`, with a `*` if they are several files."""
    for place in (folder, folder / "data"):
        for one in LAYOUTS:
            for name in (one.clicks, f"{one.clicks}.gz"):
                found = list(place.glob(name))
                if found:
                    return place / name if len(found) > 1 else found[0]
    return None


def chosen(names: Names, known: Layout | None, found: Sequence[str]) -> Names:
    """The user's names, and for what is not named those of the log, as far as its columns are there."""
    if known is None:
        return names
    given = {
        role: value
        for role, value in known.names._asdict().items()
        if value is not None and getattr(names, role) is None and role not in ("title", "attributes")
    }
    if str(given.get("only", "")).partition("=")[0] not in ("", *found):
        del given["only"]
    return names._replace(
        **{role: value for role, value in given.items() if role == "only" or value in found}
    )


def chosen_of_items(names: Names, known: Layout | None, found: Sequence[str]) -> Names:
    """As `chosen`, for the columns of the items table."""
    if known is None:
        return names
    if names.title is None and known.names.title in found:
        names = names._replace(title=known.names.title)
    if names.attributes is None and known.names.attributes is not None:
        names = names._replace(attributes=[name for name in known.names.attributes if name in found])
    return names


def advice(folder: Path, reader: str) -> str:
    """Which other reader has the files of a folder, as the end of a message; empty if none is known."""
    for pattern, other in _OTHERS.items():
        if other != reader and any(folder.glob(pattern)):
            return f"; it has {pattern}, which --dataset {other} reads"
    return ""
