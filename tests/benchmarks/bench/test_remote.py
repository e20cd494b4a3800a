"""Servers of three dialects are asked as they want it, read alike, and their failures counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special

from benchmarks.bench import remote
from benchmarks.bench.remote import RemoteError, RemoteModel, RemoteSource
from benchmarks.bench.report.schema import Model
from common.errors import InputError
from common.labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task
from serve.engine import Engine, Prediction
from tests.benchmarks.bench.http_server import HttpServer, http_server
from tests.serve_process import ServerProcess

TASK = Task(SINGLE_LABEL, ("no", "yes"))
TEXTS = ["one", "two", ("a", "pair")]
SCORES = [[0.25, 0.75], [0.9, 0.1], [0.5, 0.5]]


def ranked(scores: list[float], names: tuple[str, ...] = TASK.labels) -> list[dict[str, Any]]:
    return [{"label": names[place], "score": scores[place]} for place in np.argsort(scores)[::-1]]


def native(method: str, path: str, body: Any) -> tuple[int, Any]:
    if method == "GET":
        file = {"model.onnx": {"sha256": "abc"}}
        manifest = {"precision": "int8", "layers": 3, "parameters": 7, "max_length": 64, "files": file}
        return 200, {"model": "small", "engine": "onnx", "device": "cpu", "manifest": manifest}
    assert path == "/v1/classify"
    outputs = [{"scores": ranked(SCORES[row]), "truncated": row == 1} for row in range(len(body["inputs"]))]
    return 200, {"outputs": outputs}


def tei(method: str, path: str, body: Any) -> tuple[int, Any]:
    if method == "GET":
        return 200, {"model_id": "some/model", "model_dtype": "float16", "max_input_length": 512}
    assert path == "/predict"
    return 200, [ranked(SCORES[row]) for row in range(len(body["inputs"]))]


def tensor(name: str, datatype: str, shape: list[int], data: list[Any], **parameters: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data, "parameters": parameters}


def oip(*outputs: dict[str, Any], metadata: Any = None) -> Any:
    def answer(method: str, path: str, _body: Any) -> tuple[int, Any]:
        if method == "GET":
            assert path == "/v2/models/a%20model"
            return (404, {}) if metadata is None else (200, metadata)
        assert path == "/v2/models/a%20model/infer"
        return 200, {"outputs": list(outputs)}

    return answer


def asked(server: HttpServer, dialect: str, task: Task = TASK, model: str | None = None) -> RemoteModel:
    """Without the first question of `open`."""
    return RemoteModel("server", RemoteSource(server.url, dialect, model), task)


def test_understudys_own() -> None:
    with http_server(native) as server:
        model = RemoteModel.open("server", RemoteSource(server.url, model="small"), TASK)
        answers = model.answer(TEXTS)
        told = model.describe()
    inputs = ["one", "two", {"text": "a", "text_pair": "pair"}]
    assert server.requests[1] == ("POST", "/v1/classify", {"inputs": inputs, "model": "small"})
    assert server.requests[2][1] == "/v1/model?name=small"
    np.testing.assert_array_equal(answers.scores, np.array(SCORES, np.float32))
    assert answers.truncated == 1
    assert (told["name"], told["layers"], told["precision"], told["sha256"]) == ("small", 3, "int8", "abc")
    assert (told["requests"], told["errors"], told["dialect"]) == (1, {}, "understudy")
    Model.model_validate({**told, "truncated_rows": answers.truncated})


def test_text_embeddings_inferences() -> None:
    with http_server(tei) as server:
        model = RemoteModel.open("server", RemoteSource(server.url + "/", "tei"), TASK)
        answers = model.answer(TEXTS)
        told = model.describe()
    assert server.requests[1][2] == {"inputs": [["one"], ["two"], ["a", "pair"]], "truncate": True}
    np.testing.assert_array_equal(answers.scores, np.array(SCORES, np.float32))
    assert answers.truncated is None
    assert (told["name"], told["precision"], told["max_length"], told["layers"]) == ("some/model", "float16", 512, None)
    Model.model_validate({**told, "truncated_rows": None})


FLAT = [score for row in SCORES for score in row]
SWAPPED = [score for row in SCORES for score in row[::-1]]
LOGITS = np.log(FLAT).tolist()
LABELS = [[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize(
    ("output", "scores"),
    [
        (tensor("scores", "FP32", [3, 2], FLAT), SCORES),
        (tensor("scores", "FP32", [3, 2], SWAPPED, labels=["yes", "no"]), SCORES),
        (tensor("logits", "FP64", [3, 2], LOGITS), SCORES),
        (tensor("label", "BYTES", [3], ["yes", "no", "no"]), LABELS),
        (tensor("output", "BYTES", [3, 1], [json.dumps(ranked(row)) for row in SCORES]), SCORES),
        (tensor("output", "BYTES", [3, 1], [json.dumps(ranked(row)[0]) for row in LABELS]), LABELS),
    ],
)
def test_the_open_inference_protocols(output: dict[str, Any], scores: list[list[float]]) -> None:
    with http_server(oip(tensor("other", "INT64", [3], [1, 2, 3]), output)) as server:
        answers = asked(server, "oip", model="a model").answer([("a", "b")] * 3)
    np.testing.assert_allclose(answers.scores, np.array(scores, np.float32), rtol=1e-6)
    assert [entry["name"] for entry in server.requests[0][2]["inputs"]] == ["text", "text_pair"]


def by_text(values: dict[str, list[float]]) -> Any:
    """A server that gives each text its numbers, whoever shares the request."""

    def answer(_method: str, _path: str, body: Any) -> tuple[int, Any]:
        rows = [values[text] for text in body["inputs"][0]["data"]]
        return 200, {"outputs": [tensor("scores", "FP32", [len(rows), 2], [value for row in rows for value in row])]}

    return answer


@pytest.mark.parametrize("place", [0, 40, 99])
def test_one_logit_outside_of_0_to_1_makes_all_of_them_logits(place: int) -> None:
    """Requests have 32 texts: what the one with `place` tells holds for the others, before and after it."""
    values = {str(number): [0.25, 0.75] for number in range(100)}
    values[str(place)] = [-3.0, 4.0]
    task = Task(MULTI_LABEL, ("no", "yes"))
    with http_server(by_text(values)) as server:
        model = asked(server, "oip", task, "a model")
        scores = model.answer(list(values)).scores
        later = model.answer(["1"]).scores
    expected = special.expit(np.array(list(values.values())))
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    np.testing.assert_allclose(later, expected[[1]], rtol=1e-6)


def test_numbers_that_are_all_within_0_to_1_stay() -> None:
    values = {str(number): [0.25, number / 99] for number in range(100)}
    with http_server(by_text(values)) as server:
        model = asked(server, "oip", Task(MULTI_LABEL, ("no", "yes")), "a model")
        scores = model.answer(list(values)).scores
    np.testing.assert_array_equal(scores, np.array(list(values.values()), np.float32))


def test_the_open_inference_protocols_inputs_are_named_as_the_metadata_does() -> None:
    metadata = {"inputs": [{"name": "args", "datatype": "BYTES", "shape": [-1, 1]}], "platform": "mlserver"}
    answer = oip(tensor("truncated", "BOOL", [1], [True]), tensor("label", "BYTES", [1], ["yes"]), metadata=metadata)
    with http_server(answer) as server:
        model = RemoteModel.open("server", RemoteSource(server.url, "oip", "a model"), TASK)
        assert model.answer(["one"]).truncated == 1
        assert model.describe()["engine"] == "mlserver"
    expected = {"name": "args", "shape": [1, 1], "datatype": "BYTES", "data": ["one"]}
    assert server.requests[-2][2] == {"inputs": [expected]}


@pytest.mark.parametrize(
    ("task", "told", "scores"),
    [
        (Task(MULTI_LABEL, ("a", "b", "c")), ["a|c"], [[1, 0, 1]]),
        (Task(SINGLE_LABEL, ("0", "1")), ["LABEL_1"], [[0, 1]]),
        (Task(SINGLE_LABEL, ("LABEL_0", "LABEL_1")), ["LABEL_1"], [[0, 1]]),
    ],
)
def test_labels_alone(task: Task, told: list[str], scores: list[list[float]]) -> None:
    with http_server(oip(tensor("label", "BYTES", [1], told))) as server:
        assert asked(server, "oip", task, "a model").answer(["one"]).scores.tolist() == scores


def test_a_number_is_read_whatever_it_is_called() -> None:
    with http_server(lambda *_: (200, [[{"label": "LABEL_0", "score": 3.5}]])) as server:
        assert asked(server, "tei", Task(REGRESSION, ("score",))).answer(["one"]).scores.tolist() == [[3.5]]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((429, {"error": "full"}), "429"),
        ((500, {}), "500"),
        (None, "connection"),
        (b"SSH-2.0\r\n\r\n", "connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{]", "malformed"),
        ((200, {}), "malformed"),
        ((200, []), "malformed"),
        ((200, {"outputs": []}), "malformed"),
        ((200, {"outputs": [{"scores": [{"label": "yes", "score": None}], "truncated": False}]}), "malformed"),
        ((200, {"outputs": [{"scores": [{"label": "maybe", "score": 1.0}], "truncated": False}]}), "malformed"),
        ((200, {"outputs": [{"error": {"code": "invalid_text", "message": "empty text"}}]}), "invalid_text"),
    ],
)
def test_a_failure_is_counted_by_its_kind(answer: Any, kind: str) -> None:
    with http_server(lambda *_: answer) as server:
        model = asked(server, "understudy")
        with pytest.raises(RemoteError) as caught:
            model.call(["one"])
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)
    assert (model.requests, model.errors) == (1, {kind: 1})


def test_no_answer_in_time_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "TIMEOUT_SECONDS", 0.05)
    with http_server(native, service_seconds=0.5) as server, pytest.raises(RemoteError) as caught:
        asked(server, "understudy").call(["one"])
    assert caught.value.kind == "timeout"


def test_a_text_that_is_refused_costs_no_others_answer() -> None:
    def answer(method: str, path: str, body: Any) -> tuple[int, Any]:
        return (422, {"error": "no"}) if ["two"] in body["inputs"] else tei(method, path, body)

    with http_server(answer) as server:
        model = asked(server, "tei")
        answers = model.answer(TEXTS)
        told = model.describe()
    assert np.isnan(answers.scores).all(axis=1).tolist() == [False, True, False]
    assert (told["requests"], told["errors"]) == (4, {"422": 2})
    assert json.loads(json.dumps(told)) == told
    Model.model_validate({**told, "truncated_rows": answers.truncated})


def test_a_connection_that_the_server_closed_meanwhile_is_no_error() -> None:
    body = json.dumps(native("POST", "/v1/classify", {"inputs": ["one"]})[1]).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    left = [answer, None, answer]
    with http_server(lambda *_: left.pop(0)) as server:
        model = asked(server, "understudy")
        model.call(["one"])
        model.call(["one"])
    assert (left, model.requests, model.errors) == ([], 2, {})


def test_a_path_before_the_dialects_and_a_key_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(remote.KEY_VARIABLE, "a secret of sixteen")
    with http_server(lambda *_: (200, [[{"label": "yes", "score": 1.0}]])) as server:
        model = RemoteModel("server", RemoteSource(server.url + "/team/", "tei"), TASK)
        model.call(["one"])
        assert "authorization: bearer a secret of sixteen" in server.headers
    assert server.requests[0][1] == "/team/predict"
    request = model.request("one")
    assert request.startswith(b"POST /team/predict HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer a secret of sixteen\r\n" in request
    assert "secret" not in json.dumps(model.describe())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (("127.0.0.1:8000",), "is no URL of a server"),
        (("ftp://host",), "is no URL of a server"),
        (("http://",), "is no URL of a server"),
        (("http://host:99999",), "is no URL of a server"),
        (("http://host?x=1",), "is no URL of a server"),
        (("http://user:secret@host",), "must not hold a password: a key goes into the variable"),
        (("http://host", "grpc"), "dialect must be one of understudy, tei, oip"),
        (("http://host", "oip"), "asks for a model by name"),
        (("http://host", "tei", "name"), "leave out --model"),
    ],
)
def test_what_names_no_server_is_refused(source: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RemoteSource(*source)


def test_https_has_its_own_port() -> None:
    address = RemoteSource("https://host.example/a").address
    assert (address.host, address.port, address.tls) == ("host.example", 443, True)


def test_a_server_that_does_not_answer_is_refused_at_once() -> None:
    with http_server(lambda *_: (404, {})) as server, pytest.raises(InputError, match=r"in the dialect 'tei'.*404"):
        RemoteModel.open("server", RemoteSource(server.url, "tei"), TASK)
    with pytest.raises(InputError, match="does not answer"):
        RemoteModel.open("server", RemoteSource(server.url), TASK)


def test_a_server_with_other_labels_is_refused_at_once() -> None:
    answer = (200, [[{"label": "maybe", "score": 1.0}]])
    with http_server(lambda *_: answer) as server, pytest.raises(InputError, match=r"label 'maybe'.*are no, yes"):
        RemoteModel.open("server", RemoteSource(server.url, "tei"), TASK)


def test_our_own_server_answers_in_all_dialects_as_its_engine(student: Path) -> None:
    engine = Engine.load(student)
    texts = ["Where is my order?", "I cannot log in", ("one", "two"), "word " * 100]
    expected = [answer.scores for answer in engine.classify(texts) if isinstance(answer, Prediction)]
    with ServerProcess(student) as server:
        for dialect, name in (("understudy", None), ("tei", None), ("oip", engine.name)):
            model = RemoteModel.open(dialect, RemoteSource(server.url, dialect, name), engine.task)
            # That protocol has pairs in a tensor of their own, so that a request has pairs alone or none.
            parts = [texts[:2], texts[2:3], texts[3:]] if dialect == "oip" else [texts]
            answers = [model.answer(part) for part in parts]
            scores = np.concatenate([each.scores for each in answers])
            np.testing.assert_allclose(scores, np.stack(expected), atol=1e-5)
            assert answers[-1].truncated == (None if dialect == "tei" else 1)
            assert model.errors == {}
            assert model.describe()["layers"] == (1 if dialect == "understudy" else None)


@pytest.mark.parametrize(("dialect", "limits"), [("understudy", (0.2, 0.7)), ("tei", (0.5, 0.5))])
def test_a_servers_labels_hold_from_its_own_thresholds_on(dialect: str, limits: tuple[float, float]) -> None:
    task = Task(MULTI_LABEL, ("no", "yes"), thresholds=(0.9, 0.9))

    def answer(method: str, _path: str, _body: Any) -> tuple[int, Any]:
        if method == "GET":
            return 200, {"labels": ["yes", "no"], "manifest": {"calibration": {"thresholds": [0.7, 0.2]}}}
        scores = ranked([0.25, 0.75])
        return 200, [scores] if dialect == "tei" else {"outputs": [{"scores": scores, "truncated": False}]}

    with http_server(answer) as server:
        assert RemoteModel.open("server", RemoteSource(server.url, dialect), task).task.thresholds == limits


def test_a_text_that_no_label_fits_is_no_failure() -> None:
    with http_server(oip(tensor("label", "BYTES", [3], ["", "yes", "no|yes"]))) as server:
        model = asked(server, "oip", Task(MULTI_LABEL, ("no", "yes")), "a model")
        np.testing.assert_array_equal(model.answer(["one", "two", "three"]).scores, [[0, 0], [0, 1], [1, 1]])
    assert model.errors == {}


@pytest.mark.parametrize("dialect", ["understudy", "tei", "oip"])
@pytest.mark.parametrize(
    "told",
    [
        {"manifest": "none", "model_id": 7, "model_dtype": ["f16"], "max_input_length": "512", "inputs": "text"},
        {"manifest": {"layers": "3", "files": [1]}, "max_input_length": -1, "inputs": [7, {"datatype": "BYTES"}]},
        {"manifest": {"files": {"model.onnx": 3}}, "engine": 3, "platform": {}, "inputs": None},
    ],
)
def test_nonsense_that_a_server_tells_of_itself_is_left_out(dialect: str, told: dict[str, Any]) -> None:
    def answer(method: str, _path: str, _body: Any) -> tuple[int, Any]:
        if method == "GET":
            return 200, told
        if dialect == "oip":
            return 200, {"outputs": [tensor("label", "BYTES", [1], ["yes"])]}
        scores = ranked([0.1, 0.9])
        return 200, [scores] if dialect == "tei" else {"outputs": [{"scores": scores, "truncated": False}]}

    with http_server(answer) as server:
        source = RemoteSource(server.url, dialect, "name" if dialect == "oip" else None)
        described = RemoteModel.open("server", source, TASK).describe()
    Model.model_validate({**described, "truncated_rows": None}, strict=True)


def test_pairs_are_not_cut_to_their_first_text() -> None:
    metadata = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}]}
    with http_server(oip(tensor("label", "BYTES", [1], ["yes"]), metadata=metadata)) as server:
        model = RemoteModel.open("server", RemoteSource(server.url, "oip", "a model"), TASK)
        with pytest.raises(InputError, match="takes one text, and the data has pairs"):
            model.answer([("one", "two")])
