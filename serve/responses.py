"""JSON responses, and each protocol's shape of an error, chosen by the route."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import Response

from common.errors import (
    InputError,
    NotReadyError,
    OverloadedError,
    UnderstudyError,
)

# Until a lost worker has been replaced, or a server that stops has a successor.
_NOT_READY_SECONDS = 1


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """`value` as JSON."""
    headers = {"X-Content-Type-Options": "nosniff", **(headers or {})}
    return Response(orjson.dumps(value), status_code=status, headers=headers, media_type="application/json")


def error_response(error: UnderstudyError, path: str) -> Response:
    """An error in the shape of the protocol that `path` belongs to."""
    retry_after = error.retry_after if isinstance(error, OverloadedError) else _NOT_READY_SECONDS
    headers = {"Retry-After": str(retry_after)} if error.status in (429, 503) else None
    if error.status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    status, message = error.status, str(error)
    if path == "/v2" or path.startswith("/v2/"):
        return json_response({"error": message}, status, headers)
    if path == "/predict":
        # The one status that Text Embeddings Inference names differently: a fault of the model.
        kind, status = _tei_kind(error), 424 if status == 500 else status
        return json_response({"error": message, "error_type": kind}, status, headers)
    return json_response({"error": {"code": error.code, "message": message}}, status, headers)


def _tei_kind(error: UnderstudyError) -> str:
    if isinstance(error, OverloadedError):
        return "Overloaded"
    if isinstance(error, NotReadyError):
        return "Unhealthy"
    if isinstance(error, InputError):
        return "Validation"
    return "Backend"
