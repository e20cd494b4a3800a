"""What classifying servers are asked and how their answers read: three dialects of JSON over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np
import orjson
from numpy.typing import NDArray

from common.errors import InputError, shown
from common.labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task, split_labels
from common.tokenization import Text

# Fetches a path of the server by GET: its JSON, or None where it answers with an error.
Fetch = Callable[[str], Any]
# Of one text's scores, where they are probabilities.
_ROUNDING = 1e-2


@dataclass(frozen=True)
class Reading:
    """What a server tells of one text.

    Attributes:
        scores: float32 `[labels]` in the task's order. Where a server names labels without scores, these have 1.
        truncated: whether the text lost tokens at the model's limit; None where it does not tell.
        untold: whether the server does not say if these are probabilities or logits; see `are_probabilities`.
    """

    scores: NDArray[np.float32]
    truncated: bool | None = None
    untold: bool = False


@dataclass(frozen=True)
class Refusal:
    """A text's own error within an answer that is none as a whole."""

    kind: str
    message: str


class Dialect(Protocol):
    """One way to ask; `read` raises ValueError, LookupError or TypeError for an answer that is not of its kind."""

    def path(self) -> str:
        """Where texts are posted."""

    def ask(self, texts: Sequence[Text]) -> dict[str, Any]:
        """The JSON that is posted."""

    def read(self, answer: Any, count: int, task: Task) -> list[Reading | Refusal]:
        """What an answer with status 200 says of each of `count` texts."""

    def describe(self, fetch: Fetch) -> dict[str, Any]:
        """What the server tells of its model, by the keys of `models` in `results.json`; and `thresholds`, the scores
        from which it gives each label, by label, where they are not one half."""


@dataclass(frozen=True)
class Native:
    """Understudy's own, `/v1/classify`: a text that cannot be classified has an error in its place."""

    model: str | None = None

    def path(self) -> str:
        return "/v1/classify"

    def ask(self, texts: Sequence[Text]) -> dict[str, Any]:
        inputs = [text if isinstance(text, str) else {"text": text[0], "text_pair": text[1]} for text in texts]
        return {"inputs": inputs} if self.model is None else {"inputs": inputs, "model": self.model}

    def read(self, answer: Any, count: int, task: Task) -> list[Reading | Refusal]:
        readings: list[Reading | Refusal] = []
        for output in _of_length(answer["outputs"], count):
            if error := output.get("error"):
                readings.append(Refusal(str(error["code"]), str(error["message"])))
            else:
                scores = {entry["label"]: entry["score"] for entry in output["scores"]}
                readings.append(Reading(_in_order(scores, task), output["truncated"]))
        return readings

    def describe(self, fetch: Fetch) -> dict[str, Any]:
        query = "" if self.model is None else f"?name={quote(self.model)}"
        told = fetch(f"/v1/model{query}")
        manifest = _in(told, "manifest")
        file = _in(_in(manifest, "files"), "model.onnx")
        return {
            **{name: _text(told, key) for name, key in (("name", "model"), ("engine", "engine"), ("device", "device"))},
            "precision": _text(manifest, "precision"),
            **{name: _count(manifest, name) for name in ("layers", "parameters", "max_length")},
            "sha256": _text(file, "sha256"),
            "thresholds": _by_label(_in(told, "labels"), _in(_in(manifest, "calibration"), "thresholds")),
        }


@dataclass(frozen=True)
class Predict:
    """Text Embeddings Inference's, `/predict`. A batch is a list of lists there, since a flat list is one pair."""

    def path(self) -> str:
        return "/predict"

    def ask(self, texts: Sequence[Text]) -> dict[str, Any]:
        return {"inputs": [[text] if isinstance(text, str) else list(text) for text in texts], "truncate": True}

    def read(self, answer: Any, count: int, task: Task) -> list[Reading | Refusal]:
        return [
            Reading(_in_order({entry["label"]: entry["score"] for entry in scores}, task))
            for scores in _of_length(answer, count)
        ]

    def describe(self, fetch: Fetch) -> dict[str, Any]:
        told = fetch("/info")
        return {
            "name": _text(told, "model_id"),
            "precision": _text(told, "model_dtype"),
            "max_length": _count(told, "max_input_length"),
        }


