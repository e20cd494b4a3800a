"""The engine: the one code path from texts to predictions, for HTTP, files and benchmarks alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from common.batching import BatchLimits, cut_batches
from common.devices import check_device
from common.errors import InputError, TextError, WorkFailedError, first_line
from common.machine import usable_cores
from common.tokenization import Encoded, TextEncoder
from export.bundle import Bundle
from serve.codec import Codec, Prediction
from serve.onnx_model import OnnxModel
from serve.windows import Answer, classify_windows

__all__ = ["ENGINES", "Engine", "Model", "Prediction"]

# What runs a bundle's model: ONNX Runtime, or PyTorch with the project's own kernels.
ENGINES = ("onnx", "torch")

# Texts that `Engine.stream` reads ahead of each that it answers, at most twice: they are sorted by length.
READ_AHEAD = 4096


class Model(Protocol):
    """A bundle's model on a device: tokenized texts in, logits out.

    Attributes:
        engine: what runs it, one of `ENGINES`.
        device: where it runs, for people to read.
        lanes: how many threads may call `run` at once.
        padding_cost: what a token of padding costs, in tokens.
    """

    engine: str
    device: str
    lanes: int
    padding_cost: float

    def run(self, batch: Sequence[Encoded]) -> NDArray[np.float32]:
        """Logits `[batch, labels]`."""


class Engine(Codec):
    """A loaded bundle: its codec and its model.

    Example:
        >>> engine = Engine.load(Path("bundle"))  # doctest: +SKIP
        >>> engine.classify(["Where is my parcel?"])[0].label  # doctest: +SKIP
        'order_status'
    """

    def __init__(self, bundle: Bundle, model: Model, encoder: TextEncoder, limits: BatchLimits):
        super().__init__(bundle, encoder)
        self.model = model
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
        steady: bool = False,
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
            steady: whether equal batches have equal bits, whatever runs beside them.

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
            model = OnnxModel(bundle, encoder, threads, device, lanes, steady=steady)
        return cls(bundle, model, encoder, limits or BatchLimits())

    def run(self, batch: Sequence[Encoded]) -> list[Prediction]:
        """One batch through the model.

        Raises:
            WorkFailedError: an output is not a finite number.
        """
        outcomes = self.outcomes(batch)
        for outcome in outcomes:
            if isinstance(outcome, WorkFailedError):
                raise outcome
        return outcomes  # type: ignore[return-value]

    def outcomes(self, batch: Sequence[Encoded]) -> list[Prediction | WorkFailedError]:
        """As `run`, with its error in the place of an output that is not a finite number.

        A batch that fails is run text by text, so that only the guilty one fails.

        Raises:
            WorkFailedError: each text of it fails alone too.
        """
        try:
            return self.predictions(batch, self.model.run(batch))
        except Exception as error:  # whatever it is, a long run goes on without this text
            if len(batch) == 1:
                return [WorkFailedError(f"the model failed on this text: {first_line(error)}")]
        alone = [outcome for text in batch for outcome in self.outcomes([text])]
        if isinstance(alone[0], WorkFailedError) and all(isinstance(each, WorkFailedError) for each in alone):
            raise WorkFailedError(f"{alone[0]}, as on all {len(batch)} of its batch")
        return alone

    def run_sorted(self, encoded: Sequence[Encoded]) -> list[Prediction]:
        """Any number of texts, in batches of like length; the answers come in the order of the texts."""
        answers: dict[int, Prediction] = {}
        for rows in cut_batches([text.tokens for text in encoded], self.limits):
            answers.update(zip(rows, self.run([encoded[row] for row in rows]), strict=True))
        return [answers[row] for row in range(len(encoded))]

    def stream(self, texts: Iterable[Any], *, truncate: bool = True) -> Iterator[Answer]:
        """Answers to any number of texts, in their order, while they are read; a bad one has its error in its place.

        Reads up to twice `READ_AHEAD` texts ahead, so that each batch is of texts of like length. What `texts` raises
        ends the stream at once, without the answers to what was read ahead.

        Raises:
            InputError: one string in place of several.
        """
        if isinstance(texts, str):
            raise InputError("a stream is of texts; this is one text")
        source = iter(texts)
        windows = iter(lambda: list(islice(source, READ_AHEAD)), [])
        for _, answers in classify_windows(self, ((None, window) for window in windows), truncate=truncate):
            yield from answers

    def classify(self, texts: Sequence[Any], *, truncate: bool = True) -> list[Prediction | TextError]:
        """Predictions in the order of the texts; a text that cannot be classified has its error in its place.

        Raises:
            InputError: one string in place of several.
        """
        if isinstance(texts, str):
            raise InputError("several texts are classified; this is one text: put it into a list")
        prepared = self.prepare(texts, truncate=truncate)
        answers = iter(self.run_sorted([entry for entry in prepared if isinstance(entry, Encoded)]))
        return [next(answers) if isinstance(entry, Encoded) else entry for entry in prepared]
