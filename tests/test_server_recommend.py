"""`/recommend`, search, page and metrics of a live server, and anything that may be sent to it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from llm4sbr.testing.live_server import LiveServer, live_server
from llm4sbr.testing.toy_export import toy_export

MODEL = "/v2/models/llm4sbr"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(toy_export(tmp_path_factory.mktemp("export")), "--watch", "0") as running:
        yield running


# Plain JSON


def test_recommend_by_id_key_and_title(server):
    session = [1, "i02", "Green Table (1992)", "white clock", "Blak Miror"]
    found = server.ask("/recommend", {"session": session, "k": 2}).json
    assert [one["id"] for one in found["session"]] == [1, 2, 3, 4, 5]
    how = [one["how"] for one in found["session"]]
    assert how == ["id", "key", "title", "year or article", "spelling"]
    assert found["items"] == [
        {"id": 6, "key": "i06", "title": "Red Shelf (1995)", "score": 20.0},
        {"id": 7, "key": "i07", "title": "Blue Vase (1996)", "score": 19.0},
    ]
    assert (found["model"], found["variant"], found["engine"]) == ("llm4sbr", "plain", "onnx, cpu")
    assert found["intents"] is None


def test_only_the_last_clicks_count_but_none_is_recommended_again(server):
    session = [6, *range(10, 16), 9, 8, 5]  # 6, 10 and 11 are too long ago for the model
    found = server.ask("/recommend", {"session": session, "k": 5}).json
    assert len(found["session"]) == 10
    assert [one["id"] for one in found["items"]] == [7, 16, 17, 18, 19]  # not 6, 10 and 11


def test_seen_items_on_request(server):
    found = server.ask("/recommend", {"session": [20, 1, 20], "exclude_seen": False, "k": 1}).json
    assert found["items"][0]["id"] == 1


def test_misspelt_titles_are_few(server):
    """Each is compared with all titles while other look-ups wait: 300 took 10 s of 100,000 items' server."""
    title = "Green Table"
    wrong = [f"{title[:place]}{letter}{title[place:]}" for place in range(11) for letter in "qx"]
    found = server.ask("/recommend", {"session": wrong})
    assert (found.status, "more than 20 titles are misspelt" in found.json["error"]) == (400, True)
    found = server.ask("/recommend", {"session": [*wrong[:20] * 40, "green table", "i03"]}).json
    assert {one["id"] for one in found["session"]} == {3}
    assert [one["text"] for one in found["session"][19:22]] == [wrong[19], wrong[0], wrong[1]]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"nonsense", "not JSON"),
        ({}, "session: expected a list"),
        ({"session": "i01"}, "session: expected a list"),
        ({"session": []}, "session: empty"),
        ({"session": [""]}, "session: item 0: expected an id"),
        ({"session": [1, None]}, "session: item 1: expected an id"),
        ({"session": [True]}, "session: item 0"),
        ({"session": [1.5]}, "session: item 0"),
        ({"session": ["x" * 201]}, "1 to 200 characters"),
        ({"session": [1] * 1001}, "1001 items, at most 1000"),
        ({"session": [0]}, "no item has the catalogue id 0; ids are 1 to 20"),
        (
            {"session": ["Casablanca"], "unknown": "fail"},
            "no item is called 'Casablanca'; the nearest titles are",
        ),
        ({"session": ["a\nb"], "unknown": "fail"}, "no item is called"),
        ({"session": [1], "k": 0}, "k: expected a number from 1 to 5"),
        ({"session": [1], "k": 6}, "k: expected a number from 1 to 5"),
        ({"session": [1], "k": True}, "k: expected a number"),
        ({"session": [1], "exclude_seen": "no"}, "exclude_seen: expected true or false"),
        ({"session": [1], "explain": None}, "explain: expected true or false"),
        (
            {"session": [1], "excludeseen": False},
            "'excludeseen': unknown; there are session, exclude_seen, explain",
        ),
    ],
)
def test_bad_sessions(server, body, message):
    found = server.ask("/recommend", body)
    assert (found.status, list(found.json)) == (400, ["error"])
    assert message in found.json["error"]
    assert "\n" not in found.json["error"]


def test_unknown_items_are_left_out_and_named(server):
    found = server.ask("/recommend", {"session": ["i03", "NEW-77", "i04"], "k": 3})
    assert (found.status, found.json["left_out"]) == (200, ["NEW-77"])
    known = server.ask("/recommend", {"session": ["i03", "i04"], "k": 3}).json
    assert found.json["items"] == known["items"]
    assert known["left_out"] == []
    refused = server.ask("/recommend", {"session": ["i03", "NEW-77"], "unknown": "fail"})
    assert (refused.status, "no item is called 'NEW-77'" in refused.json["error"]) == (400, True)
    wrong = server.ask("/recommend", {"session": ["i03"], "unknown": "no"})
    assert (wrong.status, wrong.json["error"]) == (400, "unknown: expected skip or fail")


