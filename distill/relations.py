"""Self-attention relations: how the tokens of a text attend to, and resemble, each other in one layer.

MiniLM (Wang et al., NeurIPS 2020, arXiv 2002.10957) has a student's last layer learn its teacher's attention and the
relation of the values; MiniLMv2 (Wang et al., Findings of ACL 2021, arXiv 2012.15828) the relations of queries, keys
and values, each among themselves, in any number of heads. Neither needs student and teacher to be of one width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from common.errors import InputError
from distill.models import layer_prefix

# Which vectors are related with which: q, k and v are a layer's queries, keys and values.
PAIRS = {"minilm": ("qk", "vv"), "minilmv2": ("qq", "kk", "vv")}

# The names of a layer's query, key and value projections, by family.
_NAMES = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), ("query", "key", "value")),
    "distilbert": ("q_lin", "k_lin", "v_lin"),
    "mpnet": ("q", "k", "v"),
    "xlnet": ("q", "k", "v"),
}
# Their attention is more than that of queries and keys: it has terms of relative position.
_RELATIVE = ("mpnet", "xlnet")


@dataclass(frozen=True)
class AttentionVectors:
    """The queries, keys and values of one layer, computed anew from the states that enter it.

    Attributes:
        layer: counted from 1.
        attention: the part of the layer that has the three projections.
        names: theirs, in the order q, k, v.
    """

    layer: int
    attention: nn.Module
    names: tuple[str, str, str]

    @classmethod
    def of(cls, model: PreTrainedModel, layer: int, relations: str) -> AttentionVectors:
        """Those of a model's layer.

        Raises:
            InputError: the model has no such layer, or its family's attention has no such relations.
        """
        check_relations(model.config, layer, relations)
        part = model.get_submodule(f"{layer_prefix(model, model.config.num_hidden_layers)}.{layer - 1}")
        names = _NAMES[model.config.model_type]
        attention = next(module for module in part.modules() if all(hasattr(module, name) for name in names))
        return cls(layer, attention, names)

    def __call__(self, states: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """q, k and v, each float32 `[batch, length, heads · d_head]`.

        Args:
            states: the model's `hidden_states`; those that enter layer j stand at index j - 1.
        """
        entering = states[self.layer - 1].float()
        vectors = {}
        for short, name in zip("qkv", self.names, strict=True):
            projection = getattr(self.attention, name)
            if isinstance(projection, nn.Linear):
                vectors[short] = functional.linear(entering, projection.weight, projection.bias)
            else:  # XLNet's `[width, heads, d_head]`
                vectors[short] = entering @ projection.flatten(1)
        return vectors


def check_relations(config: Any, layer: int, relations: str) -> None:
    """
    Args:
        config: a teacher's.

    Raises:
        InputError: the model has no such layer, or its family's attention has no such relations.
    """
    family, count = config.model_type, config.num_hidden_layers
    if not 1 <= layer <= count:
        raise InputError(f"relation_layer must be one of the teacher's layers, 1 to {count}, not {layer}")
    if family not in _NAMES:
        raise InputError(f"relations of models of type '{family}' are not supported; of these: {', '.join(_NAMES)}")
    if family in _RELATIVE and relations == "minilm":
        raise InputError(
            f"the attention of '{family}' is not that of its queries and keys alone: choose --relations minilmv2"
        )


def relation_loss(
    student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], mask: Tensor, relations: str, heads: int
) -> Tensor:
    """MiniLMv2's eqs. 5 to 8 with α = 1 for each of Q-Q, K-K, V-V; MiniLM's L_AT + L_VR for Q-K, V-V.

    Σ over pairs AB of Σ_a Σ_t KL(R_T[a,t] ‖ R_S[a,t]) / (heads · tokens), with R = softmax(A·Bᵀ/√d_r) over the
    tokens of the text, d_r = width / heads on each side. Padding neither attends nor is attended to. MiniLM is the case
    in which `heads` is the number of attention heads, so that Q-K is the attention itself.

    Args:
        student, teacher: q, k and v, each `[batch, length, width]`; the two widths may differ.
        mask: `[batch, length]`, 1 for a token and 0 for padding.
        relations: one of `PAIRS`.
        heads: A_r, a divisor of both widths.
    """
    loss = mask.new_zeros((), dtype=torch.float32)
    for pair in PAIRS[relations]:
        own, given = (_log_relation(side[pair[0]], side[pair[1]], mask, heads) for side in (student, teacher))
        divergence = functional.kl_div(own, given, reduction="none", log_target=True).sum(dim=-1)
        loss = loss + (divergence * mask[:, None]).sum() / (heads * mask.sum())
    return loss


def _log_relation(first: Tensor, second: Tensor, mask: Tensor, heads: int) -> Tensor:
    """log R, `[batch, heads, length, length]`; that of padding is finite and so low that R is 0."""
    first, second = (vectors.unflatten(-1, (heads, -1)).transpose(1, 2) for vectors in (first, second))
    scores = first @ second.transpose(-1, -2) / first.shape[-1] ** 0.5
    hidden = mask[:, None, None, :] == 0
    return torch.log_softmax(scores.masked_fill(hidden, torch.finfo(scores.dtype).min), dim=-1)
