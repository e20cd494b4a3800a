"""N-grams of whole words, in rows of sub-words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch

from common.errors import InputError

# Words of an n-gram: drawn from N(5, 1) and clipped (InfoWord, arXiv 1910.08350, section 5).
MEAN, DEVIATION = 5.0, 1.0
SHORTEST, LONGEST = 1, 10


class Words:
    """Where a tokenizer's words begin, told from the token ids alone.

    Attributes:
        special: ids that stand for no text: all special tokens but the unknown word.
    """

    def __init__(self, tokenizer: Any):
        """
        Args:
            tokenizer: a transformers tokenizer.

        Raises:
            InputError: its tokens do not say where a word begins.
        """
        self.special = frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        vocabulary = tokenizer.get_vocab()
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        kind, cut = rules["model"]["type"], json.dumps(rules["pre_tokenizer"])
        if kind == "WordPiece":
            inside = rules["model"]["continuing_subword_prefix"]
            begins = {token for token in vocabulary if not token.startswith(inside)}
        elif kind == "WordLevel":
            begins = set(vocabulary)
        elif "Metaspace" in cut or "ByteLevel" in cut:
            first = "▁" if "Metaspace" in cut else "Ġ"
            begins = {token for token in vocabulary if token.startswith(first)}
        else:
            raise InputError(
                f"n-grams need whole words, and the tokens of this {kind} tokenizer do not tell them apart"
            )
        self._begins = frozenset(vocabulary[token] for token in begins)

    def of(self, ids: Sequence[int]) -> list[range]:
        """The words of a row in their order, each as its places in the row; special tokens belong to none.

        What stands first, or behind a special token, begins a word, though it may be the rest of one.
        """
        words: list[range] = []
        for place, token in enumerate(ids):
            if token in self.special:
                continue
            if words and words[-1].stop == place and token not in self._begins:
                words[-1] = range(words[-1].start, place + 1)
            else:
                words.append(range(place, place + 1))
        return words


def draw_ngrams(words: Sequence[range], share: float, draw: torch.Generator) -> list[range]:
    """N-grams that do not overlap, drawn until `share` of the sub-words is spent; the last one is kept whole.

    One word stays outside them at least, so that the sentence without them says something. Where no n-gram of the
    length that was drawn has room, the longest that has is taken.

    Args:
        words: `Words.of` a row.

    Returns:
        The places of each, neighbouring words' together.
    """
    budget = share * sum(map(len, words))
    free = [True] * len(words)
    ngrams: list[range] = []
    while sum(map(len, ngrams)) < budget and (left := sum(free) - 1) > 0:
        room = _room(words, free)
        drawn = round(MEAN + DEVIATION * torch.randn((), generator=draw).item())
        size = min(max(drawn, SHORTEST), LONGEST, left, max(room))
        starts = [word for word, count in enumerate(room) if count >= size]
        first = starts[int(torch.randint(len(starts), (), generator=draw))]
        ngrams.append(range(words[first].start, words[first + size - 1].stop))
        free[first : first + size] = [False] * size
    return ngrams


def _room(words: Sequence[range], free: Sequence[bool]) -> list[int]:
    """How many words, from each one on, are free and follow each other without a special token between them."""
    room = [int(is_free) for is_free in free]
    for word in range(len(words) - 2, -1, -1):
        if free[word] and words[word].stop == words[word + 1].start:
            room[word] += room[word + 1]
    return room
