"""What a model is trained on: both tables as token ids and targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import InputError
from common.examples import Examples
from common.labels import Task
from common.progress import say
from common.tokenization import Encoded, TextEncoder
from distill.batches import TokenizedSet, tokens_of
from distill.label_scale import PLAIN, LabelScale


@dataclass(frozen=True)
class TrainingData:
    """Both tables, tokenized; unlabelled texts, where there are some, stand behind the labelled rows of `train`.

    Attributes:
        scale: in which the targets of `train` are numbers; those of `dev` are in the labels' own unit.
        reported: texts of further tables, which are never learned from, as those of `dev`.
    """

    train: TokenizedSet
    dev: TokenizedSet
    encoder: TextEncoder
    task: Task
    scale: LabelScale = PLAIN
    reported: Sequence[Encoded] = ()

    @property
    def words(self) -> set[int]:
        """The token ids that the model is given."""
        texts = (*self.train.encoded, *self.dev.encoded)
        return set().union(self.encoder.special_ids, *(text.ids for text in texts))

    @property
    def in_dev(self) -> int:
        """How many labelled rows have a text that is in `dev` to the model."""
        dev = {tokens_of(text) for text in self.dev.encoded}
        return sum(tokens_of(text) in dev for text in self.train.encoded[: len(self.train.targets)])

    def describe(self) -> dict[str, Any]:
        """What the record keeps of the training table, beside its name and hash."""
        return {"in_dev": self.in_dev, **self.scale.describe()}


def tokenize(train: Examples, dev: Examples, task: Task, encoder: TextEncoder, vocabulary: int) -> TrainingData:
    """Both tables as token ids and targets.

    Raises:
        InputError: the tables mix single texts and pairs, a dev label is none of the task's (with its line), or the
            tokenizer knows more tokens than the model.
    """
    encoded, dev_encoded = (encode(table, train, encoder, vocabulary) for table in (train, dev))
    targets = task.targets(train.labels, train.places)
    scale = LabelScale.of(targets, task.problem_type)
    data = TrainingData(
        TokenizedSet(encoded, scale.standardized(targets), train.places),
        TokenizedSet(dev_encoded, task.targets(dev.labels, dev.places), dev.places),
        encoder,
        task,
        scale,
    )
    if data.in_dev:
        say(f"{data.in_dev:,} training rows have a text that the dev table has; they are learned, which flatters dev")
    return data


def encode(table: Examples, train: Examples, encoder: TextEncoder, vocabulary: int) -> list[Encoded]:
    """The token ids of a table that is used with `train`.

    Raises:
        InputError: one has pairs and the other single texts, or the tokenizer knows more tokens than the model.
    """
    if isinstance(train.texts[0], tuple) != isinstance(table.texts[0], tuple):
        raise InputError(f"{train.source} and {table.source}: one has pairs of texts, the other single texts")
    encoded = encoder.encode(table.texts)
    highest = max(max(text.ids) for text in encoded)
    if highest >= vocabulary:
        raise InputError(
            f"the tokenizer gives the token {highest}, the model has {vocabulary} of them: they do not fit"
        )
    return encoded
