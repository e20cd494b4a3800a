"""A model behind HTTP as one more that is measured: asked in its server's dialect, every failed request counted."""

from __future__ import annotations

import contextlib
import http.client
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import SplitResult, urlsplit

import numpy as np
import orjson

from benchmarks.bench.contestants import STUDENT, Answers
from benchmarks.bench.dialects import Dialect, Native, OpenInference, Predict, Reading, Refusal, are_probabilities
from benchmarks.servers.connection import Address
from benchmarks.servers.open_loop import post
from common.errors import InputError, WorkFailedError, first_line, shown
from common.labels import MULTI_LABEL, MULTI_LABEL_THRESHOLD, Task, activate
from common.tokenization import Text

NATIVE, TEI, OIP = "understudy", "tei", "oip"
DIALECTS = (NATIVE, TEI, OIP)
# A key that the server asks for, sent as `Authorization: Bearer`.
KEY_VARIABLE = "UNDERSTUDY_BENCH_KEY"
# Until an answer counts as missing.
TIMEOUT_SECONDS = 30.0
# Texts of a request where every text is answered: what Text Embeddings Inference takes at most unless told otherwise.
_CHUNK = 32


@dataclass(frozen=True)
class RemoteSource:
    """A server's model, as the user names it.

    Attributes:
        url: of the server, without a dialect's path.
        dialect: one of `DIALECTS`.
        model: its name there; 'oip' needs one, 'tei' has none, 'understudy' takes the server's first without.
    """

    url: str
    dialect: str = NATIVE
    model: str | None = None

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            named = parts.hostname is not None and parts.port != 0
        except ValueError:
            named = False
        if not named or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
            raise InputError(f"'{shown(self.url)}' is no URL of a server, as in http://127.0.0.1:8000")
        if "@" in parts.netloc:
            # The report, which is there to be sent, names the URL.
            raise InputError(f"--url must not hold a password: a key goes into the variable {KEY_VARIABLE}")
        if self.dialect not in DIALECTS:
            raise InputError(f"dialect must be one of {', '.join(DIALECTS)}, not '{shown(self.dialect)}'")
        if self.dialect == OIP and not self.model:
            raise InputError("the Open Inference Protocol asks for a model by name: give it with --model")
        if self.dialect == TEI and self.model:
            raise InputError("a server that speaks TEI's dialect has one model, which has no name: leave out --model")

    @property
    def parts(self) -> SplitResult:
        return urlsplit(self.url)

    @property
    def address(self) -> Address:
        parts = self.parts
        tls = parts.scheme == "https"
        return Address(str(parts.hostname), parts.port or (443 if tls else 80), tls)


class RemoteError(WorkFailedError):
    """A request that has no answer.

    Attributes:
        kind: an HTTP status, an error code of a text's own, 'timeout', 'connection' or 'malformed'.
    """

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


