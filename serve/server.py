"""`serve`: the application under uvicorn, from a free port to a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

# Each of these would start as many threads as there are cores, beside the model's own.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import uvicorn

from common.errors import InputError
from common.progress import say
from serve.app import App, create_app
from serve.http_protocol import PatientHttpProtocol
from serve.service import Service
from serve.settings import ServiceSettings

_LOG = logging.getLogger("understudy.serve")

# Below the 30 seconds after which common supervisors kill.
GRACE_SECONDS = 25
# Longer than common load balancers keep a connection, so that it is never they who find it closed.
KEEP_ALIVE_SECONDS = 75
# Connections, before those that are open already have their turn.
_ACCEPTED_AT_ONCE = 64


def run_server(settings: ServiceSettings, *, host: str, port: int, drain: float = 0.0) -> None:
    """Serves until Ctrl-C or SIGTERM; requests under way are answered first. SIGHUP reloads every bundle.

    Args:
        port: 0 takes any free one.
        drain: seconds between the signal to stop, from which on the server calls itself not ready, and its end, so
            that a load balancer can take notice.

    Raises:
        InputError: the address cannot be listened on, or a bundle will not do.
        WorkFailedError: CUDA is asked for and cannot be had, or packages are missing.
    """
    started = time.monotonic()
    _allow_many_connections()
    # Until there is something to reload; its default would end the server.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with listen(host, port) as listener:
        app = create_app(settings)
        config = uvicorn.Config(
            app,
            http=PatientHttpProtocol,
            log_level="warning",
            access_log=False,
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            lifespan="off",  # the service starts before anybody is let in, and ends after the last is answered
            timeout_graceful_shutdown=GRACE_SECONDS,
            server_header=False,
            proxy_headers=False,  # the caller's address is of no use here
        )
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_serve(config, app, listener, started, drain))
    say("Stopped.")


async def _serve(config: uvicorn.Config, app: App, listener: socket.socket, started: float, drain: float) -> None:
    service: Service = app.state.service
    await service.start()
    server: _Server | None = None
    try:
        say(f"{_described(service)} at {_url(listener)} after {time.monotonic() - started:.1f} s. Ctrl-C stops it.")
        # What is there by now stays: a look through all of it for garbage would hold up whoever asks meanwhile.
        gc.collect()
        gc.freeze()
        server = _Server(config, app, drain)
        await server.serve(sockets=[listener])
    finally:
        # A process that did more than serve, such as the demo's, ends with what that left; extensions complain of it.
        gc.unfreeze()
        await service.stop(at_once=server is not None and server.force_exit)


class _Server(uvicorn.Server):
    """uvicorn's, with signals that let the service have its say."""

    def __init__(self, config: uvicorn.Config, app: App, drain: float):
        super().__init__(config)
        self._direct = app.direct
        self._service: Service = app.state.service
        self._drain = drain
        self._accepting: set[asyncio.Task[Any]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens. Accepts every connection that waits, where uvloop takes one in each turn of the loop: under load,
        when a turn is long, new callers would wait seconds for a refusal that takes microseconds."""
        await super().startup(sockets=[])
        for listener in sockets or []:
            listener.setblocking(False)
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in sockets or []:
            # Whoever has connected may have asked already, and would find the connection reset.
            asyncio.get_running_loop().remove_reader(listener)
            self._accept(listener)
            listener.close()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        await super().shutdown(sockets)

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, _address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError as error:
                # Too many open files, as a rule: it would be told anew in each turn of the loop.
                _LOG.error("a connection cannot be accepted: %s", error.strerror)
                loop.remove_reader(listener)
                loop.call_later(1.0, self._listen_again, listener)
                return
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = loop.create_task(loop.connect_accepted_socket(self._protocol, connection))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

    def _listen_again(self, listener: socket.socket) -> None:
        if not self.should_exit and listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _protocol(self) -> PatientHttpProtocol:
        return PatientHttpProtocol(self._direct, self.config, self.server_state, self.lifespan.state)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """While serving, the stop signals end it in good order and SIGHUP reloads."""
        loop = asyncio.get_running_loop()
        reloads: set[asyncio.Task[None]] = set()

        def reload() -> None:
            task = asyncio.ensure_future(self._service.reload_all())
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        handlers = {signal.SIGINT: self._stop, signal.SIGTERM: self._stop, signal.SIGHUP: reload}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        if self._service.draining:
            # Asked twice: whoever asks means at once.
            self.should_exit = self.force_exit = True
            return
        self._service.draining = True
        asyncio.get_running_loop().call_later(self._drain, setattr, self, "should_exit", True)


def _described(service: Service) -> str:
    """One line on what is served."""
    model = service.default
    manifest, engine = model.codec.bundle.manifest, service.settings.engine
    parts = [f"{manifest.layers} layers", f"{len(model.codec.task.labels)} labels"]
    if (engine.engine, engine.device) != ("onnx", "auto"):
        parts.append(f"{engine.engine} on {model.loaded.device}")
    others = [other.name for other in service.repository if other is not model]
    beside = f", and beside it {', '.join(others)}," if others else ""
    return f"Serving {model.name} ({', '.join(parts)}){beside}"


def _url(listener: socket.socket) -> str:
    address = listener.getsockname()
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{shown}:{address[1]}"


def _allow_many_connections() -> None:
    """Each connection takes a file descriptor, and the usual limit is a thousand."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections to a port.

    Raises:
        InputError: the port is in use, or none that can be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"port {port} of {host} is in use: choose another with --port") from None
        raise InputError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return listener
