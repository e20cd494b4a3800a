"""The real server as a child process, on a free port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Polls; fails when the time is up."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


class ServerProcess:
    """`understudy serve BUNDLE --port 0`; as a context it is killed at the end if it still runs.

    `greeting` is the line that it starts with.
    """

    def __init__(self, bundle: Path, *options: str, program: Sequence[str] = ("-m", "understudy", "serve")):
        self.process = subprocess.Popen(
            [sys.executable, *program, str(bundle), "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.greeting = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.greeting)
        assert found, self.greeting + self.process.stderr.read()
        self.url, self.port = found.group(0), int(found.group(1))
        wait_until(self._ready)

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def stop(self, how: signal.Signals) -> tuple[int, str, str]:
        """Exit code, standard output and standard error after a signal."""
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready").status_code == 200
        except httpx.TransportError:
            return False
