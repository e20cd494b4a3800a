"""Shadow traffic: the teacher answers a sample of live texts beside the student, off the way of every response."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO, TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import NamedTuple

from common.errors import InputError, NotReadyError
from common.tokenization import Text
from serve.agreement import Agreement
from serve.codec import Prediction
from serve.metrics import ServerMetrics

_LOG = logging.getLogger("understudy.serve")

# Sampled texts that wait for the teacher; more are dropped, and counted.
_WAITING = 256
# Texts that go to the teacher together.
_TOGETHER = 8
_LOAD = 0.1
_LOG_BYTES, _LOG_FILES = 64 * 1024 * 1024, 4


@dataclass(frozen=True)
class ShadowSettings:
    """What the teacher is shown.

    Attributes:
        share: of the student's texts that are sampled; 0 turns it off.
        load: the largest share of time that the teacher works on them; None takes 0.1.
        disagreements: a file that keeps the texts on which the two disagree; None keeps none.
    """

    share: float = 0.0
    load: float | None = None
    disagreements: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InputError("--shadow must lie between 0 and 1: it is a share of texts")
        if self.load is not None and not 0 < self.load <= 1:
            raise InputError("--shadow-load must lie above 0 and be at most 1: it is a share of time")
        for option, value in (("--shadow-load", self.load), ("--disagreements", self.disagreements)):
            if value is not None and not self.share:
                raise InputError(f"{option} is of use with --shadow alone")

    @property
    def largest_load(self) -> float:
        """Share of time that the teacher works on samples."""
        return _LOAD if self.load is None else self.load


class _Sample(NamedTuple):
    text: Text
    student: Prediction


class Shadow:
    """Samples texts, has the teacher answer them while nothing else waits, and compares.

    Args:
        ask: the teacher's predictions of texts, in the background; None where it has none.
    """

    def __init__(
        self,
        settings: ShadowSettings,
        ask: Callable[[Sequence[Text]], Awaitable[list[Prediction | None]]],
        metrics: ServerMetrics,
        seed: int | None = None,
    ):
        self.settings = settings
        self.agreement = Agreement()
        self._ask = ask
        self._metrics = metrics
        self._random = random.Random(seed)
        self._samples: deque[_Sample] = deque()
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._log = open_log(settings.disagreements) if settings.disagreements is not None else None

    def start(self) -> None:
        """Begins to work; called on the event loop."""
        if self.settings.share:
            self._task = asyncio.create_task(self._work(), name="shadow")

    async def stop(self) -> None:
        """Ends; what waits is dropped."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._log is not None:
            self._log.close()

    def forget(self) -> None:
        """Starts the comparison anew, for another student or teacher."""
        self.agreement = Agreement()
        self._samples.clear()

    def offer(self, text: Text, student: Prediction, teacher: Prediction | None = None) -> None:
        """A text that was answered; by chance it becomes part of the sample.

        Args:
            teacher: its answer, where the cascade has asked it already.
        """
        if not self.settings.share or self._random.random() >= self.settings.share:
            return
        self.agreement.see(student.answer)
        if teacher is not None:
            self._compare(_Sample(text, student), teacher)
        elif len(self._samples) >= _WAITING:
            self._metrics.shadow_dropped(1)
        else:
            self._samples.append(_Sample(text, student))
            self._arrived.set()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._samples:
                together = [self._samples.popleft() for _ in range(min(_TOGETHER, len(self._samples)))]
                seconds = 0.0
                try:
                    started = loop.time()
                    answers = await self._ask([sample.text for sample in together])
                    seconds = loop.time() - started
                    for sample, answer in zip(together, answers, strict=True):
                        if answer is not None:
                            self._compare(sample, answer)
                except NotReadyError:
                    self._metrics.shadow_dropped(len(together))
                except Exception:
                    _LOG.exception("texts could not be compared")
                await asyncio.sleep(seconds * (1 / self.settings.largest_load - 1))

    def _compare(self, sample: _Sample, teacher: Prediction) -> None:
        agreed = sample.student.agrees_with(teacher)
        divergence = self.agreement.compare(sample.student, teacher)
        missed = set(teacher.chosen).difference(sample.student.chosen)
        self._metrics.compared(agreed, missed, divergence)
        if not agreed and self._log is not None:
            self._log.emit(_record(sample, teacher))


class _PrivateFile(RotatingFileHandler):
    """Files that their owner alone may read, since they hold what users wrote."""

    _failed = False

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        with contextlib.suppress(OSError):  # a file that was there may be another's
            os.fchmod(descriptor, 0o600)
        return TextIOWrapper(FileIO(descriptor, "a"), encoding=self.encoding, write_through=True)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802
        # Without the record, which the usual handler prints: it holds a user's text. And once, not for every text.
        if not self._failed:
            _LOG.error("disagreements cannot be written to %s: %s", self.baseFilename, sys.exc_info()[1])
        self._failed = True


def open_log(path: Path) -> RotatingFileHandler:
    """The file of disagreements: JSON lines that `distill --unlabelled` reads.

    Raises:
        InputError: it cannot be written.
    """
    try:
        log = _PrivateFile(path, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--disagreements {path}: {error.strerror or error}") from None
    log.setFormatter(logging.Formatter("%(message)s"))
    return log


def _record(sample: _Sample, teacher: Prediction) -> logging.LogRecord:
    first, second = sample.text if isinstance(sample.text, tuple) else (sample.text, None)
    line = {
        "text": first,
        "text_pair": second,
        "student": {"label": sample.student.answer, "score": round(sample.student.score, 6)},
        "teacher": {"label": teacher.answer, "score": round(teacher.score, 6)},
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    message = json.dumps(line, ensure_ascii=False)
    return logging.LogRecord("disagreements", logging.INFO, "", 0, message, None, None)
