"""The routes that classify, answered without the framework's way to them.

FastAPI's middleware, matching and injection take longer than all the rest of a request, and on few cores longer than a
small student's share of a batch. The endpoints are the same functions that FastAPI knows and describes in /docs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from types import SimpleNamespace

from fastapi import FastAPI, Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from common.errors import NotReadyError, UnderstudyError, WorkFailedError
from serve import native, oip, tei
from serve.access import Access
from serve.request_log import RequestLog
from serve.responses import error_response

_LOG = logging.getLogger("understudy.serve")

Endpoint = Callable[[Request], Awaitable[Response]]
# In a request's scope.
_ENDPOINT = "understudy.endpoint"


class DirectRoutes:
    """Middleware that answers POST requests to the routes that classify and hands on everything else.

    A protocol may ask it past ASGI, too: `takes`, then `refusal` or `answer`.

    Args:
        app: whatever else is asked goes there, and passes access and log by itself.
    """

    def __init__(self, app: ASGIApp, application: FastAPI, access: Access, log: RequestLog):
        self._app = app
        self._application = application
        self._access = access
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.takes(scope):
            response = await self.answer(scope, receive)
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def takes(self, scope: Scope) -> bool:
        """Whether the request is one to classify; its scope then says by which route."""
        found = _find(scope["path"]) if scope["method"] == "POST" else None
        if found is None:
            return False
        scope[_ENDPOINT], scope["route"] = found
        return True

    def refusal(self, scope: Scope) -> Response | None:
        """What to answer at once to a request that it takes and there is no room for, logged and counted."""
        try:
            self._application.state.service.scheduler.check_room()
            return None
        except UnderstudyError as error:
            refused = error
        entry = self._log.begin(scope)
        try:
            self._access.check(scope)
        except UnderstudyError as error:
            refused = error
        return self._log.ended(entry, scope, error_response(refused, scope["path"]))

    async def answer(self, scope: Scope, receive: Receive) -> Response:
        """The answer to a request that it takes, logged and counted."""
        scope["app"] = self._application
        entry = self._log.begin(scope)
        try:
            self._access.check(scope)
            response = await scope[_ENDPOINT](Request(scope, receive))
        except UnderstudyError as error:
            response = error_response(error, scope["path"])
        except asyncio.CancelledError:
            # The grace period is over while this request was under way.
            response = error_response(NotReadyError("the server is stopping"), scope["path"])
        except Exception:
            _LOG.exception("a request failed")
            response = error_response(WorkFailedError("internal error; the server's log has it"), scope["path"])
        return self._log.ended(entry, scope, response)


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
