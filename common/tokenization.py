"""Texts into token ids and padded batches: the one tokenizing path of training, export checks and serving."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from common.errors import InputError, TextError
from common.files import read_json
from common.word_cache import WordCache

# One text, or a pair of texts.
Text = str | tuple[str, str]

# A longer text is refused before it is tokenized: it would hold a worker for seconds and be truncated anyway.
MAX_TEXT_BYTES = 100_000
_SLICE_CHARACTERS = 500_000


# Families that number positions from pad_token_id + 1, so that their table holds as many fewer.
_POSITIONS_AFTER_PADDING = (
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod", "camembert", "data2vec-text"),
    *("ibert", "luke", "longformer", "mpnet", "esm"),
)

# Families whose head reads the first position.
HEAD_READS_FIRST = (
    *("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "mpnet", "deberta", "deberta-v2"),
    *("convbert", "mobilebert", "albert"),
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One tokenized text.

    Attributes:
        ids: token ids with the special tokens, at most `max_length`.
        type_ids: segment of each token.
        truncated: whether tokens were cut off.
    """

    ids: list[int]
    type_ids: list[int]
    truncated: bool

    @property
    def tokens(self) -> int:
        return len(self.ids)


def check_text(text: Any) -> None:
    """Refuses what cannot be classified.

    Raises:
        TextError: not a string or a pair of strings, empty, with a NUL character, not encodable as UTF-8 (half of a
            surrogate pair), or over `MAX_TEXT_BYTES`.
    """
    if isinstance(text, tuple):
        if len(text) != 2 or any(isinstance(part, tuple) for part in text):
            raise TextError("a pair must be of two strings")
        for part in text:
            check_text(part)
        return
    if text is None:
        raise TextError("no text")
    if not isinstance(text, str):
        raise TextError(f"a text must be a string, not {type(text).__name__}")
    if not text.strip():
        raise TextError("empty text")
    if "\0" in text:
        raise TextError("the text holds a NUL character")
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise TextError("the text holds half of a surrogate pair and is not valid Unicode") from None
    if size > MAX_TEXT_BYTES:
        raise TextError(f"the text has {size:,} bytes; the limit is {MAX_TEXT_BYTES:,}")


