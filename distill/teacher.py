"""What a student learns from its teacher: logits and, for patience, states at the head's position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from common.progress import progress
from common.tokenization import TextEncoder
from distill.batches import TokenizedSet, model_inputs, sorted_batches
from distill.models import head_position, input_names

_BATCH = 64


@dataclass(frozen=True)
class TeacherTargets:
    """The teacher's answers, one entry a training row, labelled or not.

    Attributes:
        logits: float32 `[rows, labels]`.
        states: float32 `[rows, layers, width]`, of the layers that the student is matched with.
    """

    logits: Tensor
    states: Tensor


def teacher_targets(
    model: PreTrainedModel, encoder: TextEncoder, data: TokenizedSet, layers: Sequence[int], device: torch.device
) -> TeacherTargets:
    """Runs the teacher once over all rows, without dropout. Memory: 4 · rows · (labels + layers · width) bytes.

    Args:
        layers: which layers' states to keep, from 1.
    """
    model = model.to(device).eval()
    names = input_names(model)
    position = head_position(model.config)
    logits = torch.empty(len(data), model.config.num_labels)
    states = torch.empty(len(data), len(layers), model.config.hidden_size)
    lengths = [text.tokens for text in data.encoded]
    with torch.inference_mode(), progress("teacher's answers", len(data), "rows") as advance:
        for rows in sorted_batches(lengths, _BATCH):
            batch = model_inputs(encoder, [data.encoded[row] for row in rows], names, device)
            output = model(**batch, output_hidden_states=bool(layers))
            logits[rows] = output.logits.float().cpu()
            for place, layer in enumerate(layers):
                # hidden_states[0] is the embeddings' output, so layer j stands at index j.
                states[rows, place] = head_states(output.hidden_states[layer], position).float().cpu()
            advance(len(rows))
    return TeacherTargets(logits, states)


def head_states(hidden: Tensor, position: int) -> Tensor:
    """`[batch, width]` at the head's position of `[batch, length, width]`."""
    return hidden[:, position]
