"""A server of HTTP and JSON in a thread of its own, which answers as a test says: one request at a time, in order."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# From method, path and JSON body to status and JSON; None hangs up, bytes are sent as they are.
Answer = Callable[[str, str, Any], tuple[int, Any] | bytes | None]


class HttpServer:
    """
    Attributes:
        url: where it listens.
        requests: method, path and JSON body of each.
        headers: of the last request, its lines in lower case.
        busy: seconds that each request took once its turn had come.
    """

    def __init__(self, answer: Answer, service_seconds: float):
        self.requests: list[tuple[str, str, Any]] = []
        self.headers: list[str] = []
        self.busy: list[float] = []
        self._answer = answer
        self._service_seconds = service_seconds
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._started.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop, self._turn = asyncio.Event(), asyncio.Lock()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._started.set()
        await self._stop.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, path, _ = head.split(" ", 2)
                self.headers = head.lower().splitlines()[1:]
                lengths = [line.partition(":")[2] for line in self.headers if line.startswith("content-length:")]
                body = json.loads(await reader.readexactly(int(lengths[0]))) if lengths else None
                self.requests.append((method, path, body))
                async with self._turn:
                    started = time.perf_counter()
                    if self._service_seconds:
                        await asyncio.sleep(self._service_seconds)
                    answer = self._answer(method, path, body)
                    self.busy.append(time.perf_counter() - started)
                if answer is None:
                    break
                writer.write(answer if isinstance(answer, bytes) else _http(*answer))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        writer.close()


@contextmanager
def http_server(answer: Answer, service_seconds: float = 0.0) -> Iterator[HttpServer]:
    """
    Args:
        service_seconds: that each request takes.
    """
    server = HttpServer(answer, service_seconds)
    try:
        yield server
    finally:
        server.stop()


def _http(status: int, content: Any) -> bytes:
    body = json.dumps(content).encode()
    return f"HTTP/1.1 {status} Said\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
