"""What a student learns from its teacher: logits and, for patience, states at the head's position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from common.files import sha256
from common.progress import Advance, progress
from common.tokenization import Encoded, TextEncoder
from distill.batches import TokenizedSet, model_inputs, sorted_batches
from distill.models import head_position, input_names
from distill.sources import Source
from distill.teacher_cache import cached_shards

_BATCH = 64

# Rows that are answered together, whatever stands behind them: a text's answer depends on its batch in the last bits.
SHARD_ROWS = 2048


@dataclass(frozen=True)
class Teacher:
    """A fine-tuned classifier, and where it runs when it does: all its answers may be in a cache."""

    source: Source
    model: PreTrainedModel
    device: torch.device


class RowStates(Protocol):
    """A tensor `[rows, layers, width]`, or what can be indexed with row numbers like one."""

    @property
    def shape(self) -> Sequence[int]: ...

    def __getitem__(self, rows: list[int]) -> Tensor: ...


@dataclass(frozen=True)
class ShardedStates:
    """States at the head's position, copied from shards when rows are asked for.

    Attributes:
        shards: each float32 `[rows, layers, width]`, `SHARD_ROWS` rows but for the last.
        layers: which of the shards' layers to give, by their places there.
    """

    shards: list[NDArray[np.float32]]
    layers: list[int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(rows, layers, width)`"""
        return sum(map(len, self.shards)), len(self.layers), self.shards[0].shape[2]

    def __getitem__(self, rows: list[int]) -> Tensor:
        """float32 `[len(rows), layers, width]`."""
        states = np.empty((len(rows), *self.shape[1:]), np.float32)
        for place, row in enumerate(rows):
            states[place] = self.shards[row // SHARD_ROWS][row % SHARD_ROWS, self.layers]
        return torch.from_numpy(states)


@dataclass(frozen=True)
class TeacherTargets:
    """The teacher's answers, one entry a training row, labelled or not.

    Attributes:
        logits: float32 `[rows, labels]`.
        states: float32 `[rows, layers, width]`, of the layers that the student is matched with.
    """

    logits: Tensor
    states: RowStates


def teacher_targets(
    teacher: Teacher, encoder: TextEncoder, data: TokenizedSet, layers: Sequence[int], cache: Path | None = None
) -> TeacherTargets:
    """The teacher's answers to all rows, from the cache or by running it once; the same bits either way.

    Memory without a cache: 4 · rows · (labels + layers · width) bytes. A cache has them of all the teacher's layers on
    disk, in float32, since a student that learned from rounded states would not have the same bits.

    Args:
        layers: which layers' states to keep, from 1.
        cache: the directory of all caches; None keeps the answers in memory.

    Raises:
        WorkFailedError: the cache cannot be written.
    """
    starts = range(0, len(data), SHARD_ROWS)
    parts = [range(start, min(start + SHARD_ROWS, len(data))) for start in starts]
    kept = list(range(1, teacher.model.config.num_hidden_layers + 1)) if cache is not None else list(layers)
    with progress("teacher's answers", len(data), "rows") as advance:

        def compute(rows: range) -> NDArray[Any]:
            return _answer(teacher, encoder, [data.encoded[row] for row in rows], kept, advance)

        if cache is None:
            shards = [compute(rows) for rows in parts]
        else:
            shards = cached_shards(cache, _about(teacher, encoder, data), parts, compute)
    logits = torch.from_numpy(np.concatenate([shard["logits"] for shard in shards]))
    states = ShardedStates([shard["states"] for shard in shards], [kept.index(layer) for layer in layers])
    return TeacherTargets(logits, states)


def head_states(hidden: Tensor, position: int) -> Tensor:
    """`[batch, width]` at the head's position of `[batch, length, width]`."""
    return hidden[:, position]


def _answer(
    teacher: Teacher, encoder: TextEncoder, encoded: list[Encoded], layers: list[int], advance: Advance
) -> NDArray[Any]:
    """One shard: `[rows]` with the fields `logits` `[labels]` and `states` `[layers, width]`, before any pooler."""
    model = teacher.model.to(teacher.device).eval()
    fields = [
        ("logits", "<f4", (model.config.num_labels,)),
        ("states", "<f4", (len(layers), model.config.hidden_size)),
    ]
    answers = np.empty(len(encoded), np.dtype(fields))
    names, position = input_names(model), head_position(model.config)
    with torch.inference_mode():
        for rows in sorted_batches([text.tokens for text in encoded], _BATCH):
            batch = model_inputs(encoder, [encoded[row] for row in rows], names, teacher.device)
            output = model(**batch, output_hidden_states=bool(layers))
            answers["logits"][rows] = output.logits.float().cpu().numpy()
            for place, layer in enumerate(layers):
                # hidden_states[0] is the embeddings' output, so layer j stands at index j.
                answers["states"][rows, place] = head_states(output.hidden_states[layer], position).float().cpu()
            advance(len(rows))
    return answers


def _about(teacher: Teacher, encoder: TextEncoder, data: TokenizedSet) -> dict[str, Any]:
    """What the answers depend on, to the last bit: teacher, tokens, and the machine's arithmetic."""
    if teacher.device.type == "cuda":
        arithmetic = torch.cuda.get_device_name(teacher.device)
    else:
        arithmetic = f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    return {
        "teacher": teacher.source.sha256,
        "config": sha256(teacher.source.path / "config.json"),
        "tokenizer": encoder.sha256,
        "max_length": encoder.max_length,
        "tokens": data.tokens_sha256,
        "rows": len(data),
        "arithmetic": arithmetic,
        "versions": {name: version(name) for name in ("understudy", "torch", "transformers")},
    }
