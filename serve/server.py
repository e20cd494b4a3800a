"""`serve`: the application under uvicorn, from a free port to a clean end."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from pathlib import Path

# Each of these would start as many threads as there are cores, beside the model's own.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import uvicorn

from common.errors import InputError
from common.progress import say
from serve.app import create_app
from serve.engine import Engine
from serve.scheduler import SchedulerSettings

# Below the 30 seconds after which common supervisors kill.
GRACE_SECONDS = 25


def run_server(
    bundle: Path,
    *,
    host: str,
    port: int,
    engine: str = "onnx",
    device: str = "auto",
    threads: int = 0,
    lanes: int = 1,
    settings: SchedulerSettings | None = None,
) -> None:
    """Serves until Ctrl-C or SIGTERM; requests under way are answered first.

    Args:
        port: 0 takes any free one.
        engine, device, threads, lanes: as in `Engine.load`.

    Raises:
        InputError: the address cannot be listened on, or the bundle will not do.
        WorkFailedError: CUDA is asked for and cannot be had.
    """
    started = time.monotonic()
    listener = _listen(host, port)
    with listener:
        loaded = Engine.load(bundle, engine=engine, device=device, threads=threads, lanes=lanes)
        loaded.classify(["ready"])  # the first run allocates; no caller should wait for that
        app = create_app(loaded, settings)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            server_header=False,
            proxy_headers=False,  # the caller's address is of no use here
        )
        address = listener.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        say(
            f"Serving {loaded.name} ({loaded.bundle.manifest.layers} layers, {len(loaded.task.labels)} labels"
            f"{'' if (engine, device) == ('onnx', 'auto') else f', {engine} on {loaded.model.device}'}) at "
            f"http://{shown}:{address[1]} after {time.monotonic() - started:.1f} s. Ctrl-C stops it."
        )
        # uvicorn answers what is under way, then raises the signal that stopped it.
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
    say("Stopped.")


def _listen(host: str, port: int) -> socket.socket:
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
