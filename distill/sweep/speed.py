"""How fast each kind of student is: the PyTorch model alone on the CPU, without tokenizer or server."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from transformers import PreTrainedModel

from common.progress import progress
from common.tokenization import Encoded, TextEncoder
from distill.batches import model_inputs, sorted_batches
from distill.models import input_names, load_config, untrained_classifier
from distill.sources import Source

BATCH = 32

_ROUNDS = 5
_TEXTS = 128
_LONE_TEXTS = 32
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Speed:
    """One kind of model on this machine's CPU.

    Attributes:
        latency_s: median seconds of one text.
        texts_per_s: in batches of `BATCH` texts of like length, median over rounds.
    """

    latency_s: float
    texts_per_s: float


def measure_speeds(
    architectures: Mapping[str, Path], encoder: TextEncoder, texts: Sequence[Encoded]
) -> dict[str, Speed]:
    """The speed of each architecture, all measured in turns so that a slow moment of the machine hits all alike.

    Args:
        architectures: the directory of each one's config.json; its weights do not matter to its speed.
        texts: tokenized; up to 128 of them are taken, evenly over the table.
    """
    chosen = [texts[place] for place in range(0, len(texts), max(1, len(texts) // _TEXTS))][:_TEXTS]
    models = {
        name: untrained_classifier(load_config(Source(name, directory, ""))).eval()
        for name, directory in architectures.items()
    }
    batches = [[chosen[row] for row in rows] for rows in sorted_batches([text.tokens for text in chosen], BATCH)]
    lone: dict[str, list[float]] = {name: [] for name in models}
    rates: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode(), progress("speed of each architecture", _ROUNDS * len(models), "rounds") as advance:
        for _ in range(_ROUNDS):
            for name, model in models.items():
                _seconds(model, encoder, chosen[:1])  # caches and threads are warm after this
                lone[name] += [_seconds(model, encoder, [text]) for text in chosen[:_LONE_TEXTS]]
                rates[name].append(len(chosen) / sum(_seconds(model, encoder, batch) for batch in batches))
                advance(1)
    return {name: Speed(median(lone[name]), median(rates[name])) for name in models}


def _seconds(model: PreTrainedModel, encoder: TextEncoder, batch: Sequence[Encoded]) -> float:
    inputs = model_inputs(encoder, batch, input_names(model), _CPU)
    started = time.perf_counter()
    model(**inputs)
    return time.perf_counter() - started
