"""The model process: opens bundles and runs batches for the HTTP process, which started it.

A process of its own, so that a crash inside a model, or the system taking its memory, costs the requests that it worked
on and nothing else. It ends when the HTTP process is gone.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, UnderstudyError, WorkFailedError, first_line
from common.tokenization import Encoded
from serve.engine import Engine
from serve.frames import Frame, receive, to_bytes, unpack_texts

_LOG = logging.getLogger("understudy.serve")

# Any text will do: a model's first run allocates, and no caller should wait for that.
_FIRST_TEXT = "ready"


class ModelWorker:
    """Answers the messages of one connection.

    Messages, by `do`: `load` a bundle under a number, `run` a batch on it, `unload` it.
    """

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._sending = threading.Lock()
        self._engines: dict[int, Engine] = {}
        # A model on a GPU takes one batch at a time, however many lanes there are.
        self._turns: dict[int, threading.Semaphore] = {}
        # Loading must not keep batches waiting.
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="loading")

    def serve(self, lanes: int) -> None:
        """Works until the other side is gone."""
        # One batch at a time needs no thread, whose waking would cost as much as a short text.
        threads = ThreadPoolExecutor(lanes, thread_name_prefix="model") if lanes > 1 else None
        for frame in receive(self._connection):
            match frame.head["do"]:
                case "run":
                    self._run(frame) if threads is None else threads.submit(self._run, frame)
                case "load":
                    self._loading.submit(self._load, frame.head)
                case "unload":
                    self._engines.pop(frame.head["model"], None)
                    self._turns.pop(frame.head["model"], None)

    def _load(self, head: dict[str, Any]) -> None:
        try:
            engine = Engine.load(head["path"], **head["options"])
            engine.classify([_FIRST_TEXT])
        except Exception as error:
            if not isinstance(error, UnderstudyError):
                _LOG.exception("%s cannot be loaded", head["path"])
            self._send({"id": head["id"], "error": _described(error)})
            return
        self._turns[head["model"]] = threading.Semaphore(engine.model.lanes)
        self._engines[head["model"]] = engine
        told = {"device": engine.model.device, "padding_cost": engine.model.padding_cost}
        self._send({"id": head["id"], "files": engine.bundle.manifest.files, **told})

    def _run(self, frame: Frame) -> None:
        head = frame.head
        started = time.perf_counter()
        engine, turn = self._engines.get(head["model"]), self._turns.get(head["model"])
        if engine is None or turn is None:
            gone = {"kind": "gone", "message": "the model has been replaced; try again"}
            self._send({"id": head["id"], "error": gone})
            return
        try:
            with turn:
                logits, errors = self._logits(engine, unpack_texts(head["lengths"], frame.body))
        except Exception:  # none is foreseen, and whoever waits must be told
            _LOG.exception("a batch failed")
            self._send({"id": head["id"], "error": {"kind": "failed", "message": "the model failed"}})
            return
        seconds = time.perf_counter() - started
        self._send({"id": head["id"], "seconds": seconds, "errors": errors}, logits.tobytes())

    def _logits(self, engine: Engine, batch: list[Encoded]) -> tuple[NDArray[np.float32], dict[str, str]]:
        """Logits `[batch, labels]`, and what went wrong by row.

        A batch that fails is run text by text, so that only the guilty one fails.
        """
        try:
            logits = engine.model.run(batch)
            if logits.shape != (len(batch), len(engine.task.labels)):
                raise WorkFailedError(f"the model gave an output of shape {logits.shape} to {len(batch)} texts")
            return np.ascontiguousarray(logits, np.float32), {}
        except Exception as error:
            if len(batch) == 1:
                _LOG.exception("the model failed on a text")
                # What went wrong inside is the operator's business, not the caller's.
                reason = str(error) if isinstance(error, UnderstudyError) else "the model failed on this text"
                return np.full((1, len(engine.task.labels)), np.nan, np.float32), {"0": reason}
        rows = [self._logits(engine, [text]) for text in batch]
        errors = {str(row): error["0"] for row, (_, error) in enumerate(rows) if error}
        return np.concatenate([logits for logits, _ in rows]), errors

    def _send(self, head: dict[str, Any], body: bytes = b"") -> None:
        with self._sending:
            self._connection.sendall(to_bytes(head, body))


def _described(error: Exception) -> dict[str, Any]:
    if isinstance(error, ModuleNotFoundError):
        return {
            "kind": "failed",
            "message": f"{error.name} is not installed: pip install '.[train]' in Understudy's directory",
        }
    kind = "invalid" if isinstance(error, InputError) else "failed"
    return {"kind": kind, "message": str(error) if isinstance(error, UnderstudyError) else first_line(error)}


def main() -> None:
    """`python -m serve.model_worker FD LANES`."""
    # Ctrl-C reaches the whole group; what is admitted is answered first, so the HTTP process decides when to end.
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, signal.SIG_IGN)
    logging.basicConfig(format="%(message)s")
    try:
        with socket.socket(fileno=int(sys.argv[1])) as connection:
            ModelWorker(connection).serve(int(sys.argv[2]))
    except OSError:
        pass  # the HTTP process is gone
    # Without waiting for a thread that loads or runs.
    os._exit(0)


if __name__ == "__main__":
    main()
