"""The HTTP application: routes, health, the page, and the one place where errors become responses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from fastapi_swagger import patch_fastapi
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.errors import InputError, NotFoundError, NotReadyError, UnderstudyError, WorkFailedError
from serve import native, oip, tei
from serve.direct_routes import DirectRoutes, direct_endpoints
from serve.engine import Engine
from serve.metrics import CONTENT_TYPE, ServerMetrics
from serve.responses import error_response, json_response
from serve.scheduler import SchedulerSettings
from serve.service import Service, ServiceLimits

_PAGE = Path(__file__).with_name("page.html")
# The page loads nothing from elsewhere and may not be framed.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def create_app(
    engine: Engine, settings: SchedulerSettings | None = None, limits: ServiceLimits | None = None
) -> FastAPI:
    """The application over a loaded engine."""
    service = Service(engine, settings or SchedulerSettings(), limits or ServiceLimits())

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.scheduler.start()
        yield
        await service.stop()

    app = FastAPI(
        title="Understudy",
        version=version("understudy"),
        description=f"Text classification by {engine.name}.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    # FastAPI's own /docs loads its script from elsewhere and stays blank on a machine without a way out.
    patch_fastapi(app, redirect_from_root_to_docs=False)
    app.state.service = service
    for room in (native, tei, oip):
        app.include_router(room.router)
    _add_housekeeping(app, service)
    _add_error_handlers(app)
    app.add_middleware(DirectRoutes, application=app, endpoints=direct_endpoints(engine.name))
    app.add_middleware(_RequestCounter, metrics=service.metrics)
    return app


def _add_housekeeping(app: FastAPI, service: Service) -> None:
    page = _PAGE.read_text(encoding="utf-8")

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return HTMLResponse(page, headers=_PAGE_HEADERS)

    @app.get("/health/live", tags=["health"])
    async def live() -> Response:
        """Whether the process answers; a lost worker means that only a new process would."""
        lost = service.scheduler.lost
        return json_response({"status": "worker lost" if lost else "live"}, 503 if lost else 200)

    @app.get("/health/ready", tags=["health"])
    async def ready() -> Response:
        """Whether a request would be worked on."""
        is_ready = service.scheduler.ready
        return json_response({"status": "ready" if is_ready else "not ready"}, 200 if is_ready else 503)

    @app.get("/metrics", tags=["health"])
    async def metrics() -> Response:
        """Counters in Prometheus' text format."""
        return Response(service.metrics.render(), media_type=CONTENT_TYPE)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(UnderstudyError)
    async def foreseen(request: Request, error: UnderstudyError) -> Response:
        return error_response(error, request.url.path)

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return error_response(NotFoundError(f"no route {request.url.path}"), request.url.path)
        response = error_response(InputError(str(error.detail)), request.url.path)
        response.status_code = error.status_code
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, _error: Exception) -> Response:
        # The server itself logs the traceback.
        return error_response(WorkFailedError("internal error; the server's log has it"), request.url.path)


class _RequestCounter:
    """Counts each request by its route and status, outside of everything that could answer it."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics):
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        status = 0

        async def noting_the_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting_the_status)
        except asyncio.CancelledError:
            # The grace period is over while this request was under way.
            if status == 0:
                stopping = error_response(NotReadyError("the server is stopping"), scope["path"])
                await stopping(scope, receive, noting_the_status)
        finally:
            # The route, not the path, which callers could make up without end.
            route = getattr(scope.get("route"), "path", "unknown")
            self._metrics.request(route, status or 500, time.monotonic() - started)
