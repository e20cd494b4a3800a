"""`/predict` as Text Embeddings Inference has it. Requests fail whole; truncation is told in a header."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from common.errors import InputError
from common.tokenization import Text
from serve.codec import Prediction
from serve.documented import CLASSIFYING, errors, takes
from serve.requests import read_json_body
from serve.responses import json_response
from serve.service import Service, all_answers

router = APIRouter(tags=["text embeddings inference"])

# Not empty, and without NUL.
_TEXT = {"type": "string", "pattern": "^[^\\x00]*[^\\s\\x00][^\\x00]*$"}
_ONE_OR_TWO = {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 2}
_SCHEMA = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "inputs": {
            "description": "A text; a pair as a list of two; or a batch as a list of lists of one or two texts.",
            "anyOf": [
                _TEXT,
                _ONE_OR_TWO,
                {"type": "array", "items": _ONE_OR_TWO, "minItems": 1},
            ],
        },
        "truncate": {"type": ["boolean", "null"], "default": True},
        "raw_scores": {"type": ["boolean", "null"], "default": False},
    },
}


@router.post("/predict", responses=errors("tei", 424, *CLASSIFYING), openapi_extra=takes(_SCHEMA))
async def predict(request: Request) -> Response:
    """Classify one text, one pair, or a batch; scores come sorted."""
    service: Service = request.app.state.service
    service.scheduler.check_room()
    body = await read_json_body(request, service.limits)
    if not isinstance(body, dict) or "inputs" not in body:
        raise InputError("the body must be an object with 'inputs'")
    if str(body.get("truncation_direction") or "Right").lower() != "right":
        raise InputError("truncation_direction: only 'Right' is supported")
    texts, single = _texts(body["inputs"])
    raw = _flag(body, "raw_scores", False)
    outcomes = await service.classify(request, texts, truncate=_flag(body, "truncate", True))
    answers = all_answers(outcomes)
    scores = [_scores(answer.prediction, raw) for answer in answers]
    told = {
        "X-Truncated-Inputs": str(sum(answer.prediction.truncated for answer in answers)),
        # That protocol has no word for an answer without a label.
        "X-Abstained-Inputs": str(sum(answer.abstained for answer in answers)),
    }
    return json_response(scores[0] if single else scores, headers=told)


def _texts(inputs: Any) -> tuple[list[Text], bool]:
    """The texts, and whether they are one input rather than a batch."""
    if isinstance(inputs, str):
        return [inputs], True
    if not isinstance(inputs, list):
        raise InputError("'inputs' must be a string or a list")
    if inputs and all(isinstance(part, str) for part in inputs):
        # A flat list is one input here, as it is there: two texts are a pair, not a batch.
        return [_sequence(inputs)], True
    return [_sequence(part) for part in inputs], False


def _sequence(parts: Any) -> Text:
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts) or len(parts) not in (1, 2):
        raise InputError("each input of a batch must be a list of one text or of two (a pair)")
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


def _flag(body: dict[str, Any], name: str, default: bool) -> bool:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InputError(f"'{name}' must be true or false")
    return value


def _scores(prediction: Prediction, raw: bool) -> list[dict[str, Any]]:
    return [{"score": score, "label": label} for label, score in prediction.ranked(raw=raw)]
