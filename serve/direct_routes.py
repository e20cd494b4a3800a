"""The routes that classify, answered without the framework's way to them.

FastAPI's middleware, matching and injection take longer than all the rest of a request, and on few cores longer than a
small student's share of a batch. The endpoints are the same functions that FastAPI knows and describes in /docs.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from types import SimpleNamespace

from fastapi import FastAPI, Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from common.errors import UnderstudyError, WorkFailedError
from serve import native, oip, tei
from serve.responses import error_response

_LOG = logging.getLogger("understudy.serve")

Endpoint = Callable[[Request], Awaitable[Response]]


class DirectRoutes:
    """Middleware that answers POST requests to the routes that classify and hands on everything else."""

    def __init__(self, app: ASGIApp, application: FastAPI):
        self._app = app
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _find(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        endpoint, scope["route"] = found
        scope["app"] = self._application
        request = Request(scope, receive)
        try:
            response = await endpoint(request)
        except UnderstudyError as error:
            response = error_response(error, scope["path"])
        except Exception:
            _LOG.exception("a request failed")
            response = error_response(WorkFailedError("internal error; the server's log has it"), scope["path"])
        await response(scope, receive, send)


def _find(path: str) -> tuple[Endpoint, SimpleNamespace] | None:
    """The endpoint of a path, and its route as the framework would call it."""
    endpoint = _ENDPOINTS.get(path)
    if endpoint is not None:
        return endpoint
    if path.startswith(_INFER_BEFORE) and path.endswith(_INFER_BEHIND):
        name = path[len(_INFER_BEFORE) : -len(_INFER_BEHIND)]
        if name and "/" not in name:
            return partial(oip.infer, name=name), _INFER_ROUTE
    return None


# A route of the framework has its path under the same name.
_ENDPOINTS: dict[str, tuple[Endpoint, SimpleNamespace]] = {
    "/v1/classify": (native.classify, SimpleNamespace(path="/v1/classify")),
    "/predict": (tei.predict, SimpleNamespace(path="/predict")),
}
_INFER_BEFORE, _INFER_BEHIND = "/v2/models/", "/infer"
_INFER_ROUTE = SimpleNamespace(path="/v2/models/{name}/infer")
