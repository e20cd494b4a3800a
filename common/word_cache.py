"""BERT's tokenizing word by word, each word's pieces remembered.

The library takes some 100 µs for a sentence, beside a small student a good part of a core. But a BERT tokenizer cuts
each word by itself, and few words are new: their pieces come from the library the first time, and from a table after
that. What a text's special tokens, limits and types are stays the same.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from tokenizers import Tokenizer

# In ASCII, what BERT's rules leave together: letters and digits in a row; each other character stands alone.
_WORDS = re.compile(r"[a-z0-9]+|[^ a-z0-9]")
_CASED_WORDS = re.compile(r"[A-Za-z0-9]+|[^ A-Za-z0-9]")
# BERT's rules take these for spaces and every other control character for nothing.
_SPACES = str.maketrans("\t\n\r", "   ")
# Together at most some 20 MB. Longer words are rare, and whoever sends new ones without end gains nothing.
_MOST_WORDS = 65_536
_LONGEST_WORD = 40


@dataclass(frozen=True, slots=True)
class Template:
    """The special tokens around one text: `before + ids + behind`, all of type 0; with a second text, of type 1, its
    `ids + behind` follow."""

    before: list[int]
    behind: list[int]


class WordCache:
    """The pieces of a tokenizer's words.

    Attributes:
        template: what the tokenizer puts around a text.
    """

    def __init__(self, tokenizer: Tokenizer, template: Template, *, lowercase: bool, added: tuple[str, ...]):
        self.template = template
        self._tokenizer = tokenizer
        self._lowercase = lowercase
        self._added = added
        self._pieces: dict[str, list[int]] = {}

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> WordCache | None:
        """A cache for a tokenizer without truncation and padding; None unless it works by BERT's rules."""
        rules = json.loads(tokenizer.to_str())
        normalizer, added = rules["normalizer"] or {}, rules["added_tokens"]
        if (
            normalizer.get("type") != "BertNormalizer"
            or not normalizer["clean_text"]
            or (rules["pre_tokenizer"] or {}).get("type") != "BertPreTokenizer"
            or rules["model"].get("type") != "WordPiece"
            or any(token["normalized"] or token["single_word"] or token["lstrip"] or token["rstrip"] for token in added)
        ):
            return None
        template = _template(tokenizer)
        contents = tuple(token["content"] for token in added)
        return None if template is None else cls(tokenizer, template, lowercase=normalizer["lowercase"], added=contents)

    def ids(self, text: str) -> list[int] | None:
        """The ids of all the text's pieces, without special tokens; None where only the library itself can tell."""
        if not text.isprintable():
            text = text.translate(_SPACES)
            if not text.isprintable():
                return None
        if any(token in text for token in self._added):
            return None
        if not text.isascii():
            words = text.split(" ")
        elif self._lowercase:
            words = _WORDS.findall(text.lower())
        else:
            words = _CASED_WORDS.findall(text)
        pieces = self._pieces
        ids: list[int] = []
        for word in words:
            known = pieces.get(word)
            ids += self._new(word) if known is None else known
        return ids

    def _new(self, word: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(word, add_special_tokens=False).ids
        if len(word) <= _LONGEST_WORD:
            if len(self._pieces) >= _MOST_WORDS:
                self._pieces.clear()
            self._pieces[word] = ids
        return ids


def _template(tokenizer: Tokenizer) -> Template | None:
    """What the tokenizer puts around texts, if it is of BERT's shape."""
    one, empty = tokenizer.encode("a"), tokenizer.encode("")
    word = tokenizer.encode("a", add_special_tokens=False).ids
    if not word or word[0] not in one.ids:
        return None
    start = one.ids.index(word[0])
    template = Template(one.ids[:start], one.ids[start + len(word) :])
    pair = tokenizer.encode("a", "a")
    second = word + template.behind
    holds = (
        empty.ids == template.before + template.behind
        and one.ids == template.before + second
        and not any(one.type_ids)
        and pair.ids == one.ids + second
        and pair.type_ids == [0] * len(one.ids) + [1] * len(second)
    )
    return template if holds else None
