"""MovieLens as it is found: atomic files, archives, CSV, and the package that brings it."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import polars as pl
import pytest

from llm4sbr import store
from llm4sbr.data.readers import download, movielens
from llm4sbr.data.readers.movielens import MovieLens1M, MovieLens100K, tidy_titles
from llm4sbr.errors import DataError
from llm4sbr.progress import Progress
from llm4sbr.registry import suggestions


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("title", "year", "expected"),
    [
        ("Empire Strikes Back, The (1980)", "", ("The Empire Strikes Back (1980)", "1980")),
        ("Toy Story", "1995", ("Toy Story (1995)", "1995")),
        ("Promesse, La", "1996", ("La Promesse (1996)", "1996")),
        (
            "Confessional, The (Le Confessionnal) (1995)",
            "",
            ("The Confessional (Le Confessionnal) (1995)", "1995"),
        ),
        ("Beautiful Girls, Dying, A (1996)", "", ("A Beautiful Girls, Dying (1996)", "1996")),
        ("Good, The Bad and The Ugly, The (1966)", "", ("The Good, The Bad and The Ugly (1966)", "1966")),
        ("unknown", "unkonwn", ("unknown", "")),
        ("1984", "", ("1984", "")),
    ],
)
def test_titles_read_as_people_write_them(title, year, expected):
    table = pl.DataFrame({"item": ["1"], "title": [title], "year": [year], "category": ["Drama|War"]})
    assert tidy_titles(table).rows() == [("1", *expected, "Drama War")]


def atomic(folder: Path) -> Path:
    """A small ml-100k as RecBole has it."""
    inter = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t50\t5\t881250949\n"
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    item = f'{header}\n50\tFull "Monty, The\t1997\tComedy\n'
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ml-100k.inter").write_text(inter)
    (folder / "ml-100k.item").write_text(item)
    return folder


def test_movielens_from_atomic_files_zip_and_csv(tmp_path):
    raw = MovieLens100K(atomic(tmp_path / "atomic")).read()
    assert raw.interactions.rows() == [("1", "50", 881250949.0, 2)]
    assert raw.items.rows() == [("50", 'The Full "Monty (1997)', "1997", "Comedy")]

    archive = tmp_path / "ml-1m.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("ml-1m/ratings.dat", "1::2::5::978300760\n")
        opened.writestr("ml-1m/movies.dat", "2::Misérables, Les (1995)::Drama|Musical\n".encode("latin-1"))
    raw = MovieLens1M(archive).read()
    assert raw.interactions.rows() == [("1", "2", 978300760.0, 1)]
    assert raw.items.rows() == [("2", "Les Misérables (1995)", "1995", "Drama Musical")]

    csv = {
        "interactions__csv": "user_id,item_id,timestamp\nu,a,1\n",
        "items__csv": "item_id,title\na,A\nb,B\n",
    }
    raw = MovieLens1M(write(tmp_path / "csv", **csv)).read()
    assert raw.items["title"].to_list() == ["A", "B"]


def test_movielens_genres_come_from_the_flags(tmp_path):
    flags = ["0"] * 19
    flags[1] = flags[18] = "1"
    write(
        tmp_path,
        u__data="1\t2\t5\t9\n",
        u__item=f"2|Young Guns (1988)|01-Jan-1988||http://x|{'|'.join(flags)}\n",
    )
    assert MovieLens100K(tmp_path).read().items.rows() == [
        ("2", "Young Guns (1988)", "1988", "Action Western")
    ]


def test_movielens_says_what_it_looked_for(tmp_path):
    with pytest.raises(
        DataError, match=r"not ml-1m: looked for u\.data and u\.item; ratings\.dat and movies\.dat"
    ):
        MovieLens1M(tmp_path).read()
    (tmp_path / "ml-1m.zip").write_bytes(b"PK but no zip")
    with pytest.raises(DataError, match="not a whole zip file"):
        MovieLens1M(tmp_path / "ml-1m.zip").read()


def test_movielens_suggests_the_papers_rules():
    assert suggestions("readers", "ml-1m") == {"data.sessions": "bins", "data.test_prefixes": "last"}


def test_cached_data_is_read_without_any_network(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM4SBR_CACHE", str(tmp_path))
    monkeypatch.setattr(download.subprocess, "run", None)
    monkeypatch.setattr(download.urllib.request, "urlopen", None)
    atomic(store.cache_dir() / "datasets" / "ml-100k")
    assert MovieLens100K().read().interactions.height == 1


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No index and no host to be reached; pip looks for wheels in the folder that this returns."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("LLM4SBR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setattr(movielens, "_URL", "https://127.0.0.1:9/{name}.zip")
    return wheels


def test_without_network_one_line_says_what_to_do(offline, tmp_path):
    reader = MovieLens100K()
    with pytest.raises(
        DataError, match=r"cannot be fetched: .*get ml-100k\.zip elsewhere and give its path with --data"
    ) as caught:
        reader.read()
    assert "\n" not in str(caught.value)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def wheel(folder: Path, source: Path) -> Path:
    path = folder / "recbole-1.2.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as opened:
        for file in source.iterdir():
            opened.write(file, f"recbole/dataset_example/ml-100k/{file.name}")
        opened.writestr("../evil.py", "raise SystemExit")
        opened.writestr(
            "recbole-1.2.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n"
        )
        opened.writestr("recbole-1.2.1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    return path


def test_the_wheel_is_fetched_checked_and_unpacked_but_never_installed(offline, tmp_path, monkeypatch):
    made = wheel(offline, atomic(tmp_path / "source"))
    monkeypatch.setattr(movielens, "_WHEEL_SHA256", store.file_sha256(made))
    assert MovieLens100K().read().interactions.height == 1
    files = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert files == {"ml-100k.inter", "ml-100k.item"}
    assert not list(tmp_path.rglob("evil.py"))


def test_another_wheel_of_that_name_is_refused(offline, tmp_path):
    wheel(offline, atomic(tmp_path / "source"))
    with pytest.raises(
        DataError, match=r"recbole-1\.2\.1-py3-none-any\.whl: its sha256 is .* expected 9c99482"
    ):
        download.from_wheel(
            movielens._WHEEL,
            sha256=movielens._WHEEL_SHA256,
            members=movielens._WHEEL_MEMBERS,
            folder=tmp_path / "out",
            progress=Progress(quiet=True),
        )
    assert not (tmp_path / "out").exists()


def test_a_member_that_swells_is_refused(tmp_path):
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("big", b"\0" * 1_000_000)
    with pytest.raises(DataError, match="larger than the 1,000 bytes"):
        download.read_member(archive, "big", limit=1000)
    with pytest.raises(DataError, match="no small in this archive"):
        download.read_member(archive, "small")
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(DataError, match="not a whole zip file"):
        download.read_member(archive, "big")


def test_a_download_is_limited_and_checked(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"x" * 5000)
    target = tmp_path / "cache" / "target"
    options = {"md5": "0" * 32, "progress": Progress(quiet=True)}
    with pytest.raises(DataError, match="larger than the 100 bytes"):
        download.from_url(source.as_uri(), target, limit=100, **options)
    with pytest.raises(DataError, match=r"its md5 is .* expected 0000"):
        download.from_url(source.as_uri(), target, **options)
    assert list(target.parent.iterdir()) == []
    shutil.rmtree(target.parent)