class RemoteModel:
    """A server's model; see `benchmarks.bench.contestants.Contestant`.

    Attributes:
        requests: that were sent so far, those of an open loop included.
        errors: how many of them failed, by `RemoteError.kind`.
    """

    def __init__(self, id: str, source: RemoteSource, task: Task, role: str = STUDENT):
        self.id, self.source, self.task, self.role = id, source, task, role
        self.requests = 0
        self.errors: Counter[str] = Counter()
        # Whether the numbers of a server that says no more of them are logits: once seen, that holds for all.
        self._logits = False
        self._connection: http.client.HTTPConnection | None = None
        key = os.environ.get(KEY_VARIABLE)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._dialect: Dialect = Native(source.model)
        if source.dialect == TEI:
            self._dialect = Predict()
        elif source.dialect == OIP:
            assert source.model is not None
            self._dialect = OpenInference(source.model)

    @classmethod
    def open(cls, id: str, source: RemoteSource, task: Task, role: str = STUDENT) -> RemoteModel:
        """A model that has answered a text, with labels that the task has.

        Args:
            task: the teacher's.

        Raises:
            InputError: nobody answers at that URL, or not in that dialect, or with other labels.
        """
        model = cls(id, source, task, role)
        if isinstance(model._dialect, OpenInference):
            model._dialect = OpenInference.of_server(model._dialect.model, model._fetch)
        try:
            model.ask(["ready"])
        except RemoteError as error:
            raise InputError(f"{source.url} does not answer in the dialect '{source.dialect}': {error}") from None
        if task.problem_type == MULTI_LABEL:
            told = model._dialect.describe(model._fetch).get("thresholds", {})
            usual = MULTI_LABEL_THRESHOLD
            limits = tuple(told.get(label, told.get(f"LABEL_{label}", usual)) for label in task.labels)
            model.task = replace(task, thresholds=limits)
        model.requests = 0
        return model

    @property
    def where(self) -> str:
        """The server's URL."""
        return self.source.url

    def ask(self, texts: Sequence[Text]) -> list[Reading]:
        """The answers to one request.

        Raises:
            RemoteError: there is none, or not for every text; counted once.
        """
        self.requests += 1
        try:
            readings = self.read(self._post(self._path(), self._body(texts)), len(texts))
            for reading in readings:
                if isinstance(reading, Refusal):
                    raise RemoteError(reading.kind, f"a text was refused: {shown(reading.message, 200)}")
        except RemoteError as error:
            self.errors[error.kind] += 1
            raise
        return readings  # type: ignore[return-value]

    def read(self, body: bytes, count: int) -> list[Reading | Refusal]:
        """What the body of an answer with status 200 says of each of `count` texts.

        Raises:
            RemoteError: it is not what the dialect says, or has other labels than the task.
        """
        try:
            return self._dialect.read(orjson.loads(body), count, self.task)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise RemoteError("malformed", f"the answer cannot be read: {shown(first_line(error), 200)}") from None

    def request(self, text: Text) -> bytes:
        """The request for one text, as an open loop sends it."""
        host = self.source.parts.netloc.rpartition("@")[2]
        return post(
            host, self._path(), self._body([text]), [f"{name}: {value}" for name, value in self._headers.items()]
        )

    def call(self, texts: Sequence[Text]) -> None:
        self.ask(texts)

    def answer(self, texts: Sequence[Text]) -> Answers:
        parts = [texts[start : start + _CHUNK] for start in range(0, len(texts), _CHUNK)]
        readings = [reading for part in parts for reading in self._ask_each(part)]
        scores = np.full((len(texts), len(self.task.labels)), np.nan, np.float32)
        for row, reading in enumerate(readings):
            if reading is not None:
                scores[row] = reading.scores
        untold = [row for row, reading in enumerate(readings) if reading is not None and reading.untold]
        if untold:
            self._logits = self._logits or not are_probabilities(scores[untold], self.task)
            if self._logits:
                scores[untold] = activate(scores[untold], self.task.problem_type)
        told = [reading.truncated for reading in readings if reading is not None and reading.truncated is not None]
        return Answers(scores, sum(told) if told else None)

    def describe(self) -> dict[str, Any]:
        told = self._dialect.describe(self._fetch)
        known = ("engine", "device", "precision", "layers", "parameters", "max_length", "sha256")
        return {
            "id": self.id,
            "role": self.role,
            "where": self.where,
            "name": told.get("name") or self.id,
            **{name: told.get(name) for name in known},
            "manifest_sha256": None,
            "bytes": None,
            "dialect": self.source.dialect,
            "requests": self.requests,
            "errors": dict(self.errors),
        }

    def close(self) -> None:
        """Ends the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask_each(self, texts: Sequence[Text]) -> list[Reading | None]:
        """One request, or where it fails one a text, so that a text that is refused costs no other's answer."""
        try:
            return list(self.ask(texts))
        except RemoteError:
            if len(texts) == 1:
                return [None]
        return [reading for text in texts for reading in self._ask_each([text])]

    def _path(self) -> str:
        return self.source.parts.path.rstrip("/") + self._dialect.path()

    def _body(self, texts: Sequence[Text]) -> bytes:
        return orjson.dumps(self._dialect.ask(texts))

    def _post(self, path: str, body: bytes) -> bytes:
        return self._exchange("POST", path, body, {"Content-Type": "application/json", **self._headers})

    def _fetch(self, path: str) -> Any:
        with contextlib.suppress(RemoteError, orjson.JSONDecodeError):
            told = orjson.loads(self._exchange("GET", self.source.parts.path.rstrip("/") + path, None, self._headers))
            return told if isinstance(told, dict) else None
        return None

    def _exchange(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> bytes:
        """The body of an answer with status 200.

        Raises:
            RemoteError: there is none.
        """
        used = self._connection is not None
        try:
            connection = self._connection = self._connection or self._connect()
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            answer = response.read()
        except TimeoutError:
            self.close()
            raise RemoteError("timeout", f"no answer within {TIMEOUT_SECONDS:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            # A server may close a connection that was idle for a while just when it is used again.
            if used and isinstance(error, ConnectionError | http.client.RemoteDisconnected):
                return self._exchange(method, path, body, headers)
            raise RemoteError("connection", shown(first_line(error), 200)) from None
        if response.status != 200:
            said = answer.decode(errors="replace")
            raise RemoteError(str(response.status), f"it answered {response.status}: {shown(said, 200)}")
        return answer

    def _connect(self) -> http.client.HTTPConnection:
        address = self.source.address
        kind = http.client.HTTPSConnection if address.tls else http.client.HTTPConnection
        return kind(address.host, address.port, timeout=TIMEOUT_SECONDS)
