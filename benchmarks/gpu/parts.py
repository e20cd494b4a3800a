"""A part of a GPU run: a process of its own with a time limit, and what becomes of its output."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

_ROOT = Path(__file__).resolve().parents[2]
# Seconds that a part which is told its time needs besides: to start, and to finish what is under way.
_MARGIN = 30
_TAIL_LINES = 25

PASSED, FAILED, DONE, LATE, NOT_RUN = "passed", "failed", "done", "out of time", "not run"

Entry = dict[str, Any]


class Finished(NamedTuple):
    """How a part's process ended: `code` is None where it ran out of time."""

    code: int | None
    out: str
    err: str

    @property
    def tail(self) -> list[str]:
        """The last lines of both outputs."""
        return [*self.out.splitlines()[-_TAIL_LINES:], *self.err.splitlines()[-_TAIL_LINES:]]


def read_json(finished: Finished) -> Entry:
    """A part that prints one JSON object, behind what its libraries may have printed."""
    if finished.code != 0:
        return {"status": LATE if finished.code is None else FAILED, "tail": finished.tail}
    return {"status": DONE, "result": json.loads(finished.out[finished.out.index("{") :])}


@dataclass(frozen=True)
class Part:
    """What a part runs.

    Attributes:
        name: its key in the results.
        command: its words; '{output}' stands for the results' directory, '{seconds}' for the time to plan with.
        seconds: its limit; less where less is left of the whole run.
        read: its entry from its process: `status`, and what else there is to say.
        remark: one line for the last table, from a `result`.
        environment: variables to set, or with None to remove.
        on_cpu: what is added to the command for a machine without a GPU; None where it needs one.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    read: Callable[[Finished], Entry] = read_json
    remark: Callable[[Any], str] = lambda _: ""
    environment: Mapping[str, str | None] = field(default_factory=dict)
    on_cpu: tuple[str, ...] | None = None

    def run(self, output: Path, left: float, *, cpu: bool = False) -> Entry:
        """Runs it in the project's root and ends it, with all that it started, at its limit.

        Args:
            output: an existing directory.
            left: seconds of the whole run.

        Returns:
            `status`, `seconds`, `command` and what `read` makes of the output.
        """
        if cpu and self.on_cpu is None:
            return {"status": NOT_RUN, "reason": "it needs a CUDA GPU"}
        limit = min(self.seconds, left)
        if limit < 1:
            return {"status": NOT_RUN, "reason": "no time was left"}
        given = {"{output}": str(output.resolve()), "{seconds}": f"{max(1.0, limit - _MARGIN):.0f}"}
        command = [given.get(word, word) for word in (*self.command, *((self.on_cpu or ()) if cpu else ()))]
        started = time.monotonic()
        try:
            # An empty list of devices keeps a part that is meant for the CPU off a GPU that is there.
            finished = _finish(command, limit, {**self.environment, **({"CUDA_VISIBLE_DEVICES": ""} if cpu else {})})
        except FileNotFoundError:
            return {"status": NOT_RUN, "reason": f"{command[0]} is not installed"}
        entry = self._entry(finished)
        return {**entry, "seconds": round(time.monotonic() - started, 1), "command": " ".join(command)}

    def _entry(self, finished: Finished) -> Entry:
        try:
            return self.read(finished)
        except (ValueError, LookupError) as error:
            return {"status": FAILED, "reason": f"its output cannot be read: {error}", "tail": finished.tail}


def read_tests(finished: Finished) -> Entry:
    """pytest's outcomes, from its verbose output: also those before it ran out of time."""
    # With several processes the outcome stands in front of the test's name, else behind.
    either = (
        re.compile(r"^\[gw\d+\].*?(?P<outcome>PASSED|FAILED|ERROR|SKIPPED) \S+\.py::(?P<name>.+)$"),
        re.compile(r"^\S+\.py::(?P<name>.+) (?P<outcome>PASSED|FAILED|ERROR|SKIPPED)(?: \(.*\))?(?: *\[ *\d+%\])?$"),
    )
    matches = (line.match(text.rstrip()) for text in finished.out.splitlines() for line in either)
    found = {match["name"]: match["outcome"] for match in matches if match}
    if not found and finished.code is not None:  # pytest itself did not get to a test
        return {"status": NOT_RUN, "reason": (finished.tail or ["no output"])[-1], "tail": finished.tail}
    counts = {name.lower(): list(found.values()).count(name) for name in ("PASSED", "FAILED", "ERROR", "SKIPPED")}
    bad = [name for name, result in found.items() if result in ("FAILED", "ERROR")]
    result = {**counts, "failing": bad}
    if finished.code == 0 and counts["passed"]:
        return {"status": PASSED, "result": result}
    status = LATE if finished.code is None and not bad else FAILED
    return {"status": status, "result": result, "tail": finished.tail}


def read_sanitizer(finished: Finished) -> Entry:
    """compute-sanitizer's verdict; that it refuses the device is no failure of the kernels."""
    text = finished.out + finished.err
    summaries = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .+", text)
    if finished.code == 0 and summaries:
        return {"status": PASSED, "result": {"summary": summaries[-1]}}
    if finished.code is None:
        return {"status": LATE, "tail": finished.tail}
    refusal = re.search(r"^=+ *(.*(?:device not supported|failed to initialize).*)$", text, re.I | re.M)
    if refusal:
        return {"status": NOT_RUN, "reason": refusal[1], "tail": finished.tail}
    return {"status": FAILED, "result": {"summary": " ".join(summaries[-1:])}, "tail": finished.tail}


def _finish(command: list[str], limit: float, changes: Mapping[str, str | None]) -> Finished:
    variables = {name: value for name, value in {**os.environ, **changes}.items() if value is not None}
    # Files and not pipes: a process that the part left behind would hold a pipe open.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=variables, cwd=_ROOT, process_group=0
        )
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return Finished(code, *texts)
