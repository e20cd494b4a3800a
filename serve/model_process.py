"""The model process as the HTTP process sees it: started, spoken to, and started anew when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from common.errors import InputError, NotReadyError, UnderstudyError, WorkFailedError
from common.machine import usable_cores
from common.tokenization import Encoded
from serve.codec import Codec, Prediction
from serve.frames import Frame, FrameReader, pack_texts, to_bytes

_LOG = logging.getLogger("understudy.serve")

# Seconds between attempts to start it: doubled with each that fails.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
# Starts in a row that fail until a new HTTP process might do better, which liveness then says.
_HOPELESS = 5
_STOP_SECONDS = 5
# A batch that takes longer will not end: the largest one takes a large model on a slow core half a minute.
_STALLED_SECONDS = 180
# A large bundle on a slow disk or a busy machine takes its time, and meanwhile the others' batches run.
_OPENING_SECONDS = 3600


class _NotOpenError(NotReadyError):
    """The model process does not have the model."""


_ERRORS = {"invalid": InputError, "failed": WorkFailedError, "gone": _NotOpenError}


@dataclass(frozen=True)
class EngineOptions:
    """What runs the models.

    Attributes:
        engine, device, threads: as in `Engine.load`.
        lanes: as there; 0 takes two where two threads share a CPU, since neither then waits for the other at each
            operator (11 and 22 % more texts a second of an int8 and a float32 student, on two cores), and else one.
    """

    engine: str = "onnx"
    device: str = "auto"
    threads: int = 0
    lanes: int = 0

    def __post_init__(self) -> None:
        if self.lanes == 0:
            shared = self.engine == "onnx" and self.device != "cuda" and (self.threads or usable_cores()) >= 2
            object.__setattr__(self, "lanes", 2 if shared else 1)


@dataclass(eq=False)
class LoadedModel:
    """A bundle whose model is open in the model process.

    Attributes:
        number: what the two processes call it.
        codec: its tokenizer and head, on this side.
        name: what callers call it.
        device: where it runs.
        padding_cost: as `Model.padding_cost`.
    """

    number: int
    codec: Codec
    name: str = ""
    device: str = ""
    padding_cost: float = 1.0


@dataclass(frozen=True)
class BatchResult:
    """What a batch came to: an outcome a text, and the seconds of the model alone."""

    outcomes: list[Prediction | UnderstudyError]
    seconds: float


@dataclass(eq=False)
class _Link(asyncio.Protocol):
    """The connection to one life of the process."""

    on_lost: Callable[[], None]
    waiting: dict[int, asyncio.Future[Frame]] = field(default_factory=dict)
    transport: asyncio.Transport | None = None
    reader: FrameReader = field(default_factory=FrameReader)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by name

    def data_received(self, data: bytes) -> None:
        for frame in self.reader.feed(data):
            waiter = self.waiting.pop(frame.head["id"], None)
            if waiter is not None and not waiter.done():
                waiter.set_result(frame)

    def connection_lost(self, _error: Exception | None) -> None:
        self.transport = None
        for waiter in self.waiting.values():
            if not waiter.done():
                waiter.set_exception(NotReadyError("the worker that held the request was lost; try again"))
        self.waiting.clear()
        self.on_lost()


class ModelProcess:
    """Runs batches in a process of its own.

    Attributes:
        restarts: how many times it was lost and started anew.
        on_changed: told of a model whose bundle was changed since, when it is to be opened anew; puts another in its
            place or raises.
    """

    def __init__(self, options: EngineOptions):
        self.options = options
        self.on_changed: Callable[[LoadedModel], Awaitable[None]] | None = None
        self.restarts = 0
        self._models: dict[int, LoadedModel] = {}
        self._numbers = iter(range(1, sys.maxsize))
        self._process: subprocess.Popen[bytes] | None = None
        self._link: _Link | None = None
        self._up = asyncio.Event()
        self._failures = 0
        self._revival: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def ready(self) -> bool:
        """Whether it has all its models and would run a batch."""
        return self._up.is_set()

    @property
    def hopeless(self) -> bool:
        """Whether it has failed to start so often that only a new HTTP process might mend that."""
        return self._failures >= _HOPELESS

    @property
    def pid(self) -> int | None:
        """The number of the process, if there is one."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Starts the process, without models."""
        await self._spawn()
        self._up.set()

    async def wait_until_ready(self) -> None:
        """Returns at once, or when a lost process has been replaced."""
        await self._up.wait()

    async def load(self, codec: Codec, name: str = "") -> LoadedModel:
        """Opens a bundle's model.

        Args:
            name: what callers call it.

        Raises:
            InputError: the model cannot be opened, or the bundle was changed since the codec was read.
            WorkFailedError: CUDA is asked for and cannot be had, or packages are missing.
            NotReadyError: the process was lost on the way.
        """
        model = LoadedModel(next(self._numbers), codec, name)
        await self._open(model)
        self._models[model.number] = model
        return model

    def unload(self, model: LoadedModel) -> None:
        """Frees a model's memory."""
        self._models.pop(model.number, None)
        with contextlib.suppress(NotReadyError):
            self._send({"do": "unload", "model": model.number})

    async def run(self, model: LoadedModel, batch: Sequence[Encoded]) -> BatchResult:
        """One batch through the model.

        Raises:
            NotReadyError: the process was lost with the batch.
            WorkFailedError: the batch failed as a whole.
        """
        lengths, body = pack_texts(batch)
        try:
            answer = await self._ask({"do": "run", "model": model.number, "lengths": lengths}, body)
        except _NotOpenError:
            if model.number in self._models:
                # It runs, and has not what it should have: only a new one would.
                self._kill("does not have a model that it should have")
            raise
        logits = np.frombuffer(answer.body, np.float32).reshape(len(batch), -1)
        outcomes: list[Prediction | UnderstudyError] = list(model.codec.predictions(batch, logits))
        for row, reason in answer.head["errors"].items():
            outcomes[int(row)] = WorkFailedError(reason)
        return BatchResult(outcomes, answer.head["seconds"])

    async def stop(self, *, at_once: bool = False) -> None:
        """Ends the process, if need be without waiting for its batch."""
        self._stopping = True
        self._up.clear()
        if self._revival is not None:
            self._revival.cancel()
        if self._link is not None and self._link.transport is not None:
            self._link.transport.close()
        if self._process is not None:
            if at_once:
                self._process.kill()
            await asyncio.to_thread(_end, self._process)

    async def _open(self, model: LoadedModel) -> None:
        options = {name: getattr(self.options, name) for name in ("engine", "device", "threads", "lanes")}
        path = str(model.codec.bundle.path.resolve())
        head = {"do": "load", "model": model.number, "path": path, "options": options}
        answer = await self._ask(head, patience=_OPENING_SECONDS)
        model.device, model.padding_cost = answer.head["device"], answer.head["padding_cost"]
        if answer.head["files"] != model.codec.bundle.manifest.files:
            self._send({"do": "unload", "model": model.number})
            raise InputError(f"{model.codec.bundle.path} was changed while it was loaded; load it again")

    async def _open_anew(self, model: LoadedModel) -> None:
        try:
            await self._open(model)
        except InputError:
            if self.on_changed is None:
                raise
            await self.on_changed(model)
            # Whether another serves in its place or it had one already: this one will not come back.
            self._models.pop(model.number, None)

    async def _ask(self, head: dict[str, Any], body: bytes = b"", *, patience: float = _STALLED_SECONDS) -> Frame:
        number = next(self._numbers)
        answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        assert self._link is not None
        self._link.waiting[number] = answer
        self._send({**head, "id": number}, body)
        try:
            async with asyncio.timeout(patience):
                frame = await answer
        except TimeoutError:
            self._kill(f"has not answered for {patience} s")
            raise NotReadyError("the worker that held the request was lost; try again") from None
        if error := frame.head.get("error"):
            raise _ERRORS[error["kind"]](error["message"])
        return frame

    def _kill(self, reason: str) -> None:
        _LOG.error("the model process %s and is killed", reason)
        if self._process is not None:
            self._process.kill()

    def _send(self, head: dict[str, Any], body: bytes = b"") -> None:
        if self._link is None or self._link.transport is None:
            raise NotReadyError("the worker is being started anew; try again")
        self._link.transport.write(to_bytes(head, body))

    async def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", "serve.model_worker", str(theirs.fileno()), str(self.options.lanes)]
            # Found as this process found it, and nothing that happens to lie in the working directory.
            paths = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[1]), *sys.path]))
            self._process = subprocess.Popen(
                command, env={**os.environ, "PYTHONPATH": paths}, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )
        loop = asyncio.get_running_loop()
        _, self._link = await loop.create_unix_connection(lambda: _Link(self._lost), sock=ours)

    def _lost(self) -> None:
        if self._stopping:
            return
        self._up.clear()
        if self._revival is None or self._revival.done():
            self._revival = asyncio.create_task(self._revive(), name="revival")

    async def _revive(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            assert self._process is not None
            code = await asyncio.to_thread(_end, self._process)
            _LOG.error("the model process was lost (exit code %s); it is started anew", code)
            self.restarts += 1
            started = time.monotonic()
            try:
                await self._spawn()
                for model in list(self._models.values()):
                    await self._open_anew(model)
                if self._link is None or self._link.transport is None:
                    raise NotReadyError("it was lost again at once")
            except Exception as error:  # whatever it is, to give up would leave a server that does nothing
                self._failures += 1
                _LOG.error("the model process could not be started anew: %s", error)
                if self._link is not None and self._link.transport is not None:
                    self._link.transport.abort()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            self._failures = 0
            _LOG.warning("the model process is back after %.1f s", time.monotonic() - started)
            self._up.set()
            return


def _end(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
