"""The native API: `/v1/classify` and `/v1/model`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, ValidationError

from common.errors import InputError, NotFoundError, UnderstudyError
from common.labels import MULTI_LABEL
from serve.documented import CLASSIFYING, errors, takes
from serve.repository import ServedModel
from serve.requests import read_json_body
from serve.responses import json_response
from serve.service import Outcome, Service

router = APIRouter(tags=["native"])


def _whole(value: Any) -> Any:
    # To JSON Schema 2.0 is an integer.
    return int(value) if isinstance(value, float) and value.is_integer() else value


class ClassifyRequest(BaseModel):
    """The body of `/v1/classify`."""

    model_config = ConfigDict(extra="forbid")

    inputs: list[Any] = Field(
        description="Texts, or objects with `text` and `text_pair`. Anything else has an error in its place.",
        json_schema_extra={"minItems": 1, "examples": [["a text", {"text": "a text", "text_pair": "another"}]]},
    )
    top_k: Annotated[StrictInt | None, BeforeValidator(_whole)] = Field(
        None, ge=1, description="How many scores; all by default."
    )
    raw_scores: StrictBool = Field(False, description="Logits in place of probabilities.")
    truncate: StrictBool = Field(True, description="Cut texts over the token limit, and say so; else they are errors.")
    model: str | None = Field(None, description="Which model answers; the server's first by default.")
    version: str | None = Field(None, description="Which version of it; the last by default.")
    escalate: StrictBool = Field(True, description="Whether the teacher may answer what the student is unsure of.")


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

    label: str | None = Field(None, description="Null where the model abstains.")
    score: float | None = None
    labels: list[str] | None = Field(None, description="For multi-label models: each label that holds.")
    scores: list[LabelScore] | None = None
    tokens: int | None = None
    truncated: bool | None = None
    served_by: str | None = None
    error: ErrorBody | None = None


class ClassifyResponse(BaseModel):
    """One output an input, in order."""

    model: str
    outputs: list[Output]


@router.post(
    "/v1/classify",
    response_model=ClassifyResponse,
    responses=errors("native", 404, *CLASSIFYING),
    openapi_extra=takes(ClassifyRequest.model_json_schema()),
)
async def classify(request: Request) -> Response:
    """Classify texts; an input that cannot be classified has its own error in its place."""
    service: Service = request.app.state.service
    service.scheduler.check_room()
    body = _parse(await read_json_body(request, service.limits))
    texts = [_text_of(entry) for entry in body.inputs]
    model = _chosen(service, body.model, body.version)
    outcomes = await service.classify(request, texts, truncate=body.truncate, model=model, escalate=body.escalate)
    return json_response({"model": model.name, "outputs": [_output(outcome, body) for outcome in outcomes]})


@router.get("/v1/model", responses=errors("native", 404, 503))
async def model(request: Request, name: str | None = None, version: str | None = None) -> Response:
    """A model: what it was made from, how it was verified, and what stands beside it. The server's first by default."""
    service: Service = request.app.state.service
    chosen = _chosen(service, name, version)
    beside = _describe_teacher(service) if chosen is service.default else {}
    engine = {"engine": service.settings.engine.engine}
    return json_response({**chosen.describe(), **engine, "abstain_below": service.settings.abstain_below, **beside})


@router.get("/v1/models", responses=errors("native"))
async def models(request: Request) -> Response:
    """The models and versions that are there, those that answer by default last of their name."""
    service: Service = request.app.state.service
    return json_response({"models": [{"model": each.name, "version": each.version} for each in service.repository]})


@router.get("/v1/agreement", responses=errors("native", 404))
async def agreement(request: Request) -> Response:
    """How far the student agrees with its teacher on the live texts that both have seen."""
    service: Service = request.app.state.service
    if service.teacher is None or not service.settings.shadow.share:
        raise NotFoundError("the server has no shadow traffic: start it with --teacher and --shadow")
    names = {"student": service.default.name, "teacher": service.teacher.model.name}
    share = {"share": service.settings.shadow.share}
    return json_response({**names, **share, **service.teacher.shadow.agreement.as_dict()})


def _chosen(service: Service, name: str | None, version: str | None) -> ServedModel:
    if name is None and version is None:
        return service.default
    return service.repository.find(name or service.default.name, version)


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


def _output(outcome: Outcome, body: ClassifyRequest) -> dict[str, Any]:
    if isinstance(outcome, UnderstudyError):
        return {"error": {"code": outcome.code, "message": str(outcome)}}
    prediction = outcome.prediction
    ranked = prediction.ranked(raw=body.raw_scores)
    output: dict[str, Any] = {"label": None if outcome.abstained else ranked[0][0], "score": ranked[0][1]}
    if prediction.task.problem_type == MULTI_LABEL:
        output["labels"] = None if outcome.abstained else prediction.chosen
    return {
        **output,
        "scores": [{"label": label, "score": score} for label, score in ranked[: body.top_k]],
        "tokens": prediction.tokens,
        "truncated": prediction.truncated,
        "served_by": outcome.served_by,
    }


def _describe_teacher(service: Service) -> dict[str, Any]:
    """What `/v1/model` tells of the model's teacher; nothing where it has none."""
    teacher = service.teacher
    if teacher is None:
        return {}
    cascade = {
        "escalate_below": teacher.threshold,
        "budget": service.settings.cascade.largest_share,
        "fit": asdict(teacher.fit) if teacher.fit else None,
    }
    return {
        "teacher": {"model": teacher.model.name, "version": teacher.model.version},
        "cascade": cascade if teacher.threshold is not None else None,
        "shadow": {"share": service.settings.shadow.share} if service.settings.shadow.share else None,
    }
