"""The HTTP routes over a real bundle: shapes, errors, and agreement with the engine."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from demo.messages import DEV
from serve.engine import Engine, Prediction
from serve.requests import ServiceLimits
from serve.scheduler import SchedulerSettings
from tests.conftest import INTENTS, messages
from tests.serve_app import app_of

TEXTS = [row["text"] for row in messages(DEV)[:12]]


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Engine:
    return Engine.load(bundle)


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[TestClient]:
    settings, limits = SchedulerSettings(max_queue_tokens=2000), ServiceLimits(200_000, 40)
    with TestClient(app_of(bundle, scheduler=settings, limits=limits)) as client:
        yield client


def _expected(engine: Engine, text: Any) -> Prediction:
    answer = engine.classify([text])[0]
    assert isinstance(answer, Prediction)
    return answer


def test_classify_answers_as_the_engine_does(client: TestClient, engine: Engine) -> None:
    inputs = [*TEXTS[:5], {"text": TEXTS[5]}, {"text": TEXTS[6], "text_pair": TEXTS[7]}]
    texts = [*TEXTS[:6], (TEXTS[6], TEXTS[7])]
    body = client.post("/v1/classify", json={"inputs": inputs}).json()
    assert body["model"] == "bundle"
    for output, text in zip(body["outputs"], texts, strict=True):
        wanted = _expected(engine, text)
        assert output["label"] == wanted.label
        assert output["score"] == pytest.approx(wanted.score, abs=1e-6)
        assert {entry["label"]: entry["score"] for entry in output["scores"]} == pytest.approx(
            dict(wanted.ranked()), abs=1e-6
        )
        assert (output["tokens"], output["truncated"], output["served_by"]) == (wanted.tokens, False, "bundle")


def test_options_of_classify(client: TestClient, engine: Engine) -> None:
    body = client.post("/v1/classify", json={"inputs": TEXTS[:1], "top_k": 2, "raw_scores": True}).json()
    scores = body["outputs"][0]["scores"]
    assert [(entry["label"], pytest.approx(entry["score"], abs=1e-5)) for entry in scores] == _expected(
        engine, TEXTS[0]
    ).ranked(2, raw=True)


def test_a_bad_item_has_its_own_error_in_a_200(client: TestClient) -> None:
    inputs = [TEXTS[0], "", 7, None, {"txt": "a"}, {"text": "a", "text_pair": 3}, "a\0", "x" * 100_001, TEXTS[1]]
    response = client.post("/v1/classify", json={"inputs": inputs})
    outputs = response.json()["outputs"]
    assert response.status_code == 200
    assert ["error" in output for output in outputs] == [False, *[True] * 7, False]
    assert {output["error"]["code"] for output in outputs[1:-1]} == {"invalid_text"}


def test_half_a_surrogate_is_an_item_error(client: TestClient) -> None:
    response = client.post("/v1/classify", content=b'{"inputs": ["\\ud800", "fine"]}')
    # The JSON parser refuses it for the whole body or the engine for the item; never a 500.
    assert response.status_code in (200, 400)


def test_truncation_is_on_by_default_and_reported(client: TestClient) -> None:
    long = "parcel " * 400
    output = client.post("/v1/classify", json={"inputs": [long]}).json()["outputs"][0]
    assert (output["truncated"], output["tokens"]) == (True, 128)
    refused = client.post("/v1/classify", json={"inputs": [long, "short"], "truncate": False}).json()["outputs"]
    assert "more than 128 tokens" in refused[0]["error"]["message"]
    assert "label" in refused[1]


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "malformed"),
        (b"", 400, "malformed"),
        (b"\xff\xfe", 400, "malformed"),
        (b"[]", 422, "invalid"),
        (b"{}", 422, "invalid"),
        (b'{"inputs": "text"}', 422, "invalid"),
        (b'{"inputs": []}', 422, "invalid"),
        (b'{"inputs": ["a"], "topk": 1}', 422, "invalid"),
        (b'{"inputs": ["a"], "top_k": 0}', 422, "invalid"),
        (b'{"inputs": ["a"], "truncate": "yes"}', 422, "invalid"),
        (b'{"inputs": [' + b'"a",' * 40 + b'"a"]}', 413, "too_large"),
        (b'{"inputs": ["' + b"a" * 200_000 + b'"]}', 413, "too_large"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_whole(
    client: TestClient, content: bytes, status: int, code: str
) -> None:
    response = client.post("/v1/classify", content=content)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_a_batch_that_could_never_fit_the_queue_is_413(client: TestClient) -> None:
    response = client.post("/v1/classify", json={"inputs": ["parcel " * 400] * 20})
    assert response.status_code == 413
    assert "the queue holds 2,000" in response.json()["error"]["message"]


def test_a_body_without_length_is_limited_too(client: TestClient) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(300):
            yield b" " * 1000

    assert client.post("/v1/classify", content=chunks()).status_code == 413


@pytest.mark.parametrize("path", ["/nowhere", "/v2/nowhere"])
def test_unknown_routes(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    error = response.json()["error"]
    assert "no route" in (error if path.startswith("/v2") else error["message"])


def test_a_wrong_verb_says_which_is_right(client: TestClient) -> None:
    response = client.get("/v1/classify")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json()["error"]["code"] == "invalid"


def test_model_tells_its_provenance(client: TestClient) -> None:
    body = client.get("/v1/model").json()
    assert body["labels"] == list(INTENTS)
    assert body["manifest"]["verification"]["same_labels"] is True
    assert set(body["manifest"]["files"]) >= {"model.onnx", "config.json"}


def test_health_and_metrics(client: TestClient) -> None:
    assert client.get("/health/live").status_code == 200
    assert client.get("/health/ready").json() == {"status": "ready"}
    client.post("/v1/classify", json={"inputs": [TEXTS[0], ""]})
    text = client.get("/metrics").text
    assert 'understudy_requests_total{route="/v1/classify",status="200"}' in text
    assert 'understudy_texts_total{model="bundle",outcome="failed"}' in text
    assert "understudy_queue_items 0.0" in text


def test_health_before_start_and_after_stop(bundle: Path) -> None:
    app = app_of(bundle)
    client = TestClient(app)
    assert client.get("/health/ready").status_code == 503
    assert client.get("/v2/health/ready").status_code == 503
    response = client.post("/v1/classify", json={"inputs": ["a"]})
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json()["error"]["code"] == "not_ready"


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    response = client.get("/")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "http://" not in response.text.replace("http://www.w3.org", "")
    assert "https://" not in response.text


def test_the_docs_load_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs").text
    assert re.findall(r'(?:src|href)="(http[^"]*)"', page.replace("http://testserver", "")) == []
    assert client.get("/swagger/swagger-ui-bundle.js").status_code == 200
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/classify", "/predict", "/v2/models/{name}/infer", "/health/ready", "/metrics"} <= set(paths)


# Text Embeddings Inference


def test_predict_one_text_a_pair_and_a_batch(client: TestClient, engine: Engine) -> None:
    def ranked(text: Any) -> list[dict[str, Any]]:
        return [
            {"label": label, "score": pytest.approx(score, abs=1e-6)}
            for label, score in _expected(engine, text).ranked()
        ]

    assert client.post("/predict", json={"inputs": TEXTS[0]}).json() == ranked(TEXTS[0])
    # A flat list of two is a pair there, not a batch.
    assert client.post("/predict", json={"inputs": TEXTS[:2]}).json() == ranked((TEXTS[0], TEXTS[1]))
    batch = client.post("/predict", json={"inputs": [[TEXTS[0]], [TEXTS[1], TEXTS[2]]]}).json()
    assert batch == [ranked(TEXTS[0]), ranked((TEXTS[1], TEXTS[2]))]


def test_predict_options_and_truncation(client: TestClient, engine: Engine) -> None:
    raw = client.post("/predict", json={"inputs": TEXTS[0], "raw_scores": True}).json()
    assert raw[0]["score"] == pytest.approx(float(_expected(engine, TEXTS[0]).logits.max()), abs=1e-5)
    long = "parcel " * 400
    assert client.post("/predict", json={"inputs": [[long], ["a"]]}).headers["x-truncated-inputs"] == "1"
    refused = client.post("/predict", json={"inputs": long, "truncate": False})
    assert (refused.status_code, refused.json()["error_type"]) == (422, "Validation")


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"inputs": 3},
        {"inputs": [["a", "b", "c"]]},
        {"inputs": ["a", "b", "c"]},
        {"inputs": [["a"], "b"]},
        {"inputs": []},
        {"inputs": [[""]]},
        {"inputs": "a", "raw_scores": 1},
    ],
)
def test_predict_fails_whole(client: TestClient, body: Any) -> None:
    response = client.post("/predict", json=body)
    assert response.status_code == 422
    assert set(response.json()) == {"error", "error_type"}


# Open Inference Protocol


def _tensor(name: str, data: list[str]) -> dict[str, Any]:
    return {"name": name, "shape": [len(data)], "datatype": "BYTES", "data": data}


def test_infer(client: TestClient, engine: Engine) -> None:
    body = client.post("/v2/models/bundle/infer", json={"id": "7", "inputs": [_tensor("text", TEXTS[:3])]}).json()
    outputs = {output["name"]: output for output in body["outputs"]}
    wanted = [_expected(engine, text) for text in TEXTS[:3]]
    assert (body["id"], body["model_name"]) == ("7", "bundle")
    assert outputs["label"]["data"] == [answer.label for answer in wanted]
    assert outputs["scores"]["shape"] == [3, 3]
    assert outputs["scores"]["data"] == pytest.approx([float(s) for answer in wanted for s in answer.scores], abs=1e-6)
    assert outputs["truncated"]["data"] == [False, False, False]


def test_infer_pairs_versions_and_chosen_outputs(client: TestClient, engine: Engine) -> None:
    version = client.get("/v2/models/bundle").json()["versions"][0]
    body = {"inputs": [_tensor("text", TEXTS[:2]), _tensor("text_pair", TEXTS[2:4])], "outputs": [{"name": "label"}]}
    response = client.post(f"/v2/models/bundle/versions/{version}/infer", json=body).json()
    assert [output["name"] for output in response["outputs"]] == ["label"]
    assert response["outputs"][0]["data"] == [
        _expected(engine, pair).label for pair in zip(TEXTS[:2], TEXTS[2:4], strict=True)
    ]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"inputs": []},
        {"inputs": [_tensor("other", ["a"])]},
        {"inputs": [{**_tensor("text", ["a"]), "datatype": "FP32"}]},
        {"inputs": [{**_tensor("text", ["a"]), "shape": [2]}]},
        {"inputs": [_tensor("text", ["a", "b"]), _tensor("text_pair", ["c"])]},
        {"inputs": [_tensor("text", ["a", ""])]},
        {"inputs": [_tensor("text", ["a"])], "outputs": [{"name": "nothing"}]},
        {"inputs": [_tensor("text", ["a"])], "outputs": [{"name": ["label"]}]},
        {"inputs": [_tensor("text", ["a"])], "outputs": {"name": "label"}},
        {"inputs": [_tensor("text", ["a"]), _tensor("text", ["b"])]},
        {"inputs": [{**_tensor("text", ["a"]), "shape": [True]}]},
        {"inputs": [_tensor("text", ["a"])], "parameters": {"truncate": 1}},
        {"inputs": [_tensor("text", ["a"])], "id": 3},
    ],
)
def test_infer_fails_whole(client: TestClient, body: Any) -> None:
    response = client.post("/v2/models/bundle/infer", json=body)
    assert response.status_code == 422
    assert list(response.json()) == ["error"]


def test_protocol_metadata(client: TestClient) -> None:
    assert client.get("/v2").json()["name"] == "understudy"
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/models/bundle/ready").json() == {"name": "bundle", "ready": True}
    assert client.get("/v2/models/other").status_code == 404
    assert client.post("/v2/models/bundle/versions/1/infer", json={}).status_code == 404


# Other heads


def test_multi_label_and_regression_over_http(multi_label_bundle: Path, regression_bundle: Path) -> None:
    for path in (multi_label_bundle, regression_bundle):
        engine = Engine.load(path)
        with TestClient(app_of(path)) as client:
            output = client.post("/v1/classify", json={"inputs": TEXTS[:1]}).json()["outputs"][0]
        wanted = _expected(engine, TEXTS[0])
        assert output["score"] == pytest.approx(wanted.score, abs=1e-6)
        assert output.get("labels") == (wanted.chosen if path is multi_label_bundle else None)


# Long texts


def test_two_long_texts_as_a_pair_cost_little(client: TestClient) -> None:
    """The tokenizer keeps every combination of the pieces it cuts off, unless it never sees them."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    long = "parcel " * 13_000
    output = client.post("/v1/classify", json={"inputs": [{"text": long, "text_pair": long}]}).json()["outputs"][0]
    assert (output["truncated"], output["tokens"]) == (True, 128)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_more_text_than_the_tokenizer_should_hold_is_429(bundle: Path) -> None:
    limits = ServiceLimits(waiting_characters=10_000)
    with TestClient(app_of(bundle, limits=limits)) as client:
        service = client.app.state.service  # type: ignore[attr-defined]
        service.tokenizing._characters = 9_000
        response = client.post("/v1/classify", json={"inputs": ["a " * 2_000]})
        assert (response.status_code, response.json()["error"]["code"]) == (429, "overloaded")
        assert client.post("/v1/classify", json={"inputs": ["short"]}).status_code == 200
