"""Tokenizers trained on a corpus: BERT's WordPiece and XLNet's Unigram, with their families' special tokens."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from common.errors import InputError, UnderstudyError, first_line

# A tokenizer learns from so much of a corpus, from its beginning.
TRAINING_CHARACTERS = 2**28
# A longer line is encoded piece by piece: a token takes a hundred bytes while it is.
_PIECE_CHARACTERS = 2**17

Texts = Callable[[], Iterable[str]]

_BERT = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
# In the order of the published checkpoints' vocabularies; the last two stand in no text here.
_XLNET = {
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "cls_token": "<cls>",
    "sep_token": "<sep>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
_XLNET_ENDS = ["<eod>", "<eop>"]


def train_tokenizer(family: str, texts: Texts, vocabulary: int, *, cased: bool) -> Tokenizer:
    """A tokenizer of at most `vocabulary` tokens, made for `family`: `bert` or `xlnet`.

    A quarter of the tokens may be single characters; rarer ones are unknown to it.

    Args:
        texts: gives the lines of the corpus, each time it is asked; those beyond `TRAINING_CHARACTERS` are not read.

    Raises:
        InputError: the corpus cannot be read, or does not do.
    """
    normalizer = _xlnet_normalizer(cased) if family == "xlnet" else normalizers.BertNormalizer(lowercase=not cased)
    try:
        lines = _without_rare(texts, normalizer, vocabulary // 4)
        return (
            _unigram(lines, normalizer, vocabulary) if family == "xlnet" else _word_piece(lines, normalizer, vocabulary)
        )
    except UnderstudyError:
        raise
    except Exception as error:  # the Rust library raises plain Exception
        raise InputError(f"no tokenizer can be trained on this corpus: {first_line(error)}") from None


def as_transformers(trained: Tokenizer, family: str, max_length: int) -> PreTrainedTokenizerFast:
    """What `train_tokenizer` gave, with all that a model of `family` needs to be told of it.

    Args:
        max_length: tokens a text.
    """
    names, side = (_BERT, "right") if family == "bert" else (_XLNET, "left")
    return PreTrainedTokenizerFast(
        tokenizer_object=trained,
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        padding_side=side,
        **names,
    )


def text_encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    """A function from a line to its token ids, none of them special, whatever the line holds.

    Args:
        tokenizer: a fast one of transformers; it stays as it is.
    """
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    backend.encode_special_tokens = True
    unknown = tokenizer.unk_token_id
    # In a Unigram they are pieces like others.
    special = set(tokenizer.all_special_ids) - {unknown}

    def encode(line: str) -> list[int]:
        if len(line) > _PIECE_CHARACTERS:
            return [token for piece in _pieces(line) for token in encode(piece)]
        ids: list[int] = backend.encode(line, add_special_tokens=False).ids
        return ids if special.isdisjoint(ids) else [unknown if token in special else token for token in ids]

    return encode


def _word_piece(lines: Texts, normalizer: Any, vocabulary: int) -> Tokenizer:
    """BERT's."""

    def trained(special: list[str]) -> Tokenizer:
        tokenizer = Tokenizer(models.WordPiece(unk_token=_BERT["unk_token"]))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
        tokenizer.train_from_iterator(lines(), trainer)
        return tokenizer

    special = list(_BERT.values())
    # The trainer numbers characters inside words as it finds them, in no fixed order, and chooses between pairs that
    # are equally frequent by number. Given beforehand, they have the same numbers each time.
    inside = sorted(token for token in trained(special).get_vocab() if token.startswith("##") and len(token) == 3)
    tokenizer = trained([*special, *inside])
    vocab = tokenizer.get_vocab(with_added_tokens=False)
    final = Tokenizer(models.WordPiece(vocab, unk_token=_BERT["unk_token"]))
    final.normalizer, final.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    final.decoder = decoders.WordPiece()
    final.add_special_tokens(special)
    cls, sep = ((name, vocab[name]) for name in (_BERT["cls_token"], _BERT["sep_token"]))
    single = f"{cls[0]}:0 $A:0 {sep[0]}:0"
    final.post_processor = processors.TemplateProcessing(
        single=single, pair=f"{single} $B:1 {sep[0]}:1", special_tokens=[cls, sep]
    )
    return final


def _unigram(lines: Texts, normalizer: Any, vocabulary: int) -> Tokenizer:
    """XLNet's."""
    special = [*_XLNET.values(), *_XLNET_ENDS]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary, special_tokens=special, unk_token=_XLNET["unk_token"], show_progress=False
    )
    tokenizer.train_from_iterator(lines(), trainer)
    pieces = [tuple(piece) for piece in json.loads(tokenizer.to_str())["model"]["vocab"]]
    tokenizer.model = models.Unigram(_in_order(pieces, special), unk_id=special.index(_XLNET["unk_token"]))
    cls, sep = ((name, special.index(name)) for name in (_XLNET["cls_token"], _XLNET["sep_token"]))
    single = f"$A:0 {sep[0]}:0"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{single} {cls[0]}:2", pair=f"{single} $B:1 {sep[0]}:1 {cls[0]}:2", special_tokens=[cls, sep]
    )
    return tokenizer


def _in_order(pieces: list[tuple[str, float]], special: list[str]) -> list[tuple[str, float]]:
    """A Unigram's pieces and scores as they would be had the trainer, which adds up in no fixed order, a fixed one.

    Characters that it had to keep stand at the end, each a ten-thousandth above the one before, whichever that was.
    """
    scores = {piece: score for piece, score in pieces if piece not in special}
    lowest = min(scores.values())
    for piece, score in scores.items():
        above = (score - lowest) / 1e-4
        forced = len(piece) == 1 and above < len(pieces) and abs(above - round(above)) < 1e-6
        scores[piece] = round(lowest if forced else score, 6)
    ordered = sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))
    return [*((name, 0.0) for name in special), *ordered]


def _xlnet_normalizer(cased: bool) -> Any:
    """As transformers turns XLNet's SentencePiece models into fast tokenizers."""
    steps = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"'), normalizers.NFKD()]
    steps += [normalizers.StripAccents(), *([] if cased else [normalizers.Lowercase()])]
    steps += [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    return normalizers.Sequence(steps)


def _without_rare(texts: Texts, normalizer: Any, kept: int) -> Texts:
    """The texts, normalized, with all but their `kept` most frequent characters blank."""
    counts: Counter[str] = Counter()
    for piece in _beginning(texts()):
        counts.update(normalizer.normalize_str(piece))
    frequent = sorted(counts, key=lambda character: (-counts[character], character))
    blank = dict.fromkeys(map(ord, frequent[kept:]), " ")
    return lambda: (normalizer.normalize_str(piece).translate(blank) for piece in _beginning(texts()))


def _beginning(lines: Iterable[str]) -> Iterator[str]:
    left = TRAINING_CHARACTERS
    for line in lines:
        if left <= 0:
            return
        left -= len(line)
        yield from _pieces(line)


def _pieces(line: str) -> Iterator[str]:
    """The line, cut at spaces where it is long (and anywhere where it has none)."""
    while len(line) > _PIECE_CHARACTERS:
        end = line.rfind(" ", 1, _PIECE_CHARACTERS)
        end = _PIECE_CHARACTERS if end < 0 else end
        yield line[:end]
        line = line[end:]
    yield line
