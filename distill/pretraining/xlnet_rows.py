"""The rows that XLNet reads: text of one or two segments with SEP behind each, and CLS at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

FIRST, SECOND, CLS_SEGMENT = range(3)


@dataclass(frozen=True)
class XLNetRow:
    """One row with its special tokens.

    Attributes:
        ids: of all tokens.
        segments: `token_type_ids`: 0 for the first segment with its SEP, 1 for the second with its own, 2 for CLS.
        text: the places of the tokens that are no special ones.
    """

    ids: list[int]
    segments: list[int]
    text: list[int]


def one_segment(ids: Sequence[int], sep: int, cls: int) -> XLNetRow:
    """`[text, SEP, CLS]`."""
    return XLNetRow([*ids, sep, cls], [FIRST] * (len(ids) + 1) + [CLS_SEGMENT], list(range(len(ids))))


def two_segments(first: Sequence[int], second: Sequence[int], sep: int, cls: int) -> XLNetRow:
    """`[A, SEP, B, SEP, CLS]` (Yang et al. 2019, §2.5)."""
    ahead = len(first) + 1
    return XLNetRow(
        [*first, sep, *second, sep, cls],
        [FIRST] * ahead + [SECOND] * (len(second) + 1) + [CLS_SEGMENT],
        [*range(len(first)), *range(ahead, ahead + len(second))],
    )


def cut_in_two(
    rows: Sequence[Sequence[int]], reused: int, groups: Sequence[range], draw: torch.Generator
) -> list[tuple[list[int], list[int]]]:
    """Each row's text as A and B: B follows A, or, in half of the rows on average, is of another row's document.

    The cut is anywhere behind the tokens that are remembered, which stay with A. Another row gives what stands at its
    end, at most as many tokens as it takes the place of. A row with fewer than two tokens behind those has no B.

    Args:
        rows: token ids of each.
        reused: how many first tokens of a row are remembered.
        groups: rows among which segments are exchanged: those that read in one direction.
        draw: a fixed number of draws for each row, whatever its length.
    """
    chances = torch.rand(len(rows), 3, generator=draw, dtype=torch.float64).tolist()
    parts = []
    for ids, (of_cut, _, _) in zip(rows, chances, strict=True):
        rest = len(ids) - reused
        cut = len(ids) if rest < 2 else reused + 1 + int(of_cut * (rest - 1))
        parts.append((list(ids[:cut]), list(ids[cut:])))
    exchanged = list(parts)
    for group in groups:
        for row in group:
            (first, second), (_, of_exchange, of_other) = parts[row], chances[row]
            if second and of_exchange < 0.5 and len(group) > 1:
                other = group[(row - group.start + 1 + int(of_other * (len(group) - 1))) % len(group)]
                taken = rows[other][reused:][-len(second) :]
                exchanged[row] = (first, list(taken) or second)
    return exchanged
