"""The teacher beside its student, batch by batch: for the states of all tokens, which are too large to be kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from common.errors import InputError
from distill.layer_map import evenly_spread
from distill.relations import AttentionVectors
from distill.settings import DistillationSettings
from distill.training_pass import TrainingPass


@dataclass(frozen=True)
class TokenTargets:
    """The teacher's answers to one batch, token by token.

    Attributes:
        hidden: `[batch, layers, length, width]`, of the teacher's layers that the student's 1..k are matched with; None
            where hidden states have no weight.
        vectors: queries, keys and values, each `[batch, length, width]`; None where relations have no weight.
    """

    hidden: Tensor | None
    vectors: dict[str, Tensor] | None


class LiveTeacher:
    """Runs a teacher without dropout and without gradients. It is no `nn.Module`, so that nothing trains or saves it.

    Attributes:
        layers: round(j·n/k) for the student's layers j = 1..k (TinyBERT's uniform map; the embeddings are left out);
            none where hidden states have no weight.
        heads: A_r, into how many heads the relations are split.
        width: the teacher's hidden size.
    """

    def __init__(
        self, model: PreTrainedModel, student: PreTrainedModel, settings: DistillationSettings, device: torch.device
    ):
        """
        Raises:
            InputError: the relations that are asked for do not exist between these two models.
        """
        self._pass = TrainingPass(model.to(device).eval().requires_grad_(False), states=True)
        self.width = model.config.hidden_size
        depth = model.config.num_hidden_layers
        self.layers = evenly_spread(depth, settings.layers) if settings.hidden_weight else ()
        self.heads = settings.relation_heads or model.config.num_attention_heads
        self._vectors = None
        if settings.relation_weight:
            self._vectors = AttentionVectors.of(model, settings.relation_layer or depth, settings.relations)
            check_heads(model.config, student.config, settings)

    def __call__(self, batch: dict[str, Tensor]) -> TokenTargets:
        """The targets of a batch as the model takes it."""
        with torch.no_grad():
            states = self._pass(batch).hidden_states
            assert states is not None
            return TokenTargets(
                torch.stack([states[layer] for layer in self.layers], dim=1) if self.layers else None,
                self._vectors(states) if self._vectors else None,
            )


def check_heads(teacher: Any, student: Any, settings: DistillationSettings) -> None:
    """
    Args:
        teacher, student: their configs.

    Raises:
        InputError: the relations of the two cannot be compared head by head.
    """
    heads = settings.relation_heads or teacher.num_attention_heads
    widths = teacher.hidden_size, student.hidden_size
    if any(width % heads for width in widths):
        raise InputError(
            f"relation_heads must divide the teacher's width {widths[0]} and the student's {widths[1]}; "
            f"{heads} does not"
        )
    if settings.relations == "minilm" and student.num_attention_heads != heads:
        raise InputError(
            f"MiniLM compares attention head by head, and the teacher has {heads}, the student "
            f"{student.num_attention_heads}: choose --heads {heads} or --relations minilmv2"
        )