@dataclass(frozen=True)
class OpenInference:
    """The Open Inference Protocol v2's, `/v2/models/NAME/infer`, as KServe, Triton and MLServer speak it.

    Read are, whatever their names: a float tensor of one number a text and label, probabilities or logits, or a tensor
    of strings, which are labels or JSON with a label.

    Attributes:
        inputs: names of the tensors that take a text and, for pairs, the second one.
        column: whether these have the shape [n, 1] rather than [n].
    """

    model: str
    inputs: tuple[str, ...] = ("text", "text_pair")
    column: bool = False

    @classmethod
    def of_server(cls, model: str, fetch: Fetch) -> OpenInference:
        """As the model's metadata says what it takes; they are optional in that protocol."""
        inputs = _in(fetch(f"/v2/models/{quote(model)}"), "inputs")
        taken = [entry for entry in inputs if _in(entry, "datatype") == "BYTES"] if isinstance(inputs, list) else []
        names = tuple(name for entry in taken if (name := _text(entry, "name")))
        if not names:
            return cls(model)
        shape = _in(taken[0], "shape")
        return cls(model, names, isinstance(shape, list) and len(shape) == 2)

    def path(self) -> str:
        return f"/v2/models/{quote(self.model)}/infer"

    def ask(self, texts: Sequence[Text]) -> dict[str, Any]:
        columns = list(zip(*((text,) if isinstance(text, str) else text for text in texts), strict=True))
        if len(columns) > len(self.inputs):
            raise InputError(f"the server's model {shown(self.model)} takes one text, and the data has pairs of texts")
        shape = [len(texts), 1] if self.column else [len(texts)]
        return {
            "inputs": [
                {"name": name, "shape": shape, "datatype": "BYTES", "data": list(column)}
                for name, column in zip(self.inputs, columns, strict=False)
            ]
        }

    def read(self, answer: Any, count: int, task: Task) -> list[Reading | Refusal]:
        outputs = answer["outputs"]
        cut = next((output["data"] for output in outputs if output["name"] == "truncated"), [None] * count)
        rows, untold = self._scores(outputs, count, task)
        return [
            Reading(scores, truncated, untold) for scores, truncated in zip(rows, _of_length(cut, count), strict=True)
        ]

    def describe(self, fetch: Fetch) -> dict[str, Any]:
        return {"name": self.model, "engine": _text(fetch(f"/v2/models/{quote(self.model)}"), "platform")}

    def _scores(
        self, outputs: Sequence[dict[str, Any]], count: int, task: Task
    ) -> tuple[list[NDArray[np.float32]], bool]:
        """Each text's, and whether they may be logits."""
        size = count * len(task.labels)
        for output in outputs:
            if output["datatype"] in ("FP16", "FP32", "FP64") and np.prod(output["shape"]) == size:
                values = np.asarray(output["data"], np.float64).reshape(count, -1)
                named = (output.get("parameters") or {}).get("labels") or task.labels
                return [_in_order(dict(zip(named, row, strict=True)), task) for row in values.tolist()], True
        for output in outputs:
            if output["datatype"] == "BYTES" and len(output["data"]) == count:
                return [_from_string(value, task) for value in output["data"]], False
        raise ValueError(f"no output has a score for each of {len(task.labels)} labels, or a label for each text")


def are_probabilities(values: NDArray[np.floating], task: Task) -> bool:
    """Whether what a server gave can be scores. A few texts' logits may look like some: only all of its answers tell.

    Args:
        values: `[texts, labels]`.
    """
    likely = bool((values >= -_ROUNDING).all() and (values <= 1 + _ROUNDING).all())
    if task.problem_type == SINGLE_LABEL:
        likely = likely and bool(np.abs(values.sum(axis=1) - 1).max() <= _ROUNDING)
    return likely


def _in(told: Any, name: str) -> Any:
    """An entry of what a server tells of itself, which may be anything; None where there is none."""
    return told.get(name) if isinstance(told, dict) else None


def _text(told: Any, name: str) -> str | None:
    value = _in(told, name)
    return value if isinstance(value, str) else None


def _count(told: Any, name: str) -> int | None:
    value = _in(told, name)
    return value if type(value) is int and value >= 0 else None


def _by_label(labels: Any, limits: Any) -> dict[str, float]:
    """Thresholds, of lists that belong together; empty where they are none."""
    if not (isinstance(labels, list) and isinstance(limits, list) and len(labels) == len(limits)):
        return {}
    pairs = zip(map(str, labels), limits, strict=True)
    return {label: limit for label, limit in pairs if isinstance(limit, float) and 0 < limit < 1}


def _of_length(values: Any, count: int) -> list[Any]:
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"the answer is not a list of {count}")
    return values


def _in_order(scores: dict[str, float], task: Task) -> NDArray[np.float32]:
    """Scores by label in the task's order, those not told as 0.

    Raises:
        ValueError: none are told, or of a label that the task has not, or one that is no number.
    """
    if task.problem_type == REGRESSION and len(scores) == 1:
        return np.array(list(scores.values()), np.float32)
    if not scores:
        raise ValueError("the server names no labels")
    values = np.zeros(len(task.labels), np.float32)
    places = {label: place for place, label in enumerate(task.labels)}
    # A model whose labels were never named calls them LABEL_0, LABEL_1, …
    places = {**{f"LABEL_{label}": place for label, place in places.items()}, **places}
    for label, score in scores.items():
        if label not in places:
            known = shown(", ".join(task.labels), 100)
            raise ValueError(f"the server answers with the label '{shown(label)}', the teacher's are {known}")
        values[places[label]] = score
    if not np.isfinite(values).all():
        raise ValueError("the answer has scores that are not finite numbers")
    return values


def _from_string(value: str, task: Task) -> NDArray[np.float32]:
    if value[:1] in ("{", "["):
        told = orjson.loads(value)
        entries = told if isinstance(told, list) else [told]
        return _in_order({entry["label"]: entry["score"] for entry in entries}, task)
    if task.problem_type != MULTI_LABEL:
        return _in_order({value: 1.0}, task)
    labels = split_labels(value)
    return _in_order(dict.fromkeys(labels, 1.0), task) if labels else np.zeros(len(task.labels), np.float32)
