"""Closed-loop load by wrk: each of its connections sends the next request when it has the answer to the last."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError, WorkFailedError
from common.examples import BY_USUAL_NAMES, read_examples

_SCRIPT = Path(__file__).with_name("post.lua")
_MARK = "result "
# Seconds after which wrk counts an answer as missing. Its own two would count slow servers as broken ones.
_TIMEOUT = 10


@dataclass(frozen=True)
class Load:
    """What wrk saw.

    Attributes:
        connections: open at a time.
        requests: answered, whatever the answer.
        seconds: that it took.
        p50_ms, p90_ms, p99_ms, max_ms: latency in milliseconds. wrk adds to the slow answers those that a request
            sent on schedule would have had meanwhile, so the percentiles lie a little above those of the answers seen.
        refused: answers with a status of 400 or above.
        socket_errors: connections, reads and writes that failed, and answers that did not come in time.
    """

    connections: int
    requests: int
    seconds: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    refused: int
    socket_errors: int

    @property
    def texts_per_s(self) -> float:
        """Texts that were classified in a second."""
        return (self.requests - self.refused) / self.seconds


def find_wrk() -> str:
    """
    Raises:
        WorkFailedError: it is not installed.
    """
    found = shutil.which("wrk")
    if found is None:
        raise WorkFailedError("wrk is not installed; it is the load generator (on Debian: apt-get install wrk)")
    return found


def read_texts(table: str) -> list[str]:
    """The texts of a table.

    Raises:
        InputError: it cannot be read, or has pairs of texts.
    """
    texts = read_examples(table, BY_USUAL_NAMES).texts
    single = [text for text in texts if isinstance(text, str)]
    if len(single) < len(texts):
        raise InputError(f"{table} has pairs of texts; the servers are asked for one text a request")
    return single


def write_bodies(bodies: Sequence[object], path: Path) -> Path:
    """Writes what the script posts: JSON, one body a line."""
    path.write_text("".join(json.dumps(body) + "\n" for body in bodies), encoding="utf-8")
    return path


def run_wrk(url: str, bodies: Path, connections: int, seconds: int) -> Load:
    """Loads a server from one thread.

    Args:
        bodies: as `write_bodies` writes them.

    Raises:
        WorkFailedError: wrk is not installed, cannot connect, or counted no answer.
    """
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={_TIMEOUT}s", f"--script={_SCRIPT}"]
    command = [find_wrk(), *options, url, "--", str(bodies)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return parse_wrk(done.stdout + done.stderr, connections)


def parse_wrk(output: str, connections: int) -> Load:
    """Reads what wrk and the script printed.

    Raises:
        WorkFailedError: the script's line is not there, or no request was answered.
    """
    line = next((line for line in output.splitlines() if line.startswith(_MARK)), None)
    if line is None:
        raise WorkFailedError(f"wrk measured nothing: {output.strip()[-500:]}")
    counted: dict[str, int] = json.loads(line.removeprefix(_MARK))
    if not counted["requests"] or not counted["duration"]:
        raise WorkFailedError(f"wrk had no answer: {line}")
    return Load(
        connections=connections,
        requests=counted["requests"],
        seconds=counted["duration"] / 1e6,
        p50_ms=counted["p50"] / 1e3,
        p90_ms=counted["p90"] / 1e3,
        p99_ms=counted["p99"] / 1e3,
        max_ms=counted["max"] / 1e3,
        refused=counted["status"],
        socket_errors=sum(counted[kind] for kind in ("connect", "read", "write", "timeout")),
    )
