"""The files in deploy/: linted, valid by schema, and in agreement with the server that they start."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from llm4sbr.commands.serve import serve
from llm4sbr.serving.server.app import find_route
from llm4sbr.serving.server.metrics import Metrics

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
OPTIONS = {name: option for option in serve.params for name in option.opts}


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def pods() -> dict[str, dict[str, Any]]:
    """Pod specifications by file."""
    deployment = documents("kubernetes.yaml")[0]
    return {
        "kubernetes.yaml": deployment["spec"]["template"]["spec"],
        "kserve.yaml": {
            key: value
            for key, value in documents("kserve.yaml")[0]["spec"]["predictor"].items()
            if key != "minReplicas"
        },
    }


def dockerfile(instruction: str) -> list[str]:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^{instruction} (.*)$", text, re.MULTILINE)


def test_the_dockerfile_is_linted() -> None:
    command = [str(Path(sys.executable).with_name("hadolint")), str(DEPLOY / "Dockerfile")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_manifests_are_valid_by_schema() -> None:
    every = documents("kubernetes.yaml")
    assert [one["kind"] for one in every] == [
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
    ]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "llm4sbr"}, "spec": pods()["kserve.yaml"]}
    for one in (*every, pod):
        kubernetes_validate.validate(one, "1.37", strict=True)
    every[0]["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(every[0], "1.37", strict=True)


def test_every_option_is_one_of_the_server() -> None:
    entry = json.loads(dockerfile("ENTRYPOINT")[0])
    assert entry[:2] == ["llm4sbr", "serve"]
    for arguments in (entry[2:], *(pod["containers"][0]["args"] for pod in pods().values())):
        named = [one for one in arguments if one.startswith("--")]
        assert set(named) <= set(OPTIONS)
        for name, value in pairwise(arguments):
            if name in named:
                OPTIONS[name].type.convert(value, OPTIONS[name], None)
    service = documents("kubernetes.yaml")[1]
    port = OPTIONS["--port"].default
    assert dockerfile("EXPOSE") == [str(port)]
    ports = [pod["containers"][0]["ports"][0]["containerPort"] for pod in pods().values()]
    assert ports == [port, port]
    assert (
        service["spec"]["ports"][0]["targetPort"]
        == pods()["kubernetes.yaml"]["containers"][0]["ports"][0]["name"]
    )
    assert documents("compose.yaml")[0]["services"]["server"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert documents("prometheus.yaml")[0]["scrape_configs"][0]["static_configs"] == [
        {"targets": [f"server:{port}"]}
    ]


def test_probes_ask_for_routes() -> None:
    probes = [
        value["httpGet"]["path"]
        for pod in pods().values()
        for key, value in pod["containers"][0].items()
        if key.endswith("Probe")
    ]
    assert len(probes) == 4
    health = re.findall(r"http://127.0.0.1:8000(/[^']*)'", dockerfile("HEALTHCHECK")[0])
    assert {find_route(path)[0] for path in (*probes, *health)} == {"ready", "live"}


def test_there_is_time_to_drain() -> None:
    for name, pod in pods().items():
        container = pod["containers"][0]
        drain = int(container["args"][container["args"].index("--drain") + 1])
        wait = int(
            container.get("lifecycle", {"preStop": {"exec": {"command": ["", "0"]}}})["preStop"]["exec"][
                "command"
            ][1]
        )
        assert wait + drain < pod["terminationGracePeriodSeconds"], name
    grace = documents("compose.yaml")[0]["services"]["server"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > OPTIONS["--drain"].default


def test_nothing_runs_as_root_or_writes() -> None:
    assert dockerfile("USER") == ["10001:10001"]
    for pod in pods().values():
        rights = pod.get("securityContext", {}) | pod["containers"][0]["securityContext"]
        assert rights["runAsNonRoot"] is rights["readOnlyRootFilesystem"] is True
        assert rights["allowPrivilegeEscalation"] is False
        assert all(one["readOnly"] for one in pod["containers"][0]["volumeMounts"])
    server = documents("compose.yaml")[0]["services"]["server"]
    assert server["read_only"] is True
    assert server["volumes"][0].endswith(":ro")


def test_the_dashboard_shows_metrics_that_there_are() -> None:
    metrics = Metrics()
    metrics.of("llm4sbr").request("infer", 200, 0.001)
    metrics.of("llm4sbr").serves("1", "plain", lambda: 0)
    page = metrics.page().body.decode()
    there = set(re.findall(r"^(\w+)", page, re.MULTILINE))
    board = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
    sources = {one["uid"] for one in documents("grafana/provisioning.yaml")[0]["datasources"]}
    for panel in board["panels"]:
        assert panel["datasource"]["uid"] in sources
        for target in panel["targets"]:
            names = set(re.findall(r"\b(?:llm4sbr|process)_\w+", target["expr"]))
            assert names
            assert names <= there
    routes = re.findall(r'route=~"([^"]*)"', json.dumps(board).replace('\\"', '"'))
    assert {one for found in routes for one in found.split("|")} == {"infer", "recommend"}


def test_what_compose_mounts_is_there() -> None:
    for service in documents("compose.yaml")[0]["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source == "${MODEL" or (DEPLOY / source).is_file()


@pytest.mark.slow
def test_the_files_that_the_image_is_built_from_suffice(tmp_path: Path) -> None:
    """The wheel is built from what Dockerfile.dockerignore lets through, and has the command."""
    first, *allowed = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    assert first == "*"
    for name in allowed:
        source = ROOT / name.removeprefix("!")
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / source.name)
    build = shlex.split(f"{sys.executable} -m pip wheel -q --no-deps --no-build-isolation -w out .")
    subprocess.run(build, cwd=tmp_path, check=True)
    assert len(list(tmp_path.glob("out/llm4sbr-*.whl"))) == 1
