"""The HTTP application: routes, health, the page, and the one place where errors become responses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from fastapi_swagger import patch_fastapi
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from common.errors import InputError, NotFoundError, UnderstudyError, WorkFailedError
from serve import native, oip, tei
from serve.access import Access
from serve.direct_routes import DirectRoutes
from serve.documented import Responses, errors
from serve.metrics import CONTENT_TYPE
from serve.request_log import RequestLog, open_access_log
from serve.responses import error_response, json_response
from serve.service import Service
from serve.settings import ServiceSettings

_PAGE = Path(__file__).with_name("page.html")
# The page loads nothing from elsewhere and may not be framed.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


_UNHEALTHY: Responses = {503: {"description": "No"}}


class App(FastAPI):
    """A FastAPI application behind what every request passes.

    That stands outside of the framework, whose own way from a request to its first line takes longer than all of it.
    """

    front: ASGIApp
    direct: DirectRoutes | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self.front if scope["type"] == "http" else self.answer)(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As the framework does it."""
        await super().__call__(scope, receive, send)


def create_app(settings: ServiceSettings, *, direct: bool = True) -> App:
    """The application; its `state.service` loads the models when the application starts, or before by `start()`.

    Args:
        direct: whether requests to classify go the short way.

    Raises:
        InputError: a file that is to be written cannot be.
    """
    service = Service(settings)
    log = open_access_log(settings.access_log)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = App(
        title="Understudy",
        version=version("understudy"),
        description="Text classification by distilled students, and by their teachers.",
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
    access = Access(app.answer, settings.access)
    behind: ASGIApp = access
    if settings.access.origins:
        behind = CORSMiddleware(
            access,
            allow_origins=settings.access.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    request_log = RequestLog(behind, service.metrics, lambda: service.draining, log)
    app.front = request_log
    # What other origins are told is the framework's to say.
    if direct and not settings.access.origins:
        app.front = app.direct = DirectRoutes(request_log, app, access, request_log)
    return app


def _add_housekeeping(app: FastAPI, service: Service) -> None:
    page = _PAGE.read_text(encoding="utf-8")

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return HTMLResponse(page, headers=_PAGE_HEADERS)

    @app.get("/health/live", tags=["health"], responses=_UNHEALTHY)
    async def live() -> Response:
        """Whether the server can do its work; if not, only a new process would."""
        return json_response({"status": "live" if service.live else "worker lost"}, 200 if service.live else 503)

    @app.get("/health/ready", tags=["health"], responses=_UNHEALTHY)
    async def ready() -> Response:
        """Whether a request would be worked on."""
        return json_response({"status": "ready" if service.ready else "not ready"}, 200 if service.ready else 503)

    @app.get("/metrics", tags=["health"], response_class=PlainTextResponse, responses=errors("native"))
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
