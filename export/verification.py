"""Is the ONNX model the PyTorch model? Asked of real texts, in batches of many sizes and lengths."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from common.errors import InputError, WorkFailedError
from common.examples import Examples
from common.labels import REGRESSION, Task
from common.progress import progress
from common.tokenization import Encoded, Text, TextEncoder, pack
from export.exported_graph import ExportedGraph
from export.proofs import Verification
from export.served import Served
from export.settings import FP32
from kernels.inference import load_inference
from kernels.packed_classifier import PackedClassifier

MIN_TEXTS = 64
MAX_TEXTS = 256
# Logits of the two may differ by so much in fp32; the order of summation differs.
TOLERANCE = 1e-4
# And so much in half precision, or between integers whose inputs were rounded otherwise.
LOWER_TOLERANCE = 2e-2
_BATCH_SIZES = (1, 2, 3, 5, 8, 16, 32)


def check_texts(examples: Examples) -> None:
    """
    Raises:
        InputError: there are fewer texts than `verify` needs.
    """
    if len(examples) < MIN_TEXTS:
        raise InputError(
            f"{examples.source} has {len(examples)} rows; the check of an export needs at least {MIN_TEXTS}: "
            f"leave --dev out to check on the shipped messages"
        )


def verify(
    graph: ExportedGraph,
    encoder: TextEncoder,
    examples: Examples,
    task: Task,
    seed: int,
    *,
    model: PreTrainedModel | None,
    weights: Path | None = None,
    precision: str = FP32,
) -> Verification:
    """Compares the graph's logits and labels with the model's, and each text alone with the same text in a batch.

    Args:
        examples: real texts, enough of them (`check_texts`); some are joined so that long inputs are run too.
        model: the PyTorch model; None where the graph came without one, and is compared with itself alone.
        weights: a directory with the model's weights; loaded from there and run as the torch engine does, packed where
            the family can be, they must agree as well.
        precision: of the graph.

    Raises:
        WorkFailedError: a logit differs by more than `TOLERANCE` (`LOWER_TOLERANCE` below float32), a label differs,
            there are more or fewer logits than labels, or an output is not finite.
    """
    names = graph.names
    texts = mixed_texts(examples.texts, encoder, random.Random(seed), pairs="token_type_ids" in names)
    again = load_inference(weights, encoder.max_length) if weights is not None else None
    encoded = encoder.encode(texts)
    tolerance = TOLERANCE if precision == FP32 else LOWER_TOLERANCE
    ours, weights_again, batched = (_Comparison(task, tolerance) for _ in range(3))
    shift, shapes = 0.0, set()
    with progress("verifying", len(texts), "texts") as advance:
        for rows in _batches(len(texts), random.Random(seed)):
            batch = [encoded[row] for row in rows]
            padded = encoder.pad(batch)
            shapes.add(padded["input_ids"].shape)
            logits = graph.logits(batch)
            if logits.shape != (len(rows), len(task.labels)):
                raise WorkFailedError(
                    f"the graph gives logits of shape {list(logits.shape)} for {len(rows)} texts and "
                    f"{len(task.labels)} labels: no bundle is written"
                )
            if model is not None:
                reference = _reference(model, padded, names)
                ours.add(logits, reference)
                if again is not None:
                    weights_again.add(_run_weights(again, encoder, batch, names), reference)
            alone = np.concatenate([graph.logits([text]) for text in batch])
            batched.add(logits, alone)
            shift = max(shift, Served(task).shift(alone, logits))
            advance(len(rows))
    ours.refuse("exported model is not the trained one")
    weights_again.refuse("bundle's weights are not the trained ones")
    batched.refuse("exported model's answers depend on a text's neighbours")
    return Verification(
        texts=len(texts),
        data=examples.describe(),
        shapes=len(shapes),
        max_difference=None if model is None else ours.difference,
        batch_shift=shift,
        same_labels=True,
        weights_difference=None if again is None else weights_again.difference,
        device=graph.device,
    )


class _Comparison:
    """The greatest difference between two models' logits, and whether their labels agree."""

    def __init__(self, task: Task, tolerance: float):
        self._served, self._tolerance = Served(task), tolerance
        self.difference = 0.0
        self.same = True

    def add(self, ours: NDArray[np.floating], reference: NDArray[np.floating]) -> None:
        self.difference = max(self.difference, _difference(ours, reference, self._served.task))
        self.same = self.same and self._served.flips(ours, reference) == 0

    def refuse(self, what: str) -> None:
        if not self.difference <= self._tolerance or not self.same:  # NaN is not within it
            raise WorkFailedError(
                f"the {what}: logits differ by up to {self.difference:.2e} "
                f"(allowed: {self._tolerance:.0e}), labels {'agree' if self.same else 'differ'}: no bundle is written"
            )


def _difference(ours: NDArray[np.floating], reference: NDArray[np.floating], task: Task) -> float:
    # A number may be of any size, so its error counts in proportion.
    scale = np.maximum(1, np.abs(reference)) if task.problem_type == REGRESSION else 1
    return float((np.abs(ours - reference) / scale).max())


def mixed_texts(texts: Sequence[Text], encoder: TextEncoder, draw: random.Random, *, pairs: bool) -> list[Text]:
    """Up to `MAX_TEXTS` of the texts, some joined with their followers into longer ones, and some into pairs."""
    chosen = draw.sample(list(texts), min(len(texts), MAX_TEXTS))
    mixed: list[Text] = []
    for index, text in enumerate(chosen):
        if index % 8 == 0 and isinstance(text, str):
            # The target lengths spread over the whole range, the limit included.
            goal = encoder.max_length * (index % 64 + 8) // 64
            for follower in chosen[index + 1 :] + chosen[:index]:
                if encoder.encode([text])[0].tokens >= goal:
                    break
                text = f"{text} {follower}"
        if pairs and index % 4 == 1 and isinstance(text, str):
            text = (text, str(chosen[index - 1]))
        mixed.append(text)
    return mixed


def _batches(count: int, draw: random.Random) -> Iterator[list[int]]:
    """Every row once, in batches of changing size."""
    order = list(range(count))
    draw.shuffle(order)
    start = turn = 0
    while start < count:
        size = _BATCH_SIZES[turn % len(_BATCH_SIZES)]
        yield order[start : start + size]
        start, turn = start + size, turn + 1


def _run_weights(
    model: PackedClassifier | PreTrainedModel, encoder: TextEncoder, batch: Sequence[Encoded], names: Sequence[str]
) -> NDArray[np.float32]:
    if not isinstance(model, PackedClassifier):
        return _reference(model, encoder.pad(batch), names)
    packed = pack(batch)
    types = torch.from_numpy(packed.token_type_ids) if "token_type_ids" in names else None
    with torch.inference_mode():
        logits: NDArray[np.float32] = model(
            torch.from_numpy(packed.input_ids), types, torch.from_numpy(packed.cu_seqlens), packed.max_length
        ).numpy()
    return logits


def _reference(
    model: PreTrainedModel, batch: dict[str, NDArray[np.int64]], names: Sequence[str]
) -> NDArray[np.float32]:
    with torch.inference_mode():
        logits: NDArray[np.float32] = model(**{name: torch.from_numpy(batch[name]) for name in names}).logits.numpy()
    return logits
