"""Bundles that take another's place: by the admin's call, by SIGHUP, by what lies in the directory; never in part."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from common.errors import InputError
from demo.messages import DEV
from export.bundle import Bundle
from serve.access import AccessSettings
from serve.cascade import CascadeSettings
from serve.engine import Engine, Prediction
from serve.repository import ModelSource
from serve.scheduler import Scheduler
from serve.shadow import ShadowSettings
from tests.conftest import messages
from tests.serve_app import app_of
from tests.serve_process import ServerProcess, wait_until

TEXTS = [row["text"] for row in messages(DEV)[:12]]
ADMIN = "key-of-the-admin-0001"
HEADERS = {"Authorization": f"Bearer {ADMIN}"}


@pytest.fixture
def place(student_bundle: Path, tmp_path: Path) -> Path:
    """A link to a bundle, as a deployment has it, so that another can take its place at once."""
    link = tmp_path / "current"
    link.symlink_to(student_bundle)
    return link


def _point(link: Path, bundle: Path) -> None:
    fresh = link.with_name("fresh")
    fresh.symlink_to(bundle)
    fresh.replace(link)


def _version(bundle: Path) -> str:
    return Bundle.load(bundle).manifest.version


def _load(client: TestClient, name: str, **parameters: Any) -> httpx.Response:
    return client.post(f"/v2/repository/models/{name}/load", json={"parameters": parameters}, headers=HEADERS)


@pytest.fixture
def client(place: Path) -> Iterator[TestClient]:
    with TestClient(app_of(place, access=AccessSettings(admin_keys=(ADMIN,)))) as client:
        yield client


def test_an_admins_call_swaps_the_bundle(client: TestClient, student_bundle: Path, teacher_bundle: Path) -> None:
    service: Any = client.app.state.service  # type: ignore[attr-defined]
    assert _load(client, "bundle").json() == {"name": "bundle", "version": _version(student_bundle)}
    first = service.default
    assert _load(client, "bundle", bundle=str(teacher_bundle)).json()["version"] == _version(teacher_bundle)
    assert client.get("/v1/model").json()["version"] == _version(teacher_bundle)
    labels = [output["label"] for output in client.post("/v1/classify", json={"inputs": TEXTS}).json()["outputs"]]
    assert labels == [answer.label for answer in Engine.load(teacher_bundle).classify(TEXTS)]  # type: ignore[union-attr]
    # The old one is closed once nobody works with it.
    assert first.loaded.number not in service.process._models
    assert 'understudy_reloads_total{outcome="loaded"} 1.0' in client.get("/metrics").text


def test_a_bad_bundle_leaves_the_old_one_serving_and_says_so(
    client: TestClient, student_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(student_bundle, damaged)
    (damaged / "model.onnx").write_bytes((damaged / "model.onnx").read_bytes()[:-7])
    for wrong, reason in (
        (damaged, "it was changed"),
        (tmp_path / "absent", "no such bundle"),
        (tmp_path, "no bundle"),
    ):
        refused = _load(client, "bundle", bundle=str(wrong))
        assert refused.status_code == 422
        assert reason in refused.json()["error"]
    assert client.get("/v1/model").json()["version"] == _version(student_bundle)
    assert client.post("/v1/classify", json={"inputs": TEXTS}).status_code == 200
    assert "goes on as it was" in caplog.text
    assert 'understudy_reloads_total{outcome="refused"} 3.0' in client.get("/metrics").text


def test_several_models_by_name_and_version(student_bundle: Path, teacher_bundle: Path) -> None:
    versions = [_version(student_bundle), _version(teacher_bundle)]
    sources = (
        ModelSource(student_bundle, "one"),
        ModelSource(teacher_bundle, "one"),
        ModelSource(student_bundle, "two"),
    )
    with TestClient(app_of(*sources, access=AccessSettings(admin_keys=(ADMIN,)))) as client:
        assert client.post("/v2/repository/index").json() == [
            {"name": name, "version": version, "state": "READY", "reason": ""}
            for name, version in (("one", versions[0]), ("one", versions[1]), ("two", versions[0]))
        ]
        assert client.get("/v2/models/one").json()["versions"] == versions
        # The first name answers where none is named; of several versions of a name the last.
        assert client.get("/v1/model").json()["version"] == versions[1]
        assert client.get("/v1/model", params={"name": "one"}).json()["version"] == versions[1]
        both = {}
        for version, bundle in zip(versions, (student_bundle, teacher_bundle), strict=True):
            body = {"inputs": TEXTS, "model": "one", "version": version}
            both[version] = [output["label"] for output in client.post("/v1/classify", json=body).json()["outputs"]]
            assert both[version] == [answer.label for answer in Engine.load(bundle).classify(TEXTS)]  # type: ignore[union-attr]
        assert both[versions[0]] != both[versions[1]]
        for wrong in ({"model": "three"}, {"model": "one", "version": "0"}):
            assert client.post("/v1/classify", json={"inputs": TEXTS, **wrong}).status_code == 404
        assert _load(client, "three").status_code == 404
        assert _load(client, "a b", bundle=str(teacher_bundle)).status_code == 422
        assert _load(client, "three", bundle=str(teacher_bundle)).json()["name"] == "three"
        shown = client.get("/metrics").text
        assert 'understudy_reloads_total{outcome="loaded"} 1.0' in shown
        assert client.post("/v1/classify", json={"inputs": TEXTS, "model": "three"}).status_code == 200


def test_a_new_model_that_will_not_do_is_logged_and_counted(
    client: TestClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert _load(client, "new", bundle=str(tmp_path)).status_code == 422
    assert "new was not loaded: " in caplog.text
    assert 'understudy_reloads_total{outcome="refused"} 1.0' in client.get("/metrics").text


def test_a_new_model_is_not_called_unchanged_by_the_watch(
    place: Path, teacher_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with TestClient(app_of(place, watch=0.05, access=AccessSettings(admin_keys=(ADMIN,)))) as client:
        assert _load(client, "new", bundle=str(teacher_bundle)).status_code == 200
        time.sleep(0.5)
        assert _load(client, "new").status_code == 200
    assert caplog.text.count("new is unchanged and goes on as it was") == 1, "by the second call, which asks"


def test_names_of_models(tmp_path: Path) -> None:
    assert ModelSource.parse("a/b") == ModelSource(Path("a/b"))
    assert ModelSource.parse("intents=a/b") == ModelSource(Path("a/b"), "intents")
    (tmp_path / "a=b").mkdir()
    assert ModelSource.parse(str(tmp_path / "a=b")).name is None
    with pytest.raises(InputError, match="is no name for a model"):
        ModelSource.parse("in/tents=a")


def test_student_and_teacher_go_on_answering_the_same_question(
    student_bundle: Path, teacher_bundle: Path, regression_bundle: Path
) -> None:
    options: dict[str, Any] = {
        "access": AccessSettings(admin_keys=(ADMIN,)),
        "cascade": CascadeSettings(1.0, budget=1),
        "shadow": ShadowSettings(1.0),
    }
    with TestClient(app_of(student_bundle, teacher=teacher_bundle, **options)) as client:
        client.post("/v1/classify", json={"inputs": TEXTS})
        assert client.get("/v1/agreement").json()["compared"] == len(TEXTS)
        for name in ("bundle", "teacher"):
            refused = _load(client, name, bundle=str(regression_bundle))
            assert (refused.status_code, "different labels" in refused.json()["error"]) == (422, True)
        # What was known of the pair is out of date with a new teacher, and the new one answers.
        assert _load(client, "teacher", bundle=str(student_bundle)).status_code == 200
        assert client.get("/v1/agreement").json()["compared"] == 0
        outputs = client.post("/v1/classify", json={"inputs": TEXTS}).json()["outputs"]
        assert {output["served_by"] for output in outputs} == {"teacher"}
        assert [output["label"] for output in outputs] == [
            answer.label
            for answer in Engine.load(student_bundle).classify(TEXTS)  # type: ignore[union-attr]
        ]


def test_under_load_no_request_fails_and_each_answer_is_of_one_model(
    place: Path, student_bundle: Path, teacher_bundle: Path
) -> None:
    wanted = {}
    for bundle in (student_bundle, teacher_bundle):
        answers = Engine.load(bundle).classify(TEXTS)
        wanted[bundle] = {
            text: (answer.label, round(answer.score, 4)) for text, answer in zip(TEXTS, answers, strict=True)
            if isinstance(answer, Prediction)
        }  # fmt: skip
    wrong: list[str] = []
    seen: set[Path] = set()
    done = threading.Event()

    def call(url: str) -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            while not done.is_set():
                for text in TEXTS:
                    response = client.post("/v1/classify", json={"inputs": [text]})
                    if response.status_code != 200:
                        wrong.append(response.text)
                        continue
                    output = response.json()["outputs"][0]
                    got = output["label"], round(output["score"], 4)
                    of = [bundle for bundle, answers in wanted.items() if answers[text] == got]
                    seen.update(of)
                    if not of:
                        wrong.append(f"{text}: {got}")

    with ServerProcess(place) as server:
        threads = [threading.Thread(target=call, args=(server.url,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for bundle in (teacher_bundle, student_bundle, teacher_bundle):
            _point(place, bundle)
            os.kill(server.process.pid, signal.SIGHUP)
            wait_until(lambda: httpx.get(f"{server.url}/v1/model").json()["version"] == _version(bundle))  # noqa: B023
        done.set()
        for thread in threads:
            thread.join()
        code, _, err = server.stop(signal.SIGTERM)
    assert wrong == []
    assert seen == {student_bundle, teacher_bundle}
    assert (code, err.count("now serves version")) == (0, 3)


def test_a_watched_directory_is_tried_until_it_holds_a_whole_bundle(
    place: Path, teacher_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    half = tmp_path / "half"
    shutil.copytree(teacher_bundle, half)
    (half / "model.onnx").rename(tmp_path / "later")
    with TestClient(app_of(place, watch=0.05)) as client:
        _point(place, half)
        wait_until(lambda: "goes on as it was" in caplog.text)
        assert client.post("/v1/classify", json={"inputs": TEXTS}).status_code == 200
        (tmp_path / "later").rename(half / "model.onnx")
        wait_until(lambda: client.get("/v1/model").json()["version"] == _version(teacher_bundle))
    assert caplog.text.count("goes on as it was") == 1


def test_a_bundle_that_is_replaced_while_the_server_starts_is_news(
    place: Path, teacher_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Scheduler.start

    def replaced_meanwhile(scheduler: Scheduler) -> None:
        _point(place, teacher_bundle)
        start(scheduler)

    monkeypatch.setattr(Scheduler, "start", replaced_meanwhile)
    with TestClient(app_of(place, watch=0.05)) as client:
        wait_until(lambda: client.get("/v1/model").json()["version"] == _version(teacher_bundle))


def test_two_models_of_one_directory_are_both_reloaded(place: Path, teacher_bundle: Path) -> None:
    with TestClient(app_of(ModelSource(place, "one"), ModelSource(place, "two"), watch=0.05)) as client:
        _point(place, teacher_bundle)
        wait_until(
            lambda: (
                {each["version"] for each in client.get("/v1/models").json()["models"]} == {_version(teacher_bundle)}
            )
        )


def test_loads_at_once_of_one_name_all_end_well(client: TestClient, student_bundle: Path, teacher_bundle: Path) -> None:
    with ThreadPoolExecutor(3) as callers:
        bundles = [teacher_bundle, student_bundle, teacher_bundle]
        answers = list(callers.map(lambda bundle: _load(client, "bundle", bundle=str(bundle)), bundles))
    assert [answer.status_code for answer in answers] == [200] * 3
    assert client.get("/v1/model").json()["version"] in {answer.json()["version"] for answer in answers}


def test_a_worker_that_cannot_open_its_model_again_is_not_called_ready(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    process: Any = client.app.state.service.process  # type: ignore[attr-defined]
    usual, broken = process._open, True

    async def fails(model: Any) -> None:
        if broken:
            raise InputError("out of memory, as it would be told")
        await usual(model)

    monkeypatch.setattr(process, "_open", fails)
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: "could not be started anew" in caplog.text)
    assert client.get("/health/ready").status_code == 503
    assert client.post("/v1/classify", json={"inputs": TEXTS}).status_code == 503
    wait_until(lambda: client.get("/health/live").status_code == 503)
    broken = False
    wait_until(lambda: client.get("/health/ready").status_code == 200)
    assert client.get("/health/live").status_code == 200
    assert client.post("/v1/classify", json={"inputs": TEXTS}).status_code == 200


def test_a_fit_does_not_wait_for_what_waits_for_it(place: Path, teacher_bundle: Path, tmp_path: Path) -> None:
    dev = tmp_path / "dev.tsv"
    dev.write_text("text\n" + "".join(f"{text}\n" for text in TEXTS))
    cascade = CascadeSettings(target_agreement=1.0, dev=str(dev), budget=1)
    with TestClient(app_of(place, teacher=teacher_bundle, cascade=cascade)) as client:
        service: Any = client.app.state.service  # type: ignore[attr-defined]
        _point(place, teacher_bundle)
        os.kill(service.process.pid, signal.SIGKILL)
        wait_until(lambda: client.get("/health/ready").status_code == 503)
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        # The student is the teacher now, so that nothing needs to be escalated.
        wait_until(lambda: client.get("/v1/model").json()["cascade"]["fit"]["escalated"] == 0)


def test_a_lost_worker_comes_back_with_the_bundle_that_is_there(place: Path, teacher_bundle: Path) -> None:
    with TestClient(app_of(place)) as client:
        process: Any = client.app.state.service.process  # type: ignore[attr-defined]
        _point(place, teacher_bundle)
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: client.get("/health/ready").status_code == 503)
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        assert client.get("/v1/model").json()["version"] == _version(teacher_bundle)
        assert len(process._models) == 1  # what is gone is not waited for at the next loss
        outputs = client.post("/v1/classify", json={"inputs": TEXTS}).json()["outputs"]
        assert [output["label"] for output in outputs] == [
            answer.label
            for answer in Engine.load(teacher_bundle).classify(TEXTS)  # type: ignore[union-attr]
        ]
