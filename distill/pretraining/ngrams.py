"""N-grams of whole words, in rows of sub-words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from common.errors import InputError

# Words of an n-gram: drawn from N(5, 1) and clipped (InfoWord, arXiv 1910.08350, section 5).
MEAN, DEVIATION = 5.0, 1.0
SHORTEST, LONGEST = 1, 10

# What a token is to its word.
_INSIDE, _FIRST, _SPECIAL = range(3)


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
        self._kinds = np.full(max(vocabulary.values()) + 1, _INSIDE)
        self._kinds[[vocabulary[token] for token in begins]] = _FIRST
        self._kinds[list(self.special)] = _SPECIAL

    def of(self, ids: Sequence[int]) -> list[range]:
        """The words of a row in their order, each as its places in the row; special tokens belong to none.

        What stands first, or behind a special token, begins a word, though it may be the rest of one.
        """
        kinds = self._kinds[np.asarray(ids, np.int64)]
        before = np.concatenate(([_SPECIAL], kinds[:-1])) if len(kinds) else kinds
        is_text = kinds != _SPECIAL
        starts = is_text & ((kinds == _FIRST) | (before == _SPECIAL))
        # A word ends where the next begins, or a special token stands.
        bounds = [*np.flatnonzero(starts | ~is_text).tolist(), len(kinds)]
        return [range(start, end) for start, end in pairwise(bounds) if is_text[start]]


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
    room = _room(words)
    left, spent = len(words) - 1, 0
    ngrams: list[range] = []
    while spent < budget and left > 0:
        drawn = round(MEAN + DEVIATION * torch.randn((), generator=draw).item())
        size = min(max(drawn, SHORTEST), LONGEST, left, max(room))
        starts = [word for word, count in enumerate(room) if count >= size]
        first = starts[int(torch.randint(len(starts), (), generator=draw))]
        ngrams.append(range(words[first].start, words[first + size - 1].stop))
        room[first : first + size] = [0] * size
        for word in range(first - 1, -1, -1):
            if room[word] <= first - word:
                break
            room[word] = first - word
        left, spent = left - size, spent + len(ngrams[-1])
    return ngrams


def _room(words: Sequence[range]) -> list[int]:
    """How many words, from each one on, follow each other without a special token between them."""
    room = [1] * len(words)
    for word in range(len(words) - 2, -1, -1):
        if words[word].stop == words[word + 1].start:
            room[word] += room[word + 1]
    return room
