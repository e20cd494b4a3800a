"""JSON responses, and each protocol's shape of an error, chosen by the route."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Response

from common.errors import (
    InputError,
    NotReadyError,
    OverloadedError,
    UnderstudyError,
)

_HEADERS = [(b"content-type", b"application/json"), (b"x-content-type-options", b"nosniff")]
# Until a lost worker has been replaced, or a server that stops has a successor.
_NOT_READY_SECONDS = 1


class _JsonResponse(Response):
    """A response with the headers that each has, which the framework would put together anew for each."""

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        further = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items()]
        self.raw_headers = [*_HEADERS, (b"content-length", b"%d" % len(self.body)), *further]


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """`value` as JSON."""
    return _JsonResponse(orjson.dumps(value), status, headers)


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
