"""A batch's rows in groups of like length: padding costs an encoder as much as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Positions that a group has at least: below, starting a group's operations takes longer than its padding would.
ON_CPU, ELSEWHERE = 1_024, 32_768
# Share of a batch's positions that are text, from which on there is too little padding to save any.
_FULL = 0.9


def length_groups(lengths: Sequence[int], fewest: int) -> list[list[int]]:
    """Row numbers by group, the longest rows first.

    A batch of no more than `fewest` positions stays as it is, and so does one with hardly any padding.

    Args:
        lengths: of the rows, in tokens, from 1.
        fewest: positions, with padding, of each group but the last.
    """
    positions = len(lengths) * max(lengths)
    if positions <= fewest or sum(lengths) >= _FULL * positions:
        return [list(range(len(lengths)))]
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    groups = []
    while order:
        count = -(-fewest // lengths[order[0]])
        groups.append(order[:count])
        order = order[count:]
    return groups


def batch_groups(lengths: Tensor, longest: int) -> list[list[int]]:
    """`length_groups` of a batch, as many positions each as pays on its device; one where it is best read at once.

    Args:
        lengths: of the rows, int64 `[batch]`.
        longest: positions of a row, with padding.
    """
    fewest = ON_CPU if lengths.device.type == "cpu" else ELSEWHERE
    if len(lengths) * longest <= fewest:
        # Not asked of another device, which takes a while to answer.
        return [list(range(len(lengths)))]
    return length_groups(lengths.tolist(), fewest)


def last_states(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The last layer's states, `[batch, length, width]`, zero at positions that the encoder need not have read.

    Args:
        model: a transformers encoder without a head.
        inputs: its tensors, each `[batch, length]`, padded on either side, with `attention_mask` among them.
    """
    mask = inputs["attention_mask"]
    groups = batch_groups(mask.sum(dim=1), mask.shape[1])
    if len(groups) == 1:
        whole: Tensor = model(**inputs).last_hidden_state
        return whole
    parts = [_group_states(model, {name: value[rows] for name, value in inputs.items()}) for rows in groups]
    places = torch.tensor([row for rows in groups for row in rows], device=mask.device).argsort()
    return torch.cat(parts)[places]


def _group_states(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """As `last_states`, of one group: the columns that are padding in all of its rows are left out."""
    length = inputs["attention_mask"].shape[1]
    columns = inputs["attention_mask"].any(dim=0).nonzero()
    start, stop = int(columns[0]), int(columns[-1]) + 1
    states = model(**{name: value[:, start:stop] for name, value in inputs.items()}).last_hidden_state
    return torch.nn.functional.pad(states, (0, 0, start, length - stop))
