"""The engine: the one code path from texts to predictions, for HTTP, files and benchmarks alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from common.batching import BatchLimits, cut_batches
from common.devices import check_device
from common.errors import InputError, TextError, WorkFailedError
from common.labels import MULTI_LABEL, SEPARATOR, Task, activate
from common.machine import usable_cores
from common.tokenization import Encoded, Text, TextEncoder, check_text
from export.bundle import Bundle
from serve.onnx_model import OnnxModel

# What runs a bundle's model: ONNX Runtime, or PyTorch with the project's own kernels.
ENGINES = ("onnx", "torch")


class Model(Protocol):
    """A bundle's model on a device: tokenized texts in, logits out.

    Attributes:
        engine: what runs it, one of `ENGINES`.
        device: where it runs, for people to read.
        lanes: how many threads may call `run` at once.
    """

    engine: str
    device: str
    lanes: int

    def run(self, batch: Sequence[Encoded]) -> NDArray[np.float32]:
        """Logits `[batch, labels]`."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to one text.

    Attributes:
        labels: the task's labels, in the model's order.
        scores: float32 `[labels]`: probabilities, or the number itself for regression.
        logits: float32 `[labels]`, as the model gave them.
        tokens: how many were read.
        truncated: whether the text had more.
    """

    task: Task
    scores: NDArray[np.float32]
    logits: NDArray[np.float32]
    tokens: int
    truncated: bool

    @property
    def label(self) -> str:
        """The label with the highest score."""
        return self.task.labels[int(self.scores.argmax())]

    @property
    def score(self) -> float:
        """The highest score."""
        return float(self.scores.max())

    @property
    def chosen(self) -> list[str]:
        """The labels that hold: the best one, or for several labels each at or above the threshold."""
        if self.task.problem_type == MULTI_LABEL:
            return [label for label, holds in zip(self.task.labels, self.task.holds(self.scores), strict=True) if holds]
        return [self.label]

    @property
    def answer(self) -> str:
        """`chosen` as one value of a table."""
        return SEPARATOR.join(self.chosen)

    def ranked(self, top_k: int | None = None, *, raw: bool = False) -> list[tuple[str, float]]:
        """Labels with their scores (or logits), best first; equal ones in the model's order."""
        values = self.logits if raw else self.scores
        order = np.argsort(-values, kind="stable")[:top_k]
        return [(self.task.labels[index], float(values[index])) for index in order]


class Engine:
    """A loaded bundle.

    Example:
        >>> engine = Engine.load(Path("bundle"))  # doctest: +SKIP
        >>> engine.classify(["Where is my parcel?"])[0].label  # doctest: +SKIP
        'order_status'
    """

    def __init__(self, bundle: Bundle, model: Model, encoder: TextEncoder, limits: BatchLimits):
        self.bundle = bundle
        self.model = model
        self.encoder = encoder
        self.limits = limits

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        engine: str = "onnx",
        device: str = "auto",
        threads: int = 0,
        lanes: int = 1,
        limits: BatchLimits | None = None,
    ) -> Engine:
        """Verifies the bundle and opens its model.

        Args:
            path: the bundle's directory.
            engine: what runs the model, one of `ENGINES`; 'torch' needs a bundle exported with its weights. It sets
                PyTorch's thread count and quiets transformers for the whole process.
            device: one of `common.devices.DEVICES`; 'auto' takes CUDA where it works, else the CPU. An int8 model runs
                on the CPU.
            threads: of the model on the CPU; 0 takes one a core.
            lanes: batches that may run at once, each from a thread of its own; the torch engine and CUDA have one.

        Raises:
            InputError: the directory is no bundle, was changed, or its model cannot be opened; more threads or lanes
                than cores.
            WorkFailedError: CUDA is asked for and cannot be had.
            ModuleNotFoundError: the torch engine's packages are not installed.
        """
        if engine not in ENGINES:
            raise InputError(f"engine must be one of {', '.join(ENGINES)}, not '{engine}'")
        check_device(device)
        cores = usable_cores()
        if not 0 <= threads <= cores:
            raise InputError(f"threads must lie between 0 and this machine's {cores} cores, not {threads}")
        if not 1 <= lanes <= cores:
            raise InputError(f"lanes must lie between 1 and this machine's {cores} cores, not {lanes}")
        bundle = Bundle.load(Path(path))
        encoder = TextEncoder.load(bundle.path)
        model: Model
        if engine == "torch":
            from serve.torch_model import TorchModel  # torch is not there where bundles are only served

            model = TorchModel(bundle, encoder, threads, device)
        else:
            model = OnnxModel(bundle, encoder, threads, device, lanes)
        return cls(bundle, model, encoder, limits or BatchLimits())

    @property
    def name(self) -> str:
        return self.bundle.manifest.name

    @property
    def task(self) -> Task:
        return self.bundle.task

    def prepare(self, texts: Sequence[Any], *, truncate: bool = True) -> list[Encoded | TextError]:
        """Checks and tokenizes; what cannot be classified comes back as its error, in place.

        Args:
            texts: strings and pairs of strings; anything else is an error in its place.
            truncate: whether a text over the token limit is cut (and reported) or is an error.
        """
        prepared: list[Encoded | TextError | None] = []
        good: list[Text] = []
        for text in texts:
            try:
                check_text(text)
                good.append(text)
                prepared.append(None)
            except TextError as error:
                prepared.append(error)
        encoded = iter(self.encoder.encode(good))
        results = [next(encoded) if entry is None else entry for entry in prepared]
        if truncate:
            return results
        return [self._refuse_truncated(entry) for entry in results]

    def run(self, batch: Sequence[Encoded]) -> list[Prediction]:
        """One batch through the model.

        Raises:
            WorkFailedError: an output is not a finite number.
        """
        logits = self.model.run(batch)
        if not np.isfinite(logits).all():
            raise WorkFailedError(f"the model {self.name} gave outputs that are not finite numbers")
        scores = activate(logits, self.task.problem_type, self.bundle.manifest.temperature)
        return [
            Prediction(self.task, scores[row], logits[row], text.tokens, text.truncated)
            for row, text in enumerate(batch)
        ]

    def run_sorted(self, encoded: Sequence[Encoded]) -> list[Prediction]:
        """Any number of texts, in batches of like length; the answers come in the order of the texts."""
        answers: dict[int, Prediction] = {}
        for rows in cut_batches([text.tokens for text in encoded], self.limits):
            answers.update(zip(rows, self.run([encoded[row] for row in rows]), strict=True))
        return [answers[row] for row in range(len(encoded))]

    def classify(self, texts: Sequence[Any], *, truncate: bool = True) -> list[Prediction | TextError]:
        """Predictions in the order of the texts; a text that cannot be classified has its error in its place."""
        prepared = self.prepare(texts, truncate=truncate)
        answers = iter(self.run_sorted([entry for entry in prepared if isinstance(entry, Encoded)]))
        return [next(answers) if isinstance(entry, Encoded) else entry for entry in prepared]

    def _refuse_truncated(self, entry: Encoded | TextError) -> Encoded | TextError:
        if isinstance(entry, Encoded) and entry.truncated:
            return TextError(f"the text has more than {self.encoder.max_length} tokens and truncation is off")
        return entry
