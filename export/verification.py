"""Is the ONNX model the PyTorch model? Asked of real texts, in batches of many sizes and lengths."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from common.errors import InputError, WorkFailedError
from common.examples import Examples
from common.labels import MULTI_LABEL, MULTI_LABEL_THRESHOLD, REGRESSION, Task, activate
from common.progress import progress
from common.tokenization import Encoded, Text, TextEncoder, pack
from export.bundle import Verification
from kernels.inference import load_inference
from kernels.packed_classifier import PackedClassifier

MIN_TEXTS = 64
MAX_TEXTS = 256
# Logits of the two may differ by so much in fp32; the order of summation differs.
TOLERANCE = 1e-4
_BATCH_SIZES = (1, 2, 3, 5, 8, 16, 32)


def verify(
    model: PreTrainedModel,
    graph: Path,
    names: Sequence[str],
    encoder: TextEncoder,
    examples: Examples,
    task: Task,
    seed: int,
    weights: Path | None = None,
) -> Verification:
    """Compares the two models' logits and labels, and each text alone with the same text in a batch.

    Args:
        graph: the ONNX file.
        names: its inputs.
        examples: at least `MIN_TEXTS` real texts; some are joined so that long inputs are run too.
        weights: a directory with the model's weights; loaded from there and run as the torch engine does, packed where
            the family can be, they must agree as well.

    Raises:
        InputError: fewer texts.
        WorkFailedError: a logit differs by more than `TOLERANCE`, a label differs, or an output is not finite.
    """
    if len(examples) < MIN_TEXTS:
        raise InputError(
            f"{examples.source} has {len(examples)} rows; the check of an export needs at least {MIN_TEXTS}: "
            f"leave --dev out to check on the shipped messages"
        )
    texts = _mixed(examples.texts, encoder, random.Random(seed), pairs="token_type_ids" in names)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    again = load_inference(weights, encoder.max_length) if weights is not None else None
    encoded = encoder.encode(texts)
    difference, shift, same, same_again = 0.0, 0.0, True, True
    weights_difference = 0.0 if again is not None else None
    shapes = set()
    with progress("verifying", len(texts), "texts") as advance:
        for rows in _batches(len(texts), random.Random(seed)):
            batch = encoder.pad([encoded[row] for row in rows])
            shapes.add(batch["input_ids"].shape)
            ours = _run(session, batch, names)
            reference = _reference(model, batch, names)
            if not np.isfinite(ours).all():
                raise WorkFailedError(
                    "the exported model gives outputs that are not finite numbers: no bundle is written"
                )
            difference = max(difference, _difference(ours, reference, task))
            same = same and np.array_equal(labels_of(ours, task), labels_of(reference, task))
            if again is not None:
                ours_again = _run_weights(again, encoder, [encoded[row] for row in rows], names)
                weights_difference = max(weights_difference or 0.0, _difference(ours_again, reference, task))
                same_again = same_again and np.array_equal(labels_of(ours_again, task), labels_of(reference, task))
            alone = np.concatenate([_run(session, encoder.pad([encoded[row]]), names) for row in rows])
            scores = activate(ours, task.problem_type)
            shift = max(shift, float(np.abs(scores - activate(alone, task.problem_type)).max()))
            advance(len(rows))
    _refuse("exported model is", difference, same)
    _refuse("bundle's weights are", weights_difference or 0.0, same_again)
    return Verification(
        texts=len(texts),
        data=examples.describe(),
        shapes=len(shapes),
        max_difference=difference,
        batch_shift=shift,
        same_labels=same,
        weights_difference=weights_difference,
    )


def _difference(ours: NDArray[np.floating], reference: NDArray[np.floating], task: Task) -> float:
    # A number may be of any size, so its error counts in proportion.
    scale = np.maximum(1, np.abs(reference)) if task.problem_type == REGRESSION else 1
    return float((np.abs(ours - reference) / scale).max())


def labels_of(logits: NDArray[np.floating], task: Task) -> NDArray[np.int64] | NDArray[np.bool_]:
    """The answer as it is shown: the best label, the set of labels over the threshold, or nothing for a number."""
    if task.problem_type == REGRESSION:
        return np.zeros(0, np.int64)
    if task.problem_type == MULTI_LABEL:
        return activate(logits, MULTI_LABEL) >= MULTI_LABEL_THRESHOLD
    best: NDArray[np.int64] = logits.argmax(axis=-1)
    return best


def _mixed(texts: Sequence[Text], encoder: TextEncoder, draw: random.Random, *, pairs: bool) -> list[Text]:
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


def _run(
    session: onnxruntime.InferenceSession, batch: dict[str, NDArray[np.int64]], names: Sequence[str]
) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = session.run(["logits"], {name: batch[name] for name in names})[0]
    return logits


def _refuse(what: str, difference: float, same: bool) -> None:
    if not difference <= TOLERANCE or not same:  # NaN is not within it
        raise WorkFailedError(
            f"the {what} not the trained one: logits differ by up to {difference:.2e} "
            f"(allowed: {TOLERANCE:.0e}), labels {'agree' if same else 'differ'}: no bundle is written"
        )


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
