"""A part of the training table set aside to choose by, so that the dev table is left to report."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.examples import Columns, Examples
from common.files import durable_file
from common.labels import SINGLE_LABEL, Task


def split_train(
    train: Examples, columns: Columns, task: Task, share: float, directory: Path, *, copies_together: bool = False
) -> tuple[Path, Path]:
    """Writes the two parts of a table, to train on and to choose by, as JSON Lines; the same each time.

    For one label a text, each label has its share in both parts; a label of a single row stays in the first.

    Args:
        columns: of the table, which are the parts' too.
        share: of the rows in the second part, between 0 and 1.
        copies_together: whether rows of one text, whatever its case and spaces, go to the same part, so that nothing is
            chosen by texts that were learned from; `share` is then of the texts.

    Raises:
        InputError: there are too few rows.
    """
    from sklearn.model_selection import train_test_split

    keys = [_without_case_and_spaces(text) if copies_together else row for row, text in enumerate(train.texts)]
    first: dict[Any, int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    counts = Counter(train.labels[row] for row in first.values())
    stratified = task.problem_type == SINGLE_LABEL
    rows = [row for row in first.values() if counts[train.labels[row]] > 1 or not stratified]
    labels = [train.labels[row] for row in rows]
    try:
        _, chosen = train_test_split(rows, test_size=share, random_state=0, stratify=labels if stratified else None)
    except ValueError:
        raise InputError(
            f"{train.source} has too few rows to hold {share:g} of them out, each label in both parts"
        ) from None
    texts_aside = set(chosen)
    aside = {row for row, key in enumerate(keys) if first[key] in texts_aside}
    names = (columns.text or "text", columns.pair or "text_pair", columns.label or "label")
    directory.mkdir(exist_ok=True)
    parts = []
    for name, part in (("train", set(range(len(train))) - aside), ("holdout", aside)):
        parts.append(directory / f"{name}.jsonl")
        with durable_file(parts[-1]) as path:
            path.write_text("".join(_line(train, row, names) for row in sorted(part)), encoding="utf-8")
    return parts[0], parts[1]


def _without_case_and_spaces(text: Any) -> tuple[str, ...]:
    return tuple(" ".join(part.casefold().split()) for part in (text if isinstance(text, tuple) else (text,)))


def _line(table: Examples, row: int, names: tuple[str, str, str]) -> str:
    text: Any = table.texts[row]
    texts = text if isinstance(text, tuple) else (text,)
    fields = {**dict(zip(names, texts, strict=False)), names[2]: table.labels[row]}
    return json.dumps(fields, ensure_ascii=False) + "\n"
