"""The routes that classify, answered without the framework's way to them.

FastAPI's middleware, matching and injection take longer than all the rest of a request, and on few cores longer than a
small student's share of a batch. The endpoints are the same functions that FastAPI knows and describes in /docs.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from common.errors import UnderstudyError, WorkFailedError
from serve import native, oip, tei
from serve.responses import error_response

_LOG = logging.getLogger("understudy.serve")

Endpoint = Callable[[Request], Awaitable[Response]]


class DirectRoutes:
    """Middleware that answers POST requests to known paths itself and hands on everything else."""

    def __init__(self, app: ASGIApp, application: FastAPI, endpoints: dict[str, Endpoint]):
        self._app = app
        self._application = application
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        scope["app"] = self._application
        scope["route"] = _ROUTES[endpoint.func if isinstance(endpoint, partial) else endpoint]
        request = Request(scope, receive)
        try:
            response = await endpoint(request)
        except UnderstudyError as error:
            response = error_response(error, scope["path"])
        except Exception:
            _LOG.exception("a request failed")
            response = error_response(WorkFailedError("internal error; the server's log has it"), scope["path"])
        await response(scope, receive, send)


def direct_endpoints(model: str) -> dict[str, Endpoint]:
    """The endpoints by path, for the model of that name."""
    return {
        "/v1/classify": native.classify,
        "/predict": tei.predict,
        f"/v2/models/{model}/infer": partial(oip.infer, name=model),
    }


# What the metrics call them; a route of the framework has its path under the same name.
_ROUTES: dict[Any, SimpleNamespace] = {
    native.classify: SimpleNamespace(path="/v1/classify"),
    tei.predict: SimpleNamespace(path="/predict"),
    oip.infer: SimpleNamespace(path="/v2/models/{name}/infer"),
}
