"""What each server is asked and where its label is read; ours stands in where it speaks the other's protocol."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from benchmarks.servers.contestants import NAMES, Contestant, make_contestants
from benchmarks.servers.run import check_labels
from common.errors import WorkFailedError
from serve.engine import Engine, Prediction
from tests.serve_app import app_of

TEXTS = ["Where is my order?", "I cannot log in", 'It came "broken",\nin two pieces']


@pytest.fixture
def contestants(tmp_path: Path) -> dict[str, Contestant]:
    bundles = {"fp32": tmp_path / "fp32", "int8": tmp_path / "int8"}
    made = make_contestants(tmp_path / "model", tmp_path / "plain", bundles, ["--threads", "1"])
    return {contestant.name: contestant for contestant in made}


class _App:
    """The application in this process, with the one method of a server process that the check needs."""

    def __init__(self, client: TestClient):
        self._client = client

    def post(self, path: str, body: object) -> Any:
        return self._client.post(path, json=body).json()


def labels_of(engine: Engine) -> list[str]:
    answers = engine.classify(TEXTS)
    return [answer.label for answer in answers if isinstance(answer, Prediction)]


def test_every_name_has_a_contestant(contestants: dict[str, Contestant]) -> None:
    assert tuple(contestants) == NAMES


@pytest.mark.parametrize("name", ["understudy-fp32", "understudy-int8"])
def test_our_shape_is_what_our_server_takes(name: str, contestants: dict[str, Contestant], bundle: Path) -> None:
    contestant, engine = contestants[name], Engine.load(bundle)
    with TestClient(app_of(bundle)) as client:
        assert client.get(contestant.ready_path).status_code == 200
        answers = [client.post(contestant.path, json=contestant.body(text)) for text in TEXTS]
    assert [answer.status_code for answer in answers] == [200] * len(TEXTS)
    assert [contestant.label(answer.json()) for answer in answers] == labels_of(engine)


def test_mlservers_shape_is_the_open_inference_protocols(contestants: dict[str, Contestant], bundle: Path) -> None:
    mlserver, engine = contestants["mlserver"], Engine.load(bundle)
    path = mlserver.path.replace("student", engine.name)
    with TestClient(app_of(bundle)) as client:
        assert client.get(mlserver.ready_path.replace("student", engine.name)).status_code == 200
        answers = [client.post(path, json=mlserver.body(text)) for text in TEXTS]
    assert [mlserver.label(answer.json()) for answer in answers] == labels_of(engine)


def test_labels_are_read_from_the_others_answers(contestants: dict[str, Contestant]) -> None:
    # As the servers gave them.
    plain = {"label": "1", "score": 0.9971729516983032}
    scores = [[{"score": 0.00282699940726161, "label": "0"}, {"score": 0.9971729516983032, "label": "1"}]]
    assert contestants["fastapi"].label(plain) == "1"
    assert contestants["litserve"].label(plain) == "1"
    assert contestants["infinity"].label({"object": "classify", "data": scores, "model": "student"}) == "1"


def test_mlserver_finds_its_settings(contestants: dict[str, Contestant], tmp_path: Path) -> None:
    command = contestants["mlserver"].command(4321, tmp_path)
    settings = json.loads((tmp_path / "settings.json").read_text())
    model = json.loads((tmp_path / "model-settings.json").read_text())
    assert command[1:] == ["start", tmp_path]
    assert (settings["http_port"], model["name"]) == (4321, "student")
    assert len({settings["http_port"], settings["grpc_port"], settings["metrics_port"]}) == 3


def test_more_options_reach_our_server(contestants: dict[str, Contestant], tmp_path: Path) -> None:
    assert contestants["understudy-fp32"].command(1, tmp_path)[-4:] == ["--port", 1, "--threads", "1"]


def test_what_pip_said_is_why_a_server_is_missing(contestants: dict[str, Contestant], tmp_path: Path) -> None:
    missing = replace(contestants["litserve"], python=tmp_path / "bin" / "python")
    with pytest.raises(WorkFailedError, match="litserve is not installed: run make servers"):
        missing.require_installed()
    (tmp_path / "pip.log").write_text("WARNING: slow\nERROR: No matching distribution found\n")
    with pytest.raises(WorkFailedError, match="litserve is not installed: ERROR: No matching distribution found"):
        missing.require_installed()


def test_versions_are_those_of_the_servers_own_interpreter(contestants: dict[str, Contestant]) -> None:
    ours = contestants["understudy-fp32"]
    assert ours.python == Path(sys.executable)
    assert list(ours.versions())[:2] == ["understudy", "onnxruntime"]


def test_wrong_labels_end_the_check(contestants: dict[str, Contestant], bundle: Path) -> None:
    ours, engine = contestants["understudy-fp32"], Engine.load(bundle)
    with TestClient(app_of(bundle)) as client:
        check_labels(ours, _App(client), engine, TEXTS)  # type: ignore[arg-type]
        with pytest.raises(WorkFailedError, match="the label nonsense, the engine"):
            check_labels(replace(ours, label=lambda _: "nonsense"), _App(client), engine, TEXTS)  # type: ignore[arg-type]
        with pytest.raises(WorkFailedError, match="no label is found"):
            check_labels(replace(ours, path="/nowhere"), _App(client), engine, TEXTS)  # type: ignore[arg-type]