def characters_of(text: Any) -> int:
    """How long a text or a pair is; anything else counts as nothing."""
    if isinstance(text, tuple):
        return sum(map(characters_of, text))
    return len(text) if isinstance(text, str) else 0


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch without padding, its texts one behind the other.

    Attributes:
        input_ids, token_type_ids: int64 `[tokens]`.
        cu_seqlens: int32 `[texts + 1]`, where each text begins and the last one ends.
        max_length: of the longest text.
    """

    input_ids: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]
    cu_seqlens: NDArray[np.int32]
    max_length: int


def pack(encoded: Sequence[Encoded]) -> Packed:
    """The texts as one row of tokens."""
    lengths = [text.tokens for text in encoded]
    return Packed(
        np.concatenate([np.asarray(text.ids, np.int64) for text in encoded]),
        np.concatenate([np.asarray(text.type_ids, np.int64) for text in encoded]),
        np.cumsum([0, *lengths], dtype=np.int32),
        max(lengths),
    )


class TextEncoder:
    """A fast tokenizer with its length limit and padding fixed.

    The file's own truncation and padding are set aside: many published tokenizers pad every text to a fixed length.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        pad_id: int,
        pad_type_id: int,
        pad_left: bool,
        cut_left: bool = False,
    ):
        self.max_length = max_length
        self.pad_id = pad_id
        self.pad_type_id = pad_type_id
        self.pad_left = pad_left
        # A copy, since truncation is set on the tokenizer itself and the caller's may be saved later.
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_padding()
        special = self._tokenizer.num_special_tokens_to_add(True)
        if max_length <= special:
            raise InputError(
                f"a limit of {max_length} tokens leaves no room for a text beside {special} special tokens"
            )
        self._cut_left = cut_left
        self._whole = Tokenizer.from_str(self._tokenizer.to_str())
        self._whole.no_truncation()
        self._words = WordCache.of(self._whole)
        direction = "left" if cut_left else "right"
        self._tokenizer.enable_truncation(max_length, strategy="longest_first", direction=direction)

    @classmethod
    def load(cls, directory: Path, max_length: int | None = None) -> TextEncoder:
        """The tokenizer of a model's or bundle's directory (tokenizer.json, tokenizer_config.json, config.json).

        Args:
            max_length: tokens; by default what the directory says, at most the model's positions.

        Raises:
            InputError: no fast tokenizer is there, or its files cannot be read.
        """
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise InputError(f"{directory} has no tokenizer.json: a fast tokenizer is needed")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust library raises plain Exception
            raise InputError(f"{path} is not a tokenizer: {error}") from None
        config = read_json(directory / "config.json")
        settings_path = directory / "tokenizer_config.json"
        settings = read_json(settings_path) if settings_path.is_file() else {}
        limit = model_max_length(settings, config) if max_length is None else max_length
        positions = max_positions(config)
        token = settings.get("pad_token")
        name = token.get("content") if isinstance(token, dict) else token
        pad_id = tokenizer.token_to_id(name) if name else None
        if pad_id is None:
            pad_id = config.get("pad_token_id") or 0
        return cls(
            tokenizer,
            max_length=limit if positions is None else min(limit, positions),
            pad_id=pad_id,
            pad_type_id=int(settings.get("pad_token_type_id") or (3 if config.get("model_type") == "xlnet" else 0)),
            pad_left=pads_left(config.get("model_type"), settings.get("padding_side")),
            cut_left=settings.get("truncation_side") == "left",
        )

    @property
    def sha256(self) -> str:
        """Of all that decides about token ids and padded batches."""
        padding = f"{self.pad_id} {self.pad_type_id} {self.pad_left} {self._cut_left} "
        return hashlib.sha256(padding.encode() + self._tokenizer.to_str().encode()).hexdigest()

    @property
    def special_ids(self) -> set[int]:
        """The padding's id, and those of the tokens that were added to the vocabulary: [CLS], [MASK] and the like."""
        return {self.pad_id, *self._tokenizer.get_added_tokens_decoder()}

    def encode(self, texts: Sequence[Text]) -> list[Encoded]:
        """Token ids of checked texts, truncated to `max_length` (the longer text of a pair first)."""
        encoded = [self._encode_by_words(text) for text in texts]
        rest = [row for row, entry in enumerate(encoded) if entry is None]
        by_library = iter(self._encode_by_library([texts[row] for row in rest]) if rest else [])
        return [next(by_library) if entry is None else entry for entry in encoded]

    def _encode_by_words(self, text: Text) -> Encoded | None:
        """What the library would give, where each word's pieces are all that it takes; None otherwise."""
        if self._words is None:
            return None
        before, behind = self._words.template.before, self._words.template.behind
        if isinstance(text, tuple):
            first, second = self._words.ids(text[0]), self._words.ids(text[1])
            if first is None or second is None:
                return None
            ids = [*before, *first, *behind, *second, *behind]
            # Which text loses which tokens is the library's to say.
            if len(ids) > self.max_length:
                return None
            types = [0] * (len(ids) - len(second) - len(behind))
            return Encoded(ids, types + [1] * (len(ids) - len(types)), truncated=False)
        found = self._words.ids(text)
        if found is None:
            return None
        room = self.max_length - len(before) - len(behind)
        truncated = len(found) > room
        if truncated:
            found = found[-room:] if self._cut_left else found[:room]
        ids = [*before, *found, *behind]
        return Encoded(ids, [0] * len(ids), truncated)

    def _encode_by_library(self, texts: Sequence[Text]) -> list[Encoded]:
        encoded: list[Encoded] = []
        slice_: list[Text] = []
        characters = 0
        for text in texts:
            slice_.append(text)
            characters += characters_of(text)
            # The tokenizer keeps far more of a text than its ids, so it sees a bounded amount of text at a time.
            if characters > _SLICE_CHARACTERS:
                encoded += self._encode_slice(slice_)
                slice_, characters = [], 0
        return encoded + self._encode_slice(slice_)

    def _encode_slice(self, texts: Sequence[Text]) -> list[Encoded]:
        shortened = [self._shortened(text) for text in texts]
        return [
            Encoded(encoding.ids, encoding.type_ids, cut or bool(encoding.overflowing))
            for encoding, (_, cut) in zip(
                self._tokenizer.encode_batch_fast([text for text, _ in shortened]), shortened, strict=True
            )
        ]

    def _shortened(self, text: Text) -> tuple[Text, bool]:
        """The text without what is far beyond the limit, and whether that cut anything off.

        The tokenizer keeps every token that it cuts off, and for a pair every combination of the two texts' pieces:
        two long texts would take gigabytes.
        """
        parts = text if isinstance(text, tuple) else (text,)
        if all(len(part) <= 8 * self.max_length for part in parts):
            return text, False
        offsets = [self._whole.encode(part, add_special_tokens=False).offsets for part in parts]
        longest = max(map(len, offsets))
        shortest = min(map(len, offsets))
        kept = []
        for part, places in zip(parts, offsets, strict=True):
            # Which text of a pair is cut first depends on which is longer, so that must not change.
            count = 2 * self.max_length + (len(places) == longest > shortest)
            if len(places) > count:
                part = part[places[-count][0] :] if self._cut_left else part[: places[count][0]]
            kept.append(part)
        cut = tuple(kept) != parts
        return ((kept[0], kept[1]) if isinstance(text, tuple) else kept[0]), cut

    def pad(self, encoded: Sequence[Encoded], length: int = 0) -> dict[str, NDArray[np.int64]]:
        """`input_ids`, `attention_mask` and `token_type_ids`, each int64 `[batch, longest]`, or `[batch, length]` if
        that is more."""
        longest = max(length, *(text.tokens for text in encoded))
        ids = np.full((len(encoded), longest), self.pad_id, np.int64)
        types = np.full((len(encoded), longest), self.pad_type_id, np.int64)
        mask = np.zeros((len(encoded), longest), np.int64)
        for row, text in enumerate(encoded):
            columns = slice(longest - text.tokens, None) if self.pad_left else slice(0, text.tokens)
            ids[row, columns] = text.ids
            types[row, columns] = text.type_ids
            mask[row, columns] = 1
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def pads_left(model_type: str | None, padding_side: str | None) -> bool:
    """Whether texts are padded on the left, by where the family's head reads: XLNet's the last position, others' the
    first, which must not be padding. A family that is not known pads as its tokenizer says."""
    if model_type in HEAD_READS_FIRST:
        return False
    return model_type == "xlnet" or padding_side == "left"


def model_max_length(settings: dict[str, Any], config: dict[str, Any]) -> int:
    """The tokenizer's own limit, or 512 where it states none (transformers writes a huge number for none)."""
    limit = settings.get("model_max_length")
    if isinstance(limit, (int, float)) and 0 < limit < 1_000_000:
        return int(limit)
    return max_positions(config) or 512


def max_positions(config: dict[str, Any]) -> int | None:
    """How many positions the model can tell apart; None where it has no such limit (relative positions)."""
    positions = config.get("max_position_embeddings")
    if not positions or positions < 0:
        return None
    if config.get("model_type") in _POSITIONS_AFTER_PADDING:
        padding = config.get("pad_token_id")
        return int(positions) - (1 if padding is None else int(padding)) - 1
    return int(positions)
