"""Factorisation orders and prediction targets of XLNet's permutation language modelling, and who sees whom in them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LONGEST_SPAN = 5
# Of spans of 1 to 5 tokens. The paper leaves the distribution open; this is the one of the authors' own code.
SPAN_SHARES = 1.0 / torch.arange(1.0, LONGEST_SPAN + 1)


def draw_targets(length: int, k: int, draw: torch.Generator) -> Tensor:
    """Which of some consecutive tokens are predicted, bool `[length]`: one in `k` on average.

    A span of L tokens, L from 1 to 5, at a random place in a context of k · L tokens, context after context (Yang et
    al. 2019, §3.1). What is left at the end for a last, shorter context has its share of targets on average.

    Args:
        k: K of the paper.
    """
    targets = torch.zeros(length, dtype=torch.bool)
    contexts = math.ceil(length / k)
    if contexts == 0:
        return targets
    spans = torch.multinomial(SPAN_SHARES, contexts, replacement=True, generator=draw) + 1
    chances = torch.rand(contexts, 2, generator=draw, dtype=torch.float64)
    begin = 0
    for span, (of_place, of_rounding) in zip(spans.tolist(), chances.tolist(), strict=True):
        context = k * span
        if begin + context > length:
            context = length - begin
            span = math.floor(context / k + of_rounding)
        start = begin + math.floor(of_place * (context - span + 1))
        targets[start : start + span] = True
        begin += context
        if begin == length:
            break
    return targets


def draw_places(parts: Tensor, context: Tensor, draw: torch.Generator) -> Tensor:
    """A random factorisation order for each row, as each token's place in it, float64 `[batch, length]`.

    The parts of a row come one after the other; in each of them its context, whose tokens share one place, comes before
    the others, whose order is uniform.

    Args:
        parts: which part of its row a token belongs to, int64 `[batch, length]`.
        context: which tokens are neither predicted nor functional, bool `[batch, length]`.
    """
    # Independent uniform numbers stand in a uniformly random order.
    times = torch.rand(parts.shape, generator=draw, dtype=torch.float64)
    return 2 * parts + torch.where(context, 0.0, 1 + times)


def hidden_pairs(places: Tensor, context: Tensor) -> Tensor:
    """XLNet's `perm_mask`, bool `[batch, length, length]`: whether token i (dim 1) may not see token j (dim 2).

    With z the order, the query stream at z_t sees z_<t (Yang et al. 2019, eqs. 3 and 4). The content stream sees itself
    too, for which the attention clears the diagonal. Tokens of one context see each other.

    Args:
        places, context: as in `draw_places`.
    """
    own = places + context.double()  # a context's place is 1 or more before the next one
    return places[:, None, :] >= own[:, :, None]
