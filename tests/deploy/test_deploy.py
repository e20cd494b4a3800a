"""What lies in deploy/ and stands in its docs fits the server: options, ports, probes, metrics, versions."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from serve.app import create_app
from serve.repository import ModelSource
from serve.server import GRACE_SECONDS
from serve.settings import ServiceSettings
from understudy.cli import app as command

yaml = pytest.importorskip("yaml", reason="uvicorn[standard] brings it")

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
DOCS = {name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("deploy.md", "serving.md")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What the docs say of Docker, and every command has.
OTHERS = {"--cpuset-cpus", "--stop-timeout", "--help"}


@pytest.fixture(scope="module")
def manifests() -> dict[str, Any]:
    documents = yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text(encoding="utf-8"))
    return {document["kind"]: document for document in documents}


@pytest.fixture(scope="module")
def pod(manifests: dict[str, Any]) -> dict[str, Any]:
    return manifests["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def server() -> Any:
    """The application, which is not started."""
    return create_app(ServiceSettings(models=(ModelSource(Path("bundle")),)))


@pytest.fixture(scope="module")
def metrics(server: Any) -> dict[str, str]:
    """The type of each metric that the server gives, without the times at which counters began."""
    lines = server.state.service.metrics.render().decode().splitlines()
    types = dict(line.split()[2:4] for line in lines if line.startswith("# TYPE"))
    return {name: kind for name, kind in types.items() if not name.endswith("_created")}


def options_of(arguments: list[str]) -> dict[str, Any]:
    """What `understudy serve` reads from its arguments; fails where it would refuse them."""
    serve = typer.main.get_command(command).commands["serve"]  # type: ignore[attr-defined]
    assert arguments[0] == "serve"
    return serve.make_context("serve", list(arguments[1:])).params


def known_options() -> set[str]:
    serve = typer.main.get_command(command).commands["serve"]  # type: ignore[attr-defined]
    return {option for parameter in serve.params for option in parameter.opts}


def instruction(name: str) -> list[str]:
    """The last instruction of that name in its exec form."""
    return json.loads(re.findall(rf"^{name} (\[.*?\])$", DOCKERFILE, re.MULTILINE)[-1])


def yaml_blocks(doc: str) -> list[Any]:
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", DOCS[doc], re.DOTALL)]


def test_the_image_starts_the_server_where_it_is_looked_for() -> None:
    assert instruction("ENTRYPOINT") == list(PROJECT["scripts"]) == ["understudy"]
    options = options_of(instruction("CMD"))
    assert options["bundles"] == ["/bundle"]
    assert options["host"] == "0.0.0.0"
    assert f"\nEXPOSE {options['port']}\n" in DOCKERFILE
    assert f"http://127.0.0.1:{options['port']}/health/live" in DOCKERFILE


def test_the_image_is_not_roots() -> None:
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", DOCKERFILE, re.MULTILINE)


def test_the_context_has_every_package() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    taken = {line.removeprefix("!") for line in lines if line.startswith("!")}
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert {package.split(".")[0] for package in packages} <= taken
    assert {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]} <= taken


def test_the_pod_starts_the_server_on_the_port_that_service_and_probes_ask(
    manifests: dict[str, Any], pod: dict[str, Any], server: Any
) -> None:
    (container,) = pod["containers"]
    options = options_of(container["args"])
    (port,) = container["ports"]
    assert port["containerPort"] == options["port"]
    (of_service,) = manifests["Service"]["spec"]["ports"]
    assert of_service["targetPort"] == port["name"]
    routes = set(server.openapi()["paths"])
    for probe, path in (("startup", "live"), ("readiness", "ready"), ("liveness", "live")):
        asked = container[f"{probe}Probe"]["httpGet"]
        assert asked == {"path": f"/health/{path}", "port": port["name"]}
        assert asked["path"] in routes
    assert options["bundles"] == [mount["mountPath"] for mount in container["volumeMounts"]]


def test_the_pod_has_time_to_stop(pod: dict[str, Any]) -> None:
    drain = options_of(pod["containers"][0]["args"])["drain"]
    assert drain > 0
    assert pod["terminationGracePeriodSeconds"] >= drain + GRACE_SECONDS + 5  # and its model process


def test_the_pod_has_as_many_threads_as_its_cpu_limit(pod: dict[str, Any]) -> None:
    container = pod["containers"][0]
    assert str(options_of(container["args"])["threads"]) == container["resources"]["limits"]["cpu"]


def test_the_pod_has_few_rights(pod: dict[str, Any]) -> None:
    user = re.search(r"^USER (\d+)", DOCKERFILE, re.MULTILINE)
    assert user is not None
    assert pod["securityContext"]["runAsUser"] == int(user[1])
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_selectors_find_the_pods(manifests: dict[str, Any]) -> None:
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    monitor = next(block for block in yaml_blocks("deploy.md") if block.get("kind") == "PodMonitor")
    assert manifests["Service"]["spec"]["selector"] == labels
    for document in (manifests["Deployment"], manifests["PodDisruptionBudget"], monitor):
        assert document["spec"]["selector"]["matchLabels"] == labels


def test_the_autoscaler_and_the_adapter_go_by_a_metric_that_is_there(
    manifests: dict[str, Any], metrics: dict[str, str]
) -> None:
    (metric,) = manifests["HorizontalPodAutoscaler"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert metrics[name] == "gauge"
    (rule,) = next(block["rules"] for block in yaml_blocks("deploy.md") if "rules" in block)
    assert rule["name"]["as"] == name
    assert rule["seriesQuery"].startswith(f"{name}{{")


def test_the_table_of_metrics_is_the_servers(metrics: dict[str, str]) -> None:
    rows = re.findall(r"^\| `(understudy_\w+)` \| (\w+) \|", DOCS["serving.md"], re.MULTILINE)
    assert dict(rows) == metrics
    assert len(rows) == len(metrics)


def test_rules_ask_for_metrics_that_are_there_and_for_each_of_them(metrics: dict[str, str]) -> None:
    (rules,) = yaml_blocks("serving.md")
    asked = {
        name for rule in rules["groups"][0]["rules"] for name in re.findall(r"\bunderstudy_\w+", str(rule["expr"]))
    }
    parts = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    assert parts == set(metrics)


@pytest.mark.parametrize("doc", DOCS)
def test_options_in_the_docs_are_the_servers(doc: str) -> None:
    named = set(re.findall(r"`(--[a-z-]+)", DOCS[doc]))
    for line in re.findall(r"understudy(?:\S*) serve ([^`\n]*)", DOCS[doc]):
        named |= {word for word in shlex.split(line.split("#")[0], posix=False) if word.startswith("--")}
    assert named
    assert named - OTHERS <= known_options()


def test_versions_are_this_release() -> None:
    texts = (DOCKERFILE, DOCS["deploy.md"], (ROOT / "deploy/kubernetes.yaml").read_text(encoding="utf-8"))
    versions = {version for text in texts for version in re.findall(r"understudy:(\d[\w.]*\d)", text)}
    assert versions == {PROJECT["version"]}
