"""The Open Inference Protocol v2, as KServe, Triton and MLServer speak it. Requests fail whole."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response

from common.errors import InputError, NotReadyError, TooLargeError
from common.tokenization import Text
from serve.access import require_admin
from serve.codec import Prediction
from serve.documented import CLASSIFYING, errors, takes
from serve.repository import ServedModel
from serve.requests import read_json_body
from serve.responses import json_response
from serve.service import Answer, Service, all_answers

router = APIRouter(prefix="/v2", tags=["open inference protocol"], responses=errors("oip"))

_INFER_SCHEMA = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {
            "type": "object",
            "properties": {name: {"type": "boolean"} for name in ("truncate", "raw_scores", "escalate")},
        },
        "inputs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "shape", "datatype", "data"],
                "properties": {
                    "name": {"enum": ["text", "text_pair"]},
                    "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                    "datatype": {"const": "BYTES"},
                    "data": {"type": "array", "items": {"type": "string"}},
                },
            },
        },
    },
}
_INFER: dict[str, Any] = {
    "responses": errors("oip", 404, 500, *CLASSIFYING),
    "openapi_extra": takes(_INFER_SCHEMA),
}
_PLATFORMS = {"onnx": "onnxruntime_onnx", "torch": "pytorch"}
_LOAD_SCHEMA = {
    "type": "object",
    "properties": {"parameters": {"type": "object", "properties": {"bundle": {"type": "string"}}}},
}


@router.get("")
async def server_metadata() -> Response:
    """The server's name and version."""
    return json_response({"name": "understudy", "version": version("understudy"), "extensions": ["model_repository"]})


@router.get("/health/live", responses=errors("oip", 503))
async def live(request: Request) -> Response:
    """Whether the server can do its work; if not, only a new process would."""
    is_live = request.app.state.service.live
    return json_response({"live": is_live}, 200 if is_live else 503)


@router.get("/health/ready", responses=errors("oip", 503))
async def ready(request: Request) -> Response:
    """Whether the server would work on a request."""
    is_ready = request.app.state.service.ready
    return json_response({"ready": is_ready}, 200 if is_ready else 503)


@router.get("/models/{name}", responses=errors("oip", 404, 422))
async def model_metadata(request: Request, name: str) -> Response:
    """What the model takes and gives."""
    return await version_metadata(request, name, None)


@router.get("/models/{name}/versions/{model_version}", responses=errors("oip", 404, 422))
async def version_metadata(request: Request, name: str, model_version: str | None) -> Response:
    """What a version of the model takes and gives."""
    service: Service = request.app.state.service
    model = service.repository.find(name, model_version)
    count = len(model.codec.task.labels)
    return json_response(
        {
            "name": name,
            "versions": [each.version for each in service.repository if each.name == name],
            "platform": _PLATFORMS[service.settings.engine.engine],
            "inputs": [
                {"name": "text", "datatype": "BYTES", "shape": [-1]},
                {"name": "text_pair", "datatype": "BYTES", "shape": [-1]},
            ],
            "outputs": [
                {"name": "label", "datatype": "BYTES", "shape": [-1]},
                {"name": "score", "datatype": "FP32", "shape": [-1]},
                {"name": "scores", "datatype": "FP32", "shape": [-1, count]},
                {"name": "truncated", "datatype": "BOOL", "shape": [-1]},
                {"name": "abstained", "datatype": "BOOL", "shape": [-1]},
                {"name": "served_by", "datatype": "BYTES", "shape": [-1]},
            ],
        }
    )


@router.get("/models/{name}/ready", responses=errors("oip", 404, 422, 503))
async def model_ready(request: Request, name: str) -> Response:
    """Whether the model would work on a request."""
    return await version_ready(request, name, None)


@router.get("/models/{name}/versions/{model_version}/ready", responses=errors("oip", 404, 422, 503))
async def version_ready(request: Request, name: str, model_version: str | None) -> Response:
    """Whether a version of the model would work on a request."""
    service: Service = request.app.state.service
    service.repository.find(name, model_version)
    if not service.ready:
        raise NotReadyError(f"the model {name} is not ready")
    return json_response({"name": name, "ready": True})


@router.post("/models/{name}/infer", **_INFER)
async def infer(request: Request, name: str) -> Response:
    """Classify the texts of the tensor `text`, with `text_pair` beside it for pairs."""
    return await version_infer(request, name, None)


@router.post("/models/{name}/versions/{model_version}/infer", **_INFER)
async def version_infer(request: Request, name: str, model_version: str | None) -> Response:
    """Classify with a version of the model."""
    service: Service = request.app.state.service
    service.scheduler.check_room()
    service.repository.find(name, model_version)  # before anything is read for a model that there is not
    body = await read_json_body(request, service.limits)
    # It may have been replaced meanwhile.
    model = service.repository.find(name, model_version)
    if not isinstance(body, dict):
        raise InputError("the body must be an object")
    parameters = body.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InputError("'parameters' must be an object")
    identifier = body.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise InputError("'id' must be a string")
    wanted = _wanted_outputs(body.get("outputs"))
    outcomes = await service.classify(
        request,
        _texts(body.get("inputs"), service.limits.items),
        truncate=_flag(parameters, "truncate", True),
        model=model,
        escalate=_flag(parameters, "escalate", True),
    )
    outputs = _outputs(model, all_answers(outcomes), raw=_flag(parameters, "raw_scores", False))
    response = {
        "model_name": name,
        "model_version": model.version,
        "outputs": [output for output in outputs if wanted is None or output["name"] in wanted],
    }
    return json_response(response if identifier is None else {**response, "id": identifier})


