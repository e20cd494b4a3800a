"""Students: fewer of a model's layers, and where asked less of its width, that start as what they are taken from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from common.errors import InputError
from common.labels import Task
from distill.label_scale import PLAIN, LabelScale
from distill.models import has_fresh_output, layer_prefix, load_config, load_with_fresh, untrained_classifier
from distill.sources import Source

# What the config calls the width of the feed-forward layers, in families that need nothing else changed for another
# hidden size.
_INNER_SIZES = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra", "mpnet"), "intermediate_size"),
    "distilbert": "hidden_dim",
    "xlnet": "d_inner",
}


def make_student(
    config: Any,
    source: Source,
    layers: tuple[int, ...],
    seed: int,
    *,
    scale: LabelScale = PLAIN,
    width: int | None = None,
    heads: int | None = None,
) -> PreTrainedModel:
    """A student whose layer j starts as the source's layer `layers[j - 1]`.

    Embeddings and pooler come from the source too, and the head where the source has one (a fine-tuned teacher does, a
    pre-trained model does not); the rest is fresh, drawn from `seed`. A narrower student starts as the first `width`
    coordinates of all that, and with heads of the source's width as its first heads: each weight is cut to its shape.

    Args:
        config: the teacher's config.
        scale: in which the student is to answer; a head of the source's answers in the labels' unit.
        width, heads: as in `narrow_config`.

    Raises:
        InputError: the source's weights do not fit the teacher's architecture, its head has other labels than the
            teacher's, or the width or the heads will not do.
    """
    own_config = load_config(source)
    labels = Task.from_config(own_config.to_dict()).labels
    whole, fresh = load_with_fresh(source, _with_labels_of(config, own_config))
    head = {name for name in whole.state_dict() if not name.startswith(f"{whole.base_model_prefix}.")}
    if not head & fresh and labels != Task.from_config(config.to_dict()).labels:
        raise InputError(f"'{source.name}' is a classifier whose labels, or their order, are not the teacher's")
    prefix = layer_prefix(whole, whole.config.num_hidden_layers)
    moved = {f"{prefix}.{old - 1}.": f"{prefix}.{new}." for new, old in enumerate(layers)}
    state: dict[str, Tensor] = {}
    for name, weight in whole.state_dict().items():
        if name in fresh:
            continue
        if name.startswith(prefix + "."):
            place = name[: name.index(".", len(prefix) + 1) + 1]
            if place in moved:
                state[moved[place] + name[len(place) :]] = weight
        else:
            state[name] = weight
    student_config = narrow_config(config, width, heads)
    student_config.num_hidden_layers = len(layers)
    torch.manual_seed(seed)
    student = untrained_classifier(student_config)
    own = student.state_dict()
    for name, weight in state.items():
        if name in own and width is not None:
            state[name] = weight = weight[tuple(map(slice, own[name].shape))]
        if name not in own or own[name].shape != weight.shape:
            raise InputError(f"'{source.name}' does not fit the teacher: {name} differs in shape or is not there")
    student.load_state_dict(state, strict=False)
    if not has_fresh_output(whole, fresh):
        scale.unfold(student)
    return student


def narrow_config(config: Any, width: int | None, heads: int | None) -> Any:
    """A copy of the teacher's config with another hidden size; the feed-forward layers keep their ratio to it.

    Args:
        width: the hidden size; None takes the teacher's.
        heads: attention heads; None takes as many of the teacher's width as there is room for.

    Raises:
        InputError: a width that is not below the teacher's or cannot be split into the heads, heads without a width, or
            a family in which more depends on the width.
    """
    narrow = type(config).from_dict(config.to_dict())
    if width is None:
        if heads is not None:
            raise InputError("--heads is of use with --width alone")
        return narrow
    if config.model_type not in _INNER_SIZES:
        known = ", ".join(_INNER_SIZES)
        raise InputError(f"narrower students of type '{config.model_type}' are not supported; of these: {known}")
    if width >= config.hidden_size:
        raise InputError(f"the student must be narrower than the teacher, whose width is {config.hidden_size}: {width}")
    heads = heads or max(1, width * config.num_attention_heads // config.hidden_size)
    inner = _INNER_SIZES[config.model_type]
    if width % heads:
        raise InputError(f"a width of {width} cannot be split into {heads} heads: choose another --width or --heads")
    narrow.hidden_size, narrow.num_attention_heads = width, heads
    setattr(narrow, inner, max(1, getattr(config, inner) * width // config.hidden_size))
    if config.model_type == "xlnet":
        narrow.d_head = width // heads
    return narrow


def _with_labels_of(config: Any, other: Any) -> Any:
    """`other` with the head of `config`, so that a pre-trained model loads with a head of the right size."""
    other.num_labels = config.num_labels
    other.id2label = dict(config.id2label)
    other.label2id = dict(config.label2id)
    other.problem_type = config.problem_type
    return other