def test_search(server):
    found = server.ask("/items?search=LAMP").json["items"]
    known = {"category": "Lamp", "price": 1}
    lamp = {"id": 1, "key": "i01", "title": "Red Lamp (1990)", "attributes": known, "by": "title"}
    assert found[0] == lamp
    assert all("Lamp" in one["title"] for one in found)
    by = [(one["id"], one["by"]) for one in server.ask("/items?search=i01").json["items"]]
    assert by == [(1, "key")]
    by = [(one["id"], one["by"]) for one in server.ask("/items?search=Blak%20Miror").json["items"]]
    assert by == [(5, "spelling")]
    assert server.ask("/items?search=nothing%20like%20this").json["items"] == []
    assert len(server.ask("/items").json["items"]) == 20
    assert server.ask("/items?search=%28199").json["items"]  # no pattern, just text
    assert server.ask("/items?search=%FF").status == 400
    assert server.ask(f"/items?search={'a' * 201}").status == 400


# Anything at all

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 25) | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
ITEM = st.integers(-1, 22) | st.sampled_from(["i01", "Red Lamp", "rde lamp (1990)", "lamp"]) | VALUES
SESSIONS = st.fixed_dictionaries(
    {"session": st.lists(ITEM, max_size=12) | VALUES},
    optional={"k": VALUES, "exclude_seen": VALUES, "explain": VALUES},
)
SIZES = st.lists(st.integers(-1, 4), max_size=4) | VALUES
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["items", "mask", "exclude_seen", "intents"]) | VALUES,
        "datatype": st.sampled_from(["INT64", "BOOL", "FP32"]) | VALUES,
        "shape": SIZES,
        "data": st.lists(st.integers(0, 21), max_size=8) | st.lists(st.booleans(), max_size=4) | VALUES,
    },
    optional={"parameters": st.dictionaries(st.sampled_from(["binary_data_size", "x"]), VALUES) | VALUES},
)
REQUESTS = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS, max_size=3) | VALUES},
    optional={"outputs": st.lists(VALUES, max_size=2) | VALUES, "id": VALUES, "parameters": VALUES},
)


@pytest.mark.parametrize(("path", "bodies"), [("/recommend", SESSIONS), (f"{MODEL}/infer", REQUESTS)])
def test_no_json_makes_the_server_fail(server, path, bodies):
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(bodies | VALUES)
    def send(body):
        connection.request("POST", path, json.dumps(body).encode("utf-8", "surrogatepass"))
        response = connection.getresponse()
        found = json.loads(response.read())
        assert response.status in (200, 400), found
        assert (response.status == 200) == ("error" not in found)

    send()
    connection.close()


@pytest.mark.parametrize("path", ["/recommend", f"{MODEL}/infer"])
def test_no_bytes_make_the_server_fail(server, path):
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)

    @settings(max_examples=60, deadline=None)
    @given(st.binary(max_size=60), st.integers(-1, 70))
    def send(body, length):
        connection.request("POST", path, body, {"Inference-Header-Content-Length": str(length)})
        response = connection.getresponse()
        assert set(json.loads(response.read())) == {"error"}
        assert response.status == 400

    send()
    connection.close()


# The page


def test_the_page_is_self_contained_and_safe(server):
    page, script, style = (server.ask(path) for path in ("/", "/page.js", "/page.css"))
    assert [one.status for one in (page, script, style)] == [200] * 3
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    text = page.body.decode() + script.body.decode() + style.body.decode()
    assert not re.search(r"https?://|//[a-z]+\.|<script>|<style|\son\w+=", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    linked = re.findall(r'(?:href|src)="([^"]+)"', page.body.decode())
    assert set(linked) == {"data:,", "page.css", "page.js"}


def test_the_page_is_accessible(server):
    text = server.ask("/").body.decode()
    assert '<html lang="en">' in text
    assert '<label for="find">' in text
    assert 'role="status" aria-live="polite"' in text
    assert text.count("<h1>") == 1
    used = set(re.findall(r'part\("([\w-]+)"\)', server.ask("/page.js").body.decode()))
    assert used <= set(re.findall(r'id="([\w-]+)"', text))


def test_the_page_asks_for_what_every_export_can_give(server):
    """A list's length is the export's: the page asked for 10 items, and was told that there are 5 at most."""
    sent = re.search(r"const body = (\{.*\});", server.ask("/page.js").body.decode())
    assert sent
    assert re.findall(r"(\w+):", sent[1]) == ["session", "explain", "attributes"]
    found = server.ask("/recommend", {"session": ["i03"], "explain": True, "attributes": True})
    assert (found.status, len(found.json["items"])) == (200, 5)


# Metrics


def test_metrics(server):
    def value(name: str, **labels: str) -> float:
        text = server.ask("/metrics").body.decode()
        samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
        return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())

    before = value("llm4sbr_requests_total", route="infer", status="200")
    rows = value("llm4sbr_batch_rows_sum")
    for clicks in ([1, 2], [-4]):
        items = {"name": "items", "datatype": "INT64", "shape": [len(clicks), 1], "data": clicks}
        server.ask(f"{MODEL}/infer", {"inputs": [items]})
    assert value("llm4sbr_requests_total", route="infer", status="200") == before + 1
    assert value("llm4sbr_requests_total", route="infer", status="400") >= 1
    assert value("llm4sbr_batch_rows_sum") == rows + 2
    lasted = value("llm4sbr_request_seconds_count", route="infer")
    assert lasted >= 2
    value("llm4sbr_up")  # a scrape
    assert value("llm4sbr_request_seconds_count", route="infer") == lasted
    assert value("llm4sbr_request_seconds_bucket", route="infer", le="+Inf") == lasted
    assert value("llm4sbr_queue_rows") == 0
    assert value("llm4sbr_model", variant="plain") == 1
