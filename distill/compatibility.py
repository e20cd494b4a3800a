"""Whether a teacher, its record and the model that a student starts from mean the same by tokens and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.errors import InputError, shown
from common.labels import Task
from common.tokenization import Text, TextEncoder
from distill.models import load_tokenizer, make_encoder
from distill.sources import Source

# Where tokenizers of one vocabulary part: case, accents, punctuation, spaces, digits, other scripts.
_PROBES: tuple[Text, ...] = (
    *("Hello WORLD, it's e-mail!", "Ünïcödé café naïve", "a  b\tc", "12,345.67 $5", "日本語 テスト", "Привет"),
    ("First text.", "SECOND text?"),
)


def check_labels(teacher: Source, task: Task, record: dict[str, Any] | None) -> None:
    """The teacher's config must name the labels as they were when it was trained.

    Raises:
        InputError: its record has others, or another order.
    """
    trained = (record or {}).get("labels")
    if trained is not None and tuple(trained) != task.labels:
        raise InputError(
            f"'{teacher.name}' was trained with the labels {shown(', '.join(map(str, trained)), 80)}, and its "
            f"config.json has others, or another order: {shown(', '.join(task.labels), 80)}"
        )


def check_tokenizers(
    start: Source, teacher: Source, tokenizer: Any, config: Any, encoder: TextEncoder, texts: Sequence[Text]
) -> None:
    """The model that a student starts from must read texts as the teacher does; its weights mean nothing otherwise.

    Args:
        tokenizer, config, encoder: the teacher's.
        texts: some of the training table, which are read by both, as are texts of many kinds.

    Raises:
        InputError: the vocabularies differ, or the special tokens, or what becomes of a text.
    """
    if start.path == teacher.path:
        return
    other = load_tokenizer(start)
    names = f"'{start.name}' and the teacher '{teacher.name}'"
    if other.get_vocab() != tokenizer.get_vocab():
        raise InputError(f"{names} have different vocabularies")
    if other.all_special_ids != tokenizer.all_special_ids:
        raise InputError(f"{names} have different special tokens")
    read = make_encoder(other, config, encoder.max_length).encode
    for text in (*_PROBES, *texts):
        if read([text]) != encoder.encode([text]):
            raise InputError(f"{names} have one vocabulary but read a text differently: '{shown(text)}'")
