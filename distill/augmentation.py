"""Altered copies of training texts, for the teacher to label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from common.errors import InputError
from common.tokenization import Text
from distill.batches import tokens_of
from distill.training_data import TrainingData

MASKED = 0.1
CUT = 0.25
LONGEST_CUT = 5


def add_augmented(data: TrainingData, texts: Sequence[Text], copies: int, mask: str | None, seed: int) -> TrainingData:
    """The training data with altered copies of `texts` behind its rows, without labels.

    A copy is taken once, and not at all where it is to the model a text of train, dev or a table that is reported on.

    Raises:
        InputError: the tokenizer has no mask token.
    """
    mask = check_mask(mask)
    seen = {tokens_of(text) for text in (*data.train.encoded, *data.dev.encoded, *data.reported)}
    encoded = {tokens_of(text): text for text in data.encoder.encode(augmented(texts, copies, mask, seed))}
    new = [text for tokens, text in encoded.items() if tokens not in seen]
    return replace(data, train=replace(data.train, encoded=data.train.encoded + new))


def check_mask(mask: str | None) -> str:
    """The mask token.

    Raises:
        InputError: the tokenizer has none.
    """
    if mask is None:
        raise InputError("--augment hides words behind a mask, and the teacher's tokenizer has no mask token")
    return mask


def augmented(texts: Sequence[Text], copies: int, mask: str, seed: int) -> list[Text]:
    """`copies` altered copies of each text, by Tang et al. 2019 (arXiv 1903.12136), section 3.2.

    Each word becomes the mask with probability 0.1; after that, with probability 0.25, the text is cut down to an
    n-gram of its words, n drawn from 1 to 5. Of a pair the copies alter in turn the first text, the second, and both.
    The paper's third rule, to replace a word by one of the same part of speech, needs a tagger and is left out.

    What becomes of a row depends on the seed, its place and its text alone.
    """
    made: list[Text] = []
    for row, text in enumerate(texts):
        for copy in range(copies):
            draw = np.random.default_rng((seed, row, copy))
            if isinstance(text, tuple):
                first = text[0] if copy % 3 == 1 else _altered(text[0], mask, draw)
                second = text[1] if copy % 3 == 0 else _altered(text[1], mask, draw)
                made.append((first, second))
            else:
                made.append(_altered(text, mask, draw))
    return made


def _altered(text: str, mask: str, draw: np.random.Generator) -> str:
    words = [mask if draw.random() < MASKED else word for word in text.split()]
    if draw.random() < CUT:
        length = min(int(draw.integers(1, LONGEST_CUT + 1)), len(words))
        start = int(draw.integers(0, len(words) - length + 1))
        words = words[start : start + length]
    return " ".join(words)