@router.post("/repository/index")
async def repository_index(request: Request) -> Response:
    """Every model and version that is there."""
    service: Service = request.app.state.service
    state = {"state": "READY" if service.ready else "UNAVAILABLE", "reason": ""}
    return json_response([{"name": each.name, "version": each.version, **state} for each in service.repository])


@router.post(
    "/repository/models/{name}/load",
    responses=errors("oip", 400, 403, 404, 413, 422, 500, 503),
    openapi_extra=takes(_LOAD_SCHEMA, required=False),
)
async def load(request: Request, name: str) -> Response:
    """Load a model's bundle anew, from where it came from or from `parameters.bundle`; takes an admin key.

    A bundle that will not do leaves the old one serving. A name that is not there yet becomes one more model.
    """
    service: Service = request.app.state.service
    require_admin(request.scope, service.settings.access)
    body = await read_json_body(request, service.limits, empty={})
    parameters = (body.get("parameters") or {}) if isinstance(body, dict) else None
    bundle = parameters.get("bundle") if isinstance(parameters, dict) else None
    if not isinstance(parameters, dict) or not isinstance(bundle, str | None):
        raise InputError("the body may be {'parameters': {'bundle': DIRECTORY}}")
    model = await service.load(name, None if bundle is None else Path(bundle))
    return json_response({"name": model.name, "version": model.version})


def _texts(inputs: Any, most: int) -> list[Text]:
    if not isinstance(inputs, list) or not inputs:
        raise InputError("'inputs' must be a list of tensors")
    tensors: dict[str, list[str]] = {}
    for tensor in inputs:
        if not isinstance(tensor, dict) or tensor.get("name") not in ("text", "text_pair"):
            raise InputError("the input tensors are 'text' and, for pairs, 'text_pair'")
        if tensor["name"] in tensors:
            raise InputError(f"the input tensor '{tensor['name']}' is given twice")
        tensors[tensor["name"]] = _strings(tensor, most)
    if "text" not in tensors:
        raise InputError("the input tensor 'text' is missing")
    if "text_pair" not in tensors:
        return list(tensors["text"])
    if len(tensors["text"]) != len(tensors["text_pair"]):
        raise InputError("'text' and 'text_pair' must have the same number of elements")
    return list(zip(tensors["text"], tensors["text_pair"], strict=True))


def _strings(tensor: dict[str, Any], most: int) -> list[str]:
    name, data, shape = tensor["name"], tensor.get("data"), tensor.get("shape")
    if tensor.get("datatype") != "BYTES":
        raise InputError(f"'{name}' must have datatype BYTES")
    if isinstance(data, list) and len(data) > most:
        raise TooLargeError(f"'{name}' has {len(data):,} elements; the limit is {most:,} a request")
    # A tensor of shape [n, 1] may nest its data as that shape.
    if isinstance(data, list) and all(isinstance(part, list) and len(part) == 1 for part in data):
        data = [part[0] for part in data]
    if not isinstance(data, list) or not all(isinstance(text, str) for text in data):
        raise InputError(f"the data of '{name}' must be a list of strings")
    numbers = isinstance(shape, list) and all(type(size) is int for size in shape)
    if not numbers or shape not in ([len(data)], [len(data), 1]):
        raise InputError(f"the shape of '{name}' is {shape}, but it has {len(data)} elements")
    return data


def _wanted_outputs(outputs: Any) -> set[str] | None:
    """The names that the caller asked for; None for all of them."""
    if not outputs:
        return None
    known = {"label", "score", "scores", "truncated", "abstained", "served_by"}
    if not isinstance(outputs, list):
        raise InputError("'outputs' must be a list")
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in outputs]
    if not all(isinstance(name, str) and name in known for name in names):
        raise InputError(f"'outputs' may name {', '.join(sorted(known))}")
    return {str(name) for name in names}


def _outputs(model: ServedModel, answers: list[Answer], *, raw: bool) -> list[dict[str, Any]]:
    predictions = [answer.prediction for answer in answers]
    labels = model.codec.task.labels
    count, width = len(answers), len(labels)
    values = [_in_order(prediction, labels, raw=raw) for prediction in predictions]
    # That protocol has no null: an answer that abstains has an empty label.
    chosen = ["" if answer.abstained else answer.prediction.answer for answer in answers]
    return [
        {"name": "label", "datatype": "BYTES", "shape": [count], "data": chosen},
        {"name": "score", "datatype": "FP32", "shape": [count], "data": [max(row) for row in values]},
        {
            "name": "scores",
            "datatype": "FP32",
            "shape": [count, width],
            "data": [score for row in values for score in row],
            "parameters": {"labels": list(labels)},
        },
        {"name": "truncated", "datatype": "BOOL", "shape": [count], "data": [entry.truncated for entry in predictions]},
        {"name": "abstained", "datatype": "BOOL", "shape": [count], "data": [answer.abstained for answer in answers]},
        {"name": "served_by", "datatype": "BYTES", "shape": [count], "data": [answer.served_by for answer in answers]},
    ]


def _in_order(prediction: Prediction, labels: Sequence[str], *, raw: bool) -> list[float]:
    """The scores in the model's order of labels, which its teacher's need not be."""
    values = (prediction.logits if raw else prediction.scores).tolist()
    if prediction.task.labels == labels:
        return values
    by_label = dict(zip(prediction.task.labels, values, strict=True))
    return [by_label[label] for label in labels]


def _flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InputError(f"the parameter '{name}' must be true or false")
    return value
