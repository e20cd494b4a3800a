"""A server as a process of its own: started, waited for, asked, and stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from common.errors import WorkFailedError

HOST = "127.0.0.1"
# Loading PyTorch and a model takes a while on busy cores.
_START_SECONDS = 120
_STOP_SECONDS = 10


class ServerProcess:
    """As a context: starts the command, waits until it is ready, and stops it at the end.

    Args:
        command: what to run.
        port: where it will listen.
        ready_path: answers 200 when the server is ready.
        log: where its output goes.
        environment: added to this process's.
    """

    def __init__(
        self, command: Sequence[object], port: int, ready_path: str, log: Path, environment: Mapping[str, str]
    ):
        self.url = f"http://{HOST}:{port}"
        self.start_seconds = 0.0
        self.exit_code: int | None = None
        self._command = [str(part) for part in command]
        self._ready_url = self.url + ready_path
        self._log = log
        self._environment = {**os.environ, **environment}

    def __enter__(self) -> ServerProcess:
        """
        Raises:
            WorkFailedError: it cannot be run, ended, or was not ready in time; the message has its last lines.
        """
        started = time.monotonic()
        with self._log.open("wb") as log:
            # A session of its own, so that the processes that it starts can be stopped with it.
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )
        try:
            while not self._ready():
                if self._process.poll() is not None:
                    raise WorkFailedError(f"it ended with {self._process.returncode}: {self.last_lines()}")
                if time.monotonic() - started > _START_SECONDS:
                    raise WorkFailedError(f"it was not ready after {_START_SECONDS} s: {self.last_lines()}")
                time.sleep(0.1)
        except BaseException:
            self._stop()
            raise
        self.start_seconds = time.monotonic() - started
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def post(self, path: str, body: object) -> Any:
        """The JSON that the server answers.

        Raises:
            WorkFailedError: the answer has another status than 200, or none comes.
        """
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise WorkFailedError(f"it answered {error.code}: {error.read()[:300]!r}") from None
        except (OSError, ValueError) as error:
            raise WorkFailedError(f"it did not answer: {error}") from None

    def cpu_seconds(self) -> float | None:
        """Processor time that it and the processes that it started have had so far; None where the system has no /proc.

        Unlike throughput, it hardly depends on what else the machine does.
        """
        # User and system time, of each process.
        ticks = sum(int(fields[11]) + int(fields[12]) for fields in self._states())
        return ticks / os.sysconf("SC_CLK_TCK") if ticks else None

    def memory_bytes(self) -> int | None:
        """Physical memory that it and the processes that it started hold; None where the system has no /proc.

        What several of them share counts for each.
        """
        pages = sum(int(fields[21]) for fields in self._states())
        return pages * os.sysconf("SC_PAGE_SIZE") if pages else None

    def last_lines(self) -> str:
        """The end of what it printed."""
        return " | ".join(self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-8:])[-1000:]

    def _states(self) -> Iterator[list[str]]:
        """Of each process of its session what the system tells: state, parent, group, session and so on."""
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                fields = entry.read_text().rpartition(")")[2].split()  # before that the name, which may hold anything
                if int(fields[3]) == self._process.pid:
                    yield fields

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(self._ready_url, timeout=5) as response:
                return bool(response.status == 200)
        except OSError:  # refused, reset, or answered with another status
            return False

    def _stop(self) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.exit_code = self._process.wait(timeout=_STOP_SECONDS)
        # What is left of it would take the cores from the next server.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on at the moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]
