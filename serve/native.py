"""The native API: `/v1/classify` and `/v1/model`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError

from common.errors import InputError, UnderstudyError
from serve.engine import Prediction
from serve.responses import json_response
from serve.scheduler import Outcome
from serve.service import Service, read_json_body

router = APIRouter(tags=["native"])


class PairInput(BaseModel):
    """One text, or two."""

    text: str
    text_pair: str | None = None


class ClassifyRequest(BaseModel):
    """The body of `/v1/classify`."""

    model_config = ConfigDict(extra="forbid")

    inputs: list[Any] = Field(
        description="Texts, or objects with `text` and `text_pair`.",
        json_schema_extra={"items": {"anyOf": [{"type": "string"}, PairInput.model_json_schema()]}, "minItems": 1},
    )
    top_k: StrictInt | None = Field(None, ge=1, description="How many scores; all by default.")
    raw_scores: StrictBool = Field(False, description="Logits in place of probabilities.")
    truncate: StrictBool = Field(True, description="Cut texts over the token limit, and say so; else they are errors.")


class LabelScore(BaseModel):
    """A label and its score."""

    label: str
    score: float


class ErrorBody(BaseModel):
    """What went wrong."""

    code: str
    message: str


class Output(BaseModel):
    """The answer to one input: its scores or its error."""

    label: str | None = None
    score: float | None = None
    labels: list[str] | None = Field(None, description="For multi-label models: each label at or above one half.")
    scores: list[LabelScore] | None = None
    tokens: int | None = None
    truncated: bool | None = None
    served_by: str | None = None
    error: ErrorBody | None = None


class ClassifyResponse(BaseModel):
    """One output an input, in order."""

    model: str
    outputs: list[Output]


class ErrorResponse(BaseModel):
    """The one shape of errors."""

    error: ErrorBody


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": description}
    for status, description in {
        400: "The body is not JSON",
        413: "Body or batch too large",
        422: "The request does not fit",
        429: "Queue full; see Retry-After",
        503: "Not ready",
        504: "Deadline passed",
    }.items()
}


@router.post(
    "/v1/classify",
    response_model=ClassifyResponse,
    responses=ERRORS,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": ClassifyRequest.model_json_schema()}},
        }
    },
)
async def classify(request: Request) -> Response:
    """Classify texts; an input that cannot be classified has its own error in its place."""
    service: Service = request.app.state.service
    body = _parse(await read_json_body(request, service.limits))
    texts = [_text_of(entry) for entry in body.inputs]
    outcomes = await service.classify(request, texts, truncate=body.truncate)
    name = service.engine.name
    return json_response(
        {"model": name, "outputs": [_output(outcome, body, name) for outcome in outcomes]},
    )


@router.get("/v1/model")
async def model(request: Request) -> Response:
    """Which model answers, what it was made from and how it was verified."""
    service: Service = request.app.state.service
    bundle = service.engine.bundle
    return json_response(
        {
            "model": service.engine.name,
            "version": service.version,
            "problem_type": bundle.task.problem_type,
            "labels": list(bundle.task.labels),
            "engine": service.engine.model.engine,
            "device": service.engine.model.device,
            "manifest": bundle.manifest,
        }
    )


def _parse(value: Any) -> ClassifyRequest:
    try:
        return ClassifyRequest.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{place}: {first['msg']}" if place else first["msg"]) from None


def _text_of(entry: Any) -> Any:
    """A text or pair; anything else is left as it is, for the engine to refuse in its place."""
    if isinstance(entry, dict) and set(entry) <= {"text", "text_pair"} and "text" in entry:
        return entry["text"] if entry.get("text_pair") is None else (entry["text"], entry["text_pair"])
    return entry


def _output(outcome: Outcome, body: ClassifyRequest, name: str) -> dict[str, Any]:
    if isinstance(outcome, UnderstudyError):
        return {"error": {"code": outcome.code, "message": str(outcome)}}
    assert isinstance(outcome, Prediction)
    ranked = outcome.ranked(raw=body.raw_scores)
    output: dict[str, Any] = {"label": ranked[0][0], "score": ranked[0][1]}
    if outcome.task.problem_type == "multi_label_classification":
        output["labels"] = outcome.chosen
    return {
        **output,
        "scores": [{"label": label, "score": score} for label, score in ranked[: body.top_k]],
        "tokens": outcome.tokens,
        "truncated": outcome.truncated,
        "served_by": name,
    }
