"""What /docs says of errors: each protocol's shape of one, for the statuses that its routes may answer with."""

from __future__ import annotations

from typing import Any

Responses = dict[int | str, dict[str, Any]]

_MEANINGS = {
    400: "The body is not JSON",
    401: "No key, or an unknown one",
    403: "This takes an admin key",
    404: "No such model or version",
    413: "Body or batch too large",
    422: "The request does not fit",
    424: "The model failed",
    429: "Queue full; see Retry-After",
    500: "The model failed",
    503: "Not ready",
    504: "Deadline passed",
}
_TEXT = {"type": "string"}
_CODE_AND_MESSAGE = {"type": "object", "required": ["code", "message"], "properties": {"code": _TEXT, "message": _TEXT}}
_ERROR = {
    "native": {"type": "object", "required": ["error"], "properties": {"error": _CODE_AND_MESSAGE}},
    "tei": {"type": "object", "required": ["error", "error_type"], "properties": {"error": _TEXT, "error_type": _TEXT}},
    "oip": {"type": "object", "required": ["error"], "properties": {"error": _TEXT}},
}
# What a request to classify may meet, beside a failure of the model, which each protocol tells in its own way.
CLASSIFYING = (400, 413, 422, 429, 503, 504)


def errors(protocol: str, *statuses: int) -> Responses:
    """For a route's `responses`; every route may also answer 401.

    Args:
        protocol: 'native', 'tei' or 'oip'.
    """
    content = {"application/json": {"schema": _ERROR[protocol]}}
    return {status: {"description": _MEANINGS[status], "content": content} for status in (401, *statuses)}


def takes(schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    """For a route's `openapi_extra`: the JSON body that it reads itself."""
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}
