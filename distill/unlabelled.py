"""Texts without a label, which the teacher labels: read, and put behind the labelled rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from common.errors import InputError, shown
from common.examples import Columns, Examples, read_examples
from common.progress import say
from distill.batches import TokenizedSet, tokens_of
from distill.training_data import TrainingData, encode


def read_unlabelled(source: str, columns: Columns) -> Examples:
    """A table's texts alone.

    Raises:
        InputError: the table cannot be read, has a label column, no text column or no rows, or a row is bad (with its
            line number).
    """
    table = read_examples(source, columns, read_labels=False)
    if table.label_column is not None:
        raise InputError(
            f"{source} has a label column, '{shown(table.label_column)}', and the teacher labels these texts: take the "
            "column out, or put the rows into the training table"
        )
    return table


def add_unlabelled(
    data: TrainingData, table: Examples, train: Examples, vocabulary: int
) -> tuple[TrainingData, dict[str, Any]]:
    """The training data with the table's texts behind the labelled rows, and what the record keeps of the table.

    A text is taken once, and not at all where it is a training row, which the teacher answers as it is, or where dev,
    or a table that is reported on, has it: it would flatter the metric, even without its label. Two texts are the same
    where the model reads the same tokens, so case and spaces that it does not see do not count.

    Args:
        data: `train` and dev, tokenized.

    Raises:
        InputError: the texts do not go with `train` or with the model, or train and dev have all of them.
    """
    in_dev = {tokens_of(text) for text in (*data.dev.encoded, *data.reported)}
    encoded = encode(table, train, data.encoder, vocabulary)
    in_train = {tokens_of(text) for text in data.train.encoded}
    others = [row for row, text in enumerate(encoded) if tokens_of(text) not in in_dev]
    new = [row for row in others if tokens_of(encoded[row]) not in in_train]
    kept = list({tokens_of(encoded[row]): row for row in new}.values())
    if not kept:
        raise InputError(f"{table.source}: every text is in the dev table, which is not learned from, or in train")
    left_out = {
        "repeated": len(new) - len(kept),
        "in_train": len(others) - len(new),
        "in_dev": len(encoded) - len(others),
    }
    if any(left_out.values()):
        say(
            f"{table.source}: of {len(table):,} texts {left_out['repeated']:,} that are repeated, "
            f"{left_out['in_train']:,} that are training rows and {left_out['in_dev']:,} that are in the dev table are "
            "left out"
        )
    joined = TokenizedSet(
        data.train.encoded + [encoded[row] for row in kept],
        data.train.targets,
        [*data.train.places, *(table.places[row] for row in kept)],
    )
    return replace(data, train=joined), {**table.describe(), **left_out}
