"""Student and teacher in one server: second opinions, shadow traffic, abstention, against both engines."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from common.errors import InputError, NotReadyError
from common.examples import BY_USUAL_NAMES, Columns, read_examples
from demo.messages import DEV
from serve.cascade import CascadeSettings, confidence
from serve.engine import Engine, Prediction
from serve.repository import ModelSource
from serve.settings import ServiceSettings
from serve.shadow import ShadowSettings
from tests.conftest import messages
from tests.serve_app import app_of
from tests.serve_process import wait_until

TEXTS = [row["text"] for row in messages(DEV)[:40]]


@pytest.fixture(scope="module")
def student(student_bundle: Path) -> list[Prediction]:
    return _predictions(student_bundle)


@pytest.fixture(scope="module")
def teacher(teacher_bundle: Path) -> list[Prediction]:
    return _predictions(teacher_bundle)


@pytest.fixture(scope="module")
def median(student: list[Prediction]) -> float:
    """A confidence below which half of the texts lie."""
    return sorted(map(confidence, student))[len(student) // 2]


def _predictions(path: Path) -> list[Prediction]:
    answers = Engine.load(path).classify(TEXTS)
    assert all(isinstance(answer, Prediction) for answer in answers)
    return answers  # type: ignore[return-value]


def _ask(client: TestClient, **options: Any) -> list[dict[str, Any]]:
    response = client.post("/v1/classify", json={"inputs": TEXTS, **options})
    assert response.status_code == 200, response.text
    outputs: list[dict[str, Any]] = response.json()["outputs"]
    return outputs


def _metric(client: TestClient, name: str) -> float:
    line = next(line for line in client.get("/metrics").text.splitlines() if line.startswith(f"understudy_{name} "))
    return float(line.split()[-1])


def test_the_teacher_answers_just_what_the_student_is_unsure_of(
    student_bundle: Path, teacher_bundle: Path, student: list[Prediction], teacher: list[Prediction], median: float
) -> None:
    cascade = CascadeSettings(escalate_below=median, budget=1)
    with TestClient(app_of(student_bundle, teacher=teacher_bundle, cascade=cascade)) as client:
        outputs = _ask(client)
        for output, own, other in zip(outputs, student, teacher, strict=True):
            escalated = confidence(own) < median
            wanted = other if escalated else own
            assert output["served_by"] == ("teacher" if escalated else "bundle")
            assert output["label"] == wanted.label
            assert {entry["label"]: entry["score"] for entry in output["scores"]} == pytest.approx(
                dict(wanted.ranked()), abs=1e-6
            )
        asked = sum(output["served_by"] == "teacher" for output in outputs)
        assert 0 < asked < len(TEXTS)
        assert _metric(client, 'escalations_total{outcome="answered"}') == asked
        # The other protocols give the same answers, in the order of the model that was asked.
        tensor = {"name": "text", "shape": [len(TEXTS)], "datatype": "BYTES", "data": TEXTS}
        body = client.post("/v2/models/bundle/infer", json={"inputs": [tensor]}).json()
        columns = {column["name"]: column for column in body["outputs"]}
        assert columns["label"]["data"] == [output["label"] for output in outputs]
        assert columns["served_by"]["data"] == [output["served_by"] for output in outputs]
        labels = columns["scores"]["parameters"]["labels"]
        by_label = [
            {entry["label"]: entry["score"] for entry in output["scores"]}[label]
            for output in outputs
            for label in labels
        ]
        assert columns["scores"]["data"] == pytest.approx(by_label, abs=1e-6)
        # Asked by name, or told so, each speaks for itself.
        assert {output["served_by"] for output in _ask(client, escalate=False)} == {"bundle"}
        assert [output["label"] for output in _ask(client, model="teacher")] == [answer.label for answer in teacher]


def test_the_budget_is_kept_and_goes_to_the_least_sure(
    student_bundle: Path, teacher_bundle: Path, student: list[Prediction]
) -> None:
    cascade = CascadeSettings(escalate_below=1.0, budget=0.25)
    with TestClient(app_of(student_bundle, teacher=teacher_bundle, cascade=cascade)) as client:
        first, second = _ask(client), _ask(client)
    asked = [[row for row, output in enumerate(one) if output["served_by"] == "teacher"] for one in (first, second)]
    assert len(asked[1]) == 10  # a quarter of 40; the first request has a small credit beside it
    least = sorted(range(len(student)), key=lambda row: confidence(student[row]))
    assert set(asked[1]) == set(least[:10])


def test_without_the_teacher_the_student_has_answered_already(
    student_bundle: Path, teacher_bundle: Path, student: list[Prediction]
) -> None:
    cascade = CascadeSettings(escalate_below=1.0, budget=1)
    with TestClient(app_of(student_bundle, teacher=teacher_bundle, cascade=cascade)) as client:
        service: Any = client.app.state.service  # type: ignore[attr-defined]
        run = service.process.run

        async def only_the_student(model: Any, batch: Any) -> Any:
            if model is service.teacher.model.loaded:
                raise NotReadyError("the worker was lost")
            return await run(model, batch)

        service.process.run = only_the_student
        outputs = _ask(client)
        assert [output["label"] for output in outputs] == [answer.label for answer in student]
        assert {output["served_by"] for output in outputs} == {"bundle"}
        assert _metric(client, 'escalations_total{outcome="failed"}') == len(TEXTS)


@pytest.mark.parametrize("column", [None, "utterance"])
def test_a_target_is_fitted_on_dev_texts(
    column: str | None,
    student_bundle: Path,
    teacher_bundle: Path,
    student: list[Prediction],
    teacher: list[Prediction],
    tmp_path: Path,
) -> None:
    dev = tmp_path / "dev.jsonl"
    dev.write_text("".join(json.dumps({column or "text": text}) + "\n" for text in TEXTS))
    cascade = CascadeSettings(target_agreement=1.0, dev=str(dev), budget=1, columns=Columns(column))
    with TestClient(app_of(student_bundle, teacher=teacher_bundle, cascade=cascade)) as client:
        told = client.get("/v1/model").json()["cascade"]
        assert [output["label"] for output in _ask(client)] == [answer.label for answer in teacher]
    agree = [own.label == other.label for own, other in zip(student, teacher, strict=True)]
    assert told["fit"]["texts"] == len(TEXTS)
    assert told["fit"]["student_agreement"] == pytest.approx(sum(agree) / len(agree))
    assert told["fit"]["agreement"] == 1.0
    assert told["escalate_below"] == told["fit"]["threshold"]


def test_shadow_traffic_is_compared_off_the_response(
    student_bundle: Path, teacher_bundle: Path, student: list[Prediction], teacher: list[Prediction], tmp_path: Path
) -> None:
    log = tmp_path / "disagreements.jsonl"
    shadow = ShadowSettings(share=1.0, load=1.0, disagreements=log)
    with TestClient(app_of(student_bundle, teacher=teacher_bundle, shadow=shadow)) as client:
        assert {output["served_by"] for output in _ask(client)} == {"bundle"}
        wait_until(lambda: client.get("/v1/agreement").json()["compared"] == len(TEXTS))
        told = client.get("/v1/agreement").json()
        agree = [own.label == other.label for own, other in zip(student, teacher, strict=True)]
        assert 0 < sum(agree) < len(agree)
        assert told["agreement"] == pytest.approx(sum(agree) / len(agree))
        assert (told["student"], told["teacher"]) == ("bundle", "teacher")
        assert _metric(client, 'shadow_texts_total{outcome="agreed"}') == sum(agree)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    wanted = {
        text: pair
        for text, pair, same in zip(TEXTS, zip(student, teacher, strict=True), agree, strict=True)
        if not same
    }
    assert {line["text"] for line in lines} == set(wanted)
    for line in lines:
        own, other = wanted[line["text"]]
        assert (line["student"]["label"], line["teacher"]["label"]) == (own.label, other.label)
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    # What `distill --unlabelled` reads.
    assert set(read_examples(str(log), BY_USUAL_NAMES, need_label=False).texts) == set(wanted)


def test_shadow_traffic_takes_what_the_cascade_has_asked_already(student_bundle: Path, teacher_bundle: Path) -> None:
    app = app_of(
        student_bundle, teacher=teacher_bundle, cascade=CascadeSettings(1.0, budget=1), shadow=ShadowSettings(1.0)
    )
    with TestClient(app) as client:
        _ask(client)
        assert client.get("/v1/agreement").json()["compared"] == len(TEXTS)
        assert _metric(client, 'batch_items_sum{model="teacher"}') == len(TEXTS)


def test_shadow_traffic_keeps_to_its_load_and_drops_the_rest(student_bundle: Path, teacher_bundle: Path) -> None:
    shadow = ShadowSettings(share=1.0, load=1e-9)
    with TestClient(app_of(student_bundle, teacher=teacher_bundle, shadow=shadow)) as client:
        for _ in range(10):
            _ask(client)
        wait_until(lambda: client.get("/v1/agreement").json()["compared"] > 0)
        time.sleep(0.2)
        assert client.get("/v1/agreement").json()["compared"] <= 8  # the first batch, and then a long rest
        assert _metric(client, 'shadow_texts_total{outcome="dropped"}') >= 10 * len(TEXTS) - 256 - 8


def test_an_unsure_answer_has_no_label(student_bundle: Path, student: list[Prediction], median: float) -> None:
    with TestClient(app_of(student_bundle, abstain_below=median)) as client:
        outputs = _ask(client)
        scores = client.post("/predict", json={"inputs": [[text] for text in TEXTS]})
        tensor = {"name": "text", "shape": [len(TEXTS)], "datatype": "BYTES", "data": TEXTS}
        columns = {
            column["name"]: column["data"]
            for column in client.post("/v2/models/bundle/infer", json={"inputs": [tensor]}).json()["outputs"]
        }
        told = client.get("/v1/model").json()["abstain_below"]
    unsure = [confidence(own) < median for own in student]
    assert [output["label"] is None for output in outputs] == unsure
    assert [output["score"] for output in outputs] == pytest.approx([own.score for own in student], abs=1e-6)
    assert scores.headers["x-abstained-inputs"] == str(sum(unsure))
    assert columns["abstained"] == unsure
    assert [label == "" for label in columns["label"]] == unsure
    assert told == median


def test_a_teacher_of_other_labels_does_not_start(student_bundle: Path, regression_bundle: Path) -> None:
    with (
        pytest.raises(InputError, match="different labels"),
        TestClient(app_of(student_bundle, teacher=regression_bundle)),
    ):
        pass


def test_a_teacher_of_the_same_name_does_not_start(student_bundle: Path, teacher_bundle: Path) -> None:
    app = app_of(student_bundle, teacher=ModelSource(teacher_bundle))
    with pytest.raises(InputError, match="both called 'bundle'"), TestClient(app):
        pass


def test_a_full_disk_tells_nobody_the_texts(
    student_bundle: Path, teacher_bundle: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    shadow = ShadowSettings(share=1.0, load=1.0, disagreements=Path("/dev/full"))
    with TestClient(app_of(student_bundle, teacher=teacher_bundle, shadow=shadow)) as client:
        _ask(client)
        wait_until(lambda: client.get("/v1/agreement").json()["compared"] == len(TEXTS))
    assert caplog.text.count("cannot be written to /dev/full") == 1
    told = caplog.text + capfd.readouterr().err
    assert not any(text in told for text in TEXTS)


def test_settings_that_need_a_teacher(bundle: Path) -> None:
    for wrong in ({"cascade": CascadeSettings(0.5)}, {"shadow": ShadowSettings(0.5)}, {"abstain_below": 2.0}):
        with pytest.raises(InputError):
            ServiceSettings((ModelSource(bundle),), **wrong)  # type: ignore[arg-type]
    for wrong in ({"share": 2}, {"share": 0.5, "load": 0}, {"load": 0.5}, {"disagreements": Path("x")}):
        with pytest.raises(InputError):
            ShadowSettings(**wrong)  # type: ignore[arg-type]
    assert ShadowSettings(share=0.5).largest_load == 0.1
    assert ShadowSettings(share=0.5, load=1).largest_load == 1
