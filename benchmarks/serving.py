"""Measures how many requests per second `llm4sbr serve` answers in time, at several catalogue sizes.

    python benchmarks/serving.py [RUN] --json benchmarks/results/serving.json

One server per catalogue size and precision, with a model of random weights (which do not affect speed) from
the real exporter; the load comes from this process over loopback, see `load.py`. Session lengths are those of
RUN's test samples, or from a distribution. The rate is doubled until the 90th percentile of the latency
exceeds the limits; then the highest rate within the limits is searched more finely.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from load import LoadResult, offer
from machine import circumstances, keep
from serving_tables import LIMITS, serving_table

from llm4sbr.testing.live_server import LiveServer, live_server

MEAN, LONGEST = 5, 50
"""Session lengths without a run: geometric with this mean, truncated."""

PACKAGES = ("llm4sbr", "onnxruntime", "uvicorn", "uvloop", "httptools", "orjson", "numpy")
SESSIONS, RECALL = "sessions.json", "recall.json"
"""Beside a structured artefact: held-out sessions, and what an index finds for them."""

SIZES = {"10k": 10_000, "100k": 100_000, "1m": 1_000_000}


def lengths(run: Path | None, seed: int) -> tuple[Callable[[], int], str]:
    """A function that draws a session length, and a description of the distribution."""
    generator = random.Random(seed)
    if run is None:
        share = 1 / MEAN
        text = f"geometric, mean {MEAN}, at most {LONGEST}"

        def draw() -> int:
            length = 1
            while length < LONGEST and generator.random() > share:
                length += 1
            return length

        return draw, text
    from llm4sbr.data.prepared import load

    samples = load(run / "prepare").samples["test"]
    known = (samples.end - samples.start).clamp(max=LONGEST).tolist()
    mean = sum(known) / len(known)
    return lambda: generator.choice(known), f"{len(known):,} test samples of a run, mean {mean:.1f}"


def requests(
    endpoint: str, items: int, draw: Callable[[], int], *, count: int = 5000, seed: int = 0
) -> list[bytes]:
    """HTTP requests of one session each, ids drawn uniformly."""
    generator = random.Random(seed)
    made = []
    for _ in range(count):
        made.append(request(endpoint, [generator.randint(1, items) for _ in range(draw())]))
    return made


def request(endpoint: str, session: list[int]) -> bytes:
    """The HTTP request of one session."""
    body: dict[str, Any]
    if endpoint == "recommend":
        path, body = "/recommend", {"session": session}
    else:
        tensor = {"name": "items", "datatype": "INT64", "shape": [1, len(session)], "data": session}
        path, body = "/v2/models/llm4sbr/infer", {"inputs": [tensor]}
    text = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: benchmark\r\nContent-Length: {len(text)}\r\n\r\n"
    return head.encode() + text


def good(result: LoadResult, limit: float) -> bool:
    """Whether every request was answered without error, within the limit, and at the offered rate."""
    return not result.errors and result.quantile(0.9) < limit


def search(measure: Callable[[float], LoadResult], *, most: float, refine: int) -> list[LoadResult]:
    """Results at rates that double up to `most`, then between the last good and the first bad one."""
    found = [measure(50.0)]
    while good(found[-1], max(LIMITS.values())) and found[-1].rate * 2 <= most:
        found.append(measure(found[-1].rate * 2))
    for limit in LIMITS.values():
        for _ in range(refine):
            best = highest(found, limit)
            worse = [one.rate for one in found if one.rate > best and not good(one, limit)]
            if not best or not worse:
                break
            found.append(measure(round((best * min(worse)) ** 0.5)))
    return sorted(found, key=lambda one: one.rate)


def highest(found: Sequence[LoadResult], limit: float) -> float:
    """The highest rate below the first bad one; 0 if there is none."""
    best = 0.0
    for one in sorted(found, key=lambda one: one.rate):
        if not good(one, limit):
            break
        best = one.rate
    return best


def gauge(server: LiveServer, name: str) -> float:
    """A value of the server's own metrics."""
    found = re.search(rf"^{name}(?:{{[^}}]*}})? (\S+)$", server.ask("/metrics").body.decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def contestant(
    folder: Path, items: int, options: argparse.Namespace, say: Callable[[str], None]
) -> dict[str, Any]:
    """All results of one artefact."""
    draw, _ = lengths(options.run, options.seed)
    prepared = requests(options.endpoint, items, draw, seed=options.seed)
    if options.structured:
        prepared = [request(options.endpoint, one) for one in json.loads((folder / SESSIONS).read_text())]
    began = time.perf_counter()
    with live_server(folder, "--watch", "0", *options.serve.split()) as server:
        started = time.perf_counter() - began
        settle(server)

        def measure(rate: float, seconds: float = options.seconds) -> LoadResult:
            result = offer(
                ("127.0.0.1", server.port), prepared, rate=rate, seconds=seconds, seed=options.seed
            )
            say(f"  {json.dumps(result.as_dict())}")
            return result

        measure(50.0, 2.0)  # warm-up, not counted
        found = search(measure, most=options.max_rate, refine=options.refine)
        row = {
            "items": items,
            "seconds_to_ready": round(started, 2),
            "steps": [one.as_dict() for one in found],
        }
        row["highest_rate"] = {name: highest(found, limit) for name, limit in LIMITS.items()}
        if options.sustain and items in options.sustain_sizes:
            row["sustained"] = sustained(server, measure, options)
        row["server_peak_memory"] = round(gauge(server, "process_resident_memory_bytes"))
    return row


def sustained(
    server: LiveServer, measure: Callable[..., LoadResult], options: argparse.Namespace
) -> dict[str, Any]:
    """A long period at a fixed rate, with the CPU time of both processes."""
    names = (
        "process_cpu_seconds_total",
        "llm4sbr_batch_rows_sum",
        "llm4sbr_batch_rows_count",
        "llm4sbr_batch_seconds_sum",
    )
    before, own = [gauge(server, name) for name in names], time.process_time()
    result = measure(options.sustain, options.sustain_seconds)
    used = [gauge(server, name) - was for name, was in zip(names, before, strict=True)]
    told = result.as_dict() | {"load": os.getloadavg()[0], "good": good(result, LIMITS["p90 < 7 ms"])}
    told["server_cores"] = round(used[0] / result.seconds, 2)
    told["client_cores"] = round((time.process_time() - own) / result.seconds, 2)
    told["sessions_per_batch"] = round(used[1] / max(used[2], 1), 2)
    told["ms_per_batch"] = round(1000 * used[3] / max(used[2], 1), 2)
    return told


def settle(server: LiveServer) -> None:
    """Wait until the search for misspelt titles is ready; it is not measured here."""
    for _ in range(10):  # a million titles take longer than a client waits
        with suppress(TimeoutError):
            server.ask("/recommend", {"session": ["no such title"]})
            return


def results(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """All results, for the JSON file, which is written after every row."""
    from synthetic import WIDTH, write_artefact

    rows: list[dict[str, Any]] = []
    found = about(options) | {
        "model": f"sr-gnn, plain, D = {WIDTH}, {_weights(options)}, top 20",
        "rows": rows,
    }
    with artefacts(options.artefacts) as base:
        for items in options.sizes:
            for precision in options.precisions:
                folder = base / f"{items}-{precision}"
                if not (folder / "artefact.json").exists():
                    say(f"exporting {items:,} items, {precision}")
                    if options.structured:
                        write_structured(base, items, precision, options.steps)
                    else:
                        write_artefact(folder, items=items, precision=precision)
                say(f"{items:,} items, {precision}; load {os.getloadavg()[0]:.1f}")
                row = {"precision": precision, "load": os.getloadavg()[0]}
                if precision == "index":
                    row["recall"] = json.loads((folder / RECALL).read_text())
                rows.append(row | contestant(folder, items, options, say))
                keep(options.json, found)
    return found


def _weights(options: argparse.Namespace) -> str:
    return f"{options.steps} steps on a made-up shop" if options.structured else "random weights"


def write_structured(base: Path, items: int, precision: str, steps: int) -> None:
    """An artefact of a model trained on a made-up shop, and sessions that it was not trained on."""
    from structured import held_out, recall_of, trained
    from synthetic import write_artefact

    kept = base / f"{items}-model.safetensors"
    model, shop = trained(items, steps=steps, kept=kept)
    folder = base / f"{items}-{precision}"
    tuning, tests = held_out(shop, 256), held_out(shop, 2000)
    write_artefact(folder, items=items, precision=precision, model=model, sessions=tuning)
    (folder / SESSIONS).write_text(json.dumps([row[row > 0].tolist() for row in tests]))
    if precision == "index":
        told = recall_of(folder, model, tests[:500])
        (folder / RECALL).write_text(json.dumps(told))


@contextmanager
def artefacts(kept: Path | None) -> Any:
    """The folder for exports: `kept`, or a temporary folder."""
    if kept is not None:
        yield kept
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def about(options: argparse.Namespace) -> dict[str, Any]:
    """Circumstances of the measurement."""
    sizes = ",".join(name for name, items in SIZES.items() if items in options.sizes)
    command = f"python benchmarks/serving.py {'RUN ' if options.run else ''}--sizes {sizes} "
    command += f"--structured --steps {options.steps} " if options.structured else ""
    command += f"--precisions {','.join(options.precisions)} --serve '{options.serve}' "
    command += f"--seconds {options.seconds:g} --max-rate {options.max_rate:g} --endpoint {options.endpoint}"
    return {
        "command": command,
        **circumstances(PACKAGES),
        "sessions": lengths(options.run, options.seed)[1],
        "offered": "open loop, Poisson, from one process on the same machine; latency from the time due",
        "server": f"llm4sbr serve {options.serve}".strip(),
        "seed": options.seed,
    }


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("run", nargs="?", type=Path, help="a prepared run directory, for session lengths")
    sizes = lambda text: [SIZES.get(name) or int(name) for name in text.split(",")]  # noqa: E731
    parser.add_argument("--sizes", type=sizes, default=list(SIZES.values()), help="10k,100k,1m or numbers")
    parser.add_argument("--precisions", type=lambda text: text.split(","), default=["fp32", "int8"])
    parser.add_argument("--structured", action="store_true", help="a trained model, see structured.py")
    parser.add_argument("--steps", type=int, default=1500, help="training steps of that model")
    parser.add_argument("--serve", default="", help="options of llm4sbr serve")
    parser.add_argument("--endpoint", choices=["infer", "recommend"], default="infer")
    parser.add_argument("--seconds", type=float, default=10.0, help="per rate")
    parser.add_argument("--max-rate", type=float, default=6400.0, help="requests per second at most")
    parser.add_argument("--refine", type=int, default=3, help="rates tried between good and bad, per limit")
    parser.add_argument("--sustain", type=float, default=1000.0, help="rate of the long stretch; 0: none")
    parser.add_argument("--sustain-seconds", type=float, default=60.0)
    parser.add_argument("--sustain-sizes", type=sizes, default=[SIZES["100k"]])
    parser.add_argument("--artefacts", type=Path, help="keep the export folders here, and use them again")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the results here")
    return parser.parse_args(given)


def main() -> None:
    """Measure, write the JSON, print the table."""
    options = arguments()
    found = results(options, lambda text: print(text, file=sys.stderr, flush=True))
    print(serving_table(found))


if __name__ == "__main__":
    main()
